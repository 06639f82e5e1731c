"""The slots of a Redis Cluster as its nodes report them: their state and migrations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import Cluster
from ..engine.protocol.encoding import Args
from ..engine.topology.redis_cluster import RedisClusterTopology
from .base import NodeName, at_once
from .scanning import run_pipelines

QUESTIONS: tuple[Args, ...] = (
    ("CLUSTER", "INFO"),
    ("CLUSTER", "NODES"),
    ("CLUSTER", "GETSLOTMIGRATIONS"),  # Valkey 9
)

ENDED = frozenset({"success", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class SlotsStatus:
    """The slots that a primary of a Redis Cluster reports; None is unknown.

    Attributes:
        slots: how many it owns.
        ranges: the slots, as in "0-5460 5470".
        state: cluster_state: "ok" or "fail".
        leaving, arriving: how many are migrating to another node, or from one.
    """

    slots: int
    ranges: str
    state: str | None = None
    leaving: int | None = None
    arriving: int | None = None


def fetch_slots(
    chosen: Mapping[str, Cluster], timeout: float | None
) -> dict[NodeName, SlotsStatus]:
    """Ask the primaries of Redis Clusters for their slots, in parallel.

    For nodes that do not answer, the reports of others are used.
    """
    tasks = {
        alias: lambda cluster=cluster: run_pipelines(
            cluster, dict.fromkeys(cluster.nodes, QUESTIONS), timeout
        )
        for alias, cluster in chosen.items()
        if isinstance(cluster.layout, RedisClusterTopology) and cluster.layout.is_known
    }
    said: dict[NodeName, SlotsStatus] = {}
    for alias, replies in at_once(tasks).items():
        if isinstance(replies, Exception):
            raise replies
        layout = chosen[alias].layout
        assert isinstance(layout, RedisClusterTopology)
        for host_id, shard in layout.shards.items():
            ranges = " ".join(_range(first, last) for first, last in shard.slots)
            count = sum(last + 1 - first for first, last in shard.slots)
            known = replies.get(host_id, [None, None, None])
            said[alias, host_id] = SlotsStatus(slots=count, ranges=ranges, **_read(*known))
    return said


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _read(info: Any, nodes: Any, migrations: Any) -> dict[str, Any]:
    """Return the fields of a status from replies."""
    if not isinstance(info, bytes) or not isinstance(nodes, bytes):
        return {}
    state = re.search(rb"cluster_state:(\w+)", info)
    leaving, arriving = set[int](), set[int]()
    for line in nodes.decode(errors="replace").splitlines():
        if "myself" in line:
            # https://valkey.io/commands/cluster-nodes/: [93->-ID] leaves, [93-<-ID] arrives.
            leaving |= {int(slot) for slot in re.findall(r"\[(\d+)->-", line)}
            arriving |= {int(slot) for slot in re.findall(r"\[(\d+)-<-", line)}
    if isinstance(migrations, list):
        for migration in map(_as_dict, migrations):
            if migration.get("state") not in ENDED:
                under_way = set(_slots_in(migration.get("slot_ranges", "")))
                if migration.get("operation") == "EXPORT":
                    leaving |= under_way
                else:
                    arriving |= under_way
    return {
        "state": state and state[1].decode(),
        "leaving": len(leaving),
        "arriving": len(arriving),
    }


def _as_dict(entry: Any) -> dict[str, str]:
    told = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
    return {_text(name): _text(value) for name, value in told.items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _slots_in(ranges: str) -> Iterator[int]:
    for first, _, last in (part.partition("-") for part in re.split(r"[ ,]+", ranges) if part):
        yield from range(int(first), int(last or first) + 1)
