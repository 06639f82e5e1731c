"""What pages show of nodes: formatted numbers, and numbers for graphs of the last minutes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.admin.utils import quote

from ...engine import Cluster
from ...engine.topology.sentinel import SentinelTopology
from ...management.base import NodeName
from ...management.looks import Look, NodeRow
from ...management.status import NodeStatus, Totals, sum_up

# The number of different colours of nodes.
COLOURS = 8


@dataclass(frozen=True)
class Part:
    """A part of a bar of 100; numbers are strings, so that locales do not change them."""

    start: str
    width: str
    colour: int
    label: str


@dataclass(frozen=True)
class NodeView:
    """A node for the templates.

    Attributes:
        row: its state.
        name: as in "default.0".
        colour: the number of its colour in the bars of its cluster.
        filled: how full its memory is, from 0 to 100; None without a limit.
    """

    row: NodeRow
    name: str
    colour: int
    filled: int | None

    @property
    def host_id(self) -> int:
        """Its host id."""
        return self.row.name[1]

    @property
    def status(self) -> NodeStatus:
        """Its status."""
        return self.row.status

    @property
    def sample(self) -> str:
        """Its current numbers, as JSON for the page's script."""
        status = self.status
        return json.dumps(
            {
                "ops": status.ops_per_second,
                "memory": status.memory_used,
                "keys": status.keys,
                "hits": status.hits,
                "misses": status.misses,
                "evictions": status.evictions,
                "clients": status.clients,
                "ping": status.ping and status.ping.median,
            }
        )


@dataclass(frozen=True)
class ClusterView:
    """A cluster for the templates.

    Attributes:
        keys, memory: the nodes' shares of the total.
    """

    alias: str
    kind: str
    nodes: Sequence[NodeView]
    totals: Totals
    filled: int | None
    keys: Sequence[Part]
    memory: Sequence[Part]

    @property
    def answered(self) -> int:
        """How many nodes answered."""
        return sum(node.status.error is None for node in self.nodes)

    @property
    def has_slots(self) -> bool:
        """Whether the nodes are those of a Redis Cluster."""
        return any(node.row.slots is not None for node in self.nodes)


def node_name(node: NodeName) -> str:
    """Return a node's name in the admin's log: ``default.0``."""
    alias, host_id = node
    return f"{alias}.{host_id}"


def in_address(name: str) -> str:
    """Return the name of a node for URLs."""
    return str(quote(name))


def view_clusters(look: Look, chosen: Mapping[str, Cluster]) -> list[ClusterView]:
    """Return the clusters of a look."""
    return [_view(chosen[alias], alias, rows) for alias, rows in look.clusters.items()]


def _view(cluster: Cluster, alias: str, rows: Sequence[NodeRow]) -> ClusterView:
    totals = sum_up(row.status for row in rows)
    nodes = [
        NodeView(
            row,
            node_name(row.name),
            number % COLOURS,
            _filled(row.status.memory_used, row.status.memory_limit),
        )
        for number, row in enumerate(rows)
    ]
    return ClusterView(
        alias,
        _kind_of(cluster),
        nodes,
        totals,
        _filled(totals.memory_used, totals.memory_limit),
        _parts(nodes, "keys"),
        _parts(nodes, "memory_used"),
    )


def _kind_of(cluster: Cluster) -> str:
    if isinstance(cluster.layout, SentinelTopology):
        return "monitored by Sentinels"
    return "Redis Cluster" if cluster.router.has_slots else "independent nodes"


def _filled(used: int | None, limit: int | None) -> int | None:
    return None if used is None or not limit else min(100, round(100 * used / limit))


def _parts(nodes: Sequence[NodeView], name: str) -> list[Part]:
    shares: list[tuple[NodeView, int]] = [
        (node, getattr(node.status, name) or 0) for node in nodes
    ]
    total, start, parts = sum(share for _, share in shares), 0.0, []
    for node, share in shares:
        if total and share:
            width = 100 * share / total
            label = f"node {node.host_id}: {width:.0f} %"
            parts.append(Part(f"{start:.2f}", f"{width:.2f}", node.colour, label))
            start += width
    return parts


def info_sections(info: bytes) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the fields of INFO, by its own headings.

    https://valkey.io/commands/info/
    """
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    for line in info.decode(errors="replace").splitlines():
        if line.startswith("#"):
            sections.append((line.lstrip("# "), []))
        elif sections and ":" in line:
            name, _, value = line.partition(":")
            sections[-1][1].append((name, value))
    return sections


def replicas_of(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a primary reports of its replicas: ip, port, state, offset, lag."""
    return [
        value
        for name, value in info.items()
        if name.startswith("slave") and isinstance(value, Mapping)
    ]
