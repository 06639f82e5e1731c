"""The state of all nodes at one time: their replies, and what this process knows of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engine import Cluster
from ..engine.nodes.health import NodeHealth
from .base import NodeName, at_once
from .primaries import fetch_since, seen_since, source_of
from .slots import SlotsStatus, fetch_slots
from .status import NodeStatus, fetch_status, read_status, sum_up
from .warming import Warming, fetch_warmings


@dataclass(frozen=True)
class NodeRow:
    """A node, its status, and its health for this process.

    Attributes:
        said_by: the source of the information that it is the primary of its shard; None for
            the settings.
        primary_since: Unix time since which it is known to be the primary, which may have been
            earlier; None if neither a Sentinel nor this process has seen it as one.
    """

    name: NodeName
    address: str
    database: int
    status: NodeStatus
    health: NodeHealth
    slots: SlotsStatus | None = None
    said_by: str | None = None
    primary_since: float | None = None

    @property
    def word(self) -> str:
        """Its health in one word. A node that refuses to answer is reachable, but unusable."""
        if self.status.error is not None and self.health.state == "up":
            return "error"
        return self.health.state


@dataclass(frozen=True)
class Look:
    """The state of all nodes of all clusters, at one time (Unix time)."""

    time: float
    clusters: Mapping[str, Sequence[NodeRow]]
    warmings: Sequence[Warming] = ()

    @property
    def nodes(self) -> list[NodeRow]:
        """The nodes of all clusters."""
        return [node for nodes in self.clusters.values() for node in nodes]

    @property
    def errors(self) -> dict[NodeName, str]:
        """The errors by node."""
        return {n.name: n.status.error for n in self.nodes if n.status.error is not None}


def take_look(chosen: Mapping[str, Cluster], timeout: float | None) -> Look:
    """Ask all nodes of all clusters in parallel, for at most `timeout` seconds."""
    # In threads, as an event loop may be running in this one.
    began = time.time()
    tasks: dict[str, Callable[[], Any]] = {
        "said": lambda: asyncio.run(fetch_status(chosen, timeout)),
        "slots": lambda: fetch_slots(chosen, timeout),
        "since": lambda: fetch_since(chosen, timeout),
    }
    outcomes: dict[str, Any] = at_once(tasks)
    for outcome in outcomes.values():
        if isinstance(outcome, Exception):
            raise outcome
    said, errors = outcomes["said"]
    clusters = {}
    for alias, cluster in chosen.items():
        nodes, health = cluster.nodes, cluster.health()
        rows = clusters[alias] = list[NodeRow]()
        for host_id, node in nodes.items():
            info, name = node.info, (alias, host_id)
            if host_id not in health:  # it has just left the Redis Cluster
                continue
            if name in said:
                status = read_status(said[name], cluster.prototype, info.db)
            elif name in errors:
                status = NodeStatus(error=str(errors[name]))
            else:  # it has joined a Redis Cluster since the others were asked
                continue
            address = info.address.rpartition("/")[0]
            slots = outcomes["slots"].get(name)
            since = outcomes["since"].get(name) or seen_since(cluster, host_id, began)
            rows.append(
                NodeRow(
                    name,
                    address,
                    info.db,
                    status,
                    health[host_id],
                    slots,
                    source_of(cluster, host_id),
                    since,
                )
            )
    return Look(time.time(), clusters, fetch_warmings(chosen))


def document_of(look: Look) -> dict[str, Any]:
    """Return the JSON document of --format json."""
    return {
        "time": look.time,
        "nodes": [
            {
                "cluster": node.name[0],
                "host_id": node.name[1],
                "address": node.address,
                "database": node.database,
                "health": {
                    "state": node.health.state,
                    "failures": node.health.failures,
                    "since": node.health.since,
                    "error": node.health.error,
                    "retry_in": node.health.retry_in,
                },
                **asdict(node.status),
                "said_by": node.said_by,
                "primary_since": node.primary_since,
                **({} if node.slots is None else {"cluster_slots": asdict(node.slots)}),
            }
            for node in look.nodes
        ],
        "clusters": {
            alias: {
                "nodes": len(nodes),
                "answered": sum(node.status.error is None for node in nodes),
                "totals": asdict(sum_up(node.status for node in nodes)),
            }
            for alias, nodes in look.clusters.items()
        },
        "warming": [asdict(one) for one in look.warmings],
    }
