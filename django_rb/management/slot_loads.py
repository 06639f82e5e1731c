"""Finds the busiest slots of a Redis Cluster, from the statistics of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine import Cluster
from ..engine.protocol.encoding import Args
from .base import NodeName
from .scanning import Nodes

_LAST_SLOT = 16383
_EXAMPLES = 3

Loads = dict[tuple[NodeName, int], tuple[int, int, int]]


@dataclass(frozen=True)
class HotSlot:
    """A slot, and its load during some seconds.

    Attributes:
        cpu: microseconds of the node's CPU time.
        bytes_in, bytes_out: network traffic.
        keys: some of its keys.
    """

    node: NodeName
    slot: int
    cpu: int
    bytes_in: int
    bytes_out: int
    keys: Sequence[bytes]


def fetch_slot_loads(chosen: Mapping[str, Cluster], nodes: Nodes) -> Loads:
    """Return the total load of each slot; empty if no node has these statistics.

    Valkey 8 and Redis 8.2 have them if cluster-slot-stats-enabled is "yes".

    https://valkey.io/commands/cluster-slot-stats/
    """
    question: tuple[Args, ...] = (("CLUSTER", "SLOT-STATS", "SLOTSRANGE", 0, _LAST_SLOT),)
    asked = {node: question for node in nodes.addresses if chosen[node[0]].router.has_slots}
    loads: Loads = {}
    for node, (reply,) in nodes.run(asked, keep_errors=True).items():
        for slot, stats in _pairs(reply) if isinstance(reply, list | dict) else ():
            told = dict(_pairs(stats))
            if b"cpu-usec" in told:
                loads[node, slot] = (
                    told[b"cpu-usec"],
                    told.get(b"network-bytes-in", 0),
                    told.get(b"network-bytes-out", 0),
                )
    return loads


def hottest_slots(nodes: Nodes, before: Loads, after: Loads, top: int) -> list[HotSlot]:
    """Return the slots with the most load between two measurements, the busiest first.

    Slots are ordered by their share of the CPU time, or of the bytes if that is larger.
    """
    took = {
        place: tuple(
            now - then for now, then in zip(load, before.get(place, (0, 0, 0)), strict=True)
        )
        for place, load in after.items()
    }
    all_cpu = sum(cpu for cpu, *_ in took.values()) or 1
    all_bytes = sum(sum(sizes) for _, *sizes in took.values()) or 1
    shares = {
        place: max(cpu / all_cpu, sum(sizes) / all_bytes)
        for place, (cpu, *sizes) in took.items()
    }
    ranked = sorted(shares, key=lambda place: -shares[place])
    busiest = [place for place in ranked if shares[place]][:top]
    asked: dict[NodeName, list[Args]] = {}
    for node, slot in busiest:
        asked.setdefault(node, []).append(("CLUSTER", "GETKEYSINSLOT", slot, _EXAMPLES))
    replies = {node: iter(said) for node, said in nodes.run(asked, keep_errors=True).items()}
    found = []
    for node, slot in busiest:
        keys: Any = next(replies.get(node, iter(())), [])
        cpu, bytes_in, bytes_out = took[node, slot]
        keys = keys if isinstance(keys, list) else []
        found.append(HotSlot(node, slot, cpu, bytes_in, bytes_out, keys))
    return found


def _pairs(reply: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a map: a RESP3 map, a flat list, or a list of pairs."""
    if isinstance(reply, dict):
        return list(reply.items())
    if reply and isinstance(reply[0], list):
        return [(pair[0], pair[1]) for pair in reply]
    return list(zip(reply[::2], reply[1::2], strict=False))
