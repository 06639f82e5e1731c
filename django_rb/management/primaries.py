"""Since when the primary of each shard is known to be the primary."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..engine import Cluster
from ..engine.protocol.encoding import Args
from ..engine.rounds.commands import run_commands
from ..engine.topology.questions import address_of
from ..engine.topology.redis_cluster import RedisClusterTopology
from ..engine.topology.sentinel import SentinelTopology
from ..engine.topology.sentinel_replies import read_primary_for
from .base import NodeName, at_once


def source_of(cluster: Cluster, host_id: int) -> str | None:
    """Return where it is known from that a node is the primary; None for the settings."""
    if isinstance(cluster.layout, RedisClusterTopology):
        return "its nodes"
    return cluster.layout.said_by.get(host_id)


def seen_since(cluster: Cluster, host_id: int, before: float) -> float | None:
    """Return when this process saw a node become the primary of its shard; None if it did not.

    Args:
        before: Unix time; of changes that this process learned of later, the time is unknown.
    """
    since = cluster.layout.since.get(host_id)
    return since if since is not None and since < before else None


def fetch_since(chosen: Mapping[str, Cluster], timeout: float | None) -> dict[NodeName, float]:
    """Ask all Sentinels since when they know the primaries as such.

    Returns:
        The earliest of their times, as Unix time, for the primaries that have any. Times of a
        Sentinel begin when it was started.
    """
    tasks = {
        alias: lambda cluster=cluster: _ask(cluster, cluster.layout, timeout)
        for alias, cluster in chosen.items()
        if isinstance(cluster.layout, SentinelTopology)
    }
    found: dict[NodeName, float] = {}
    for alias, said in at_once(tasks).items():
        if not isinstance(said, Exception):  # failed Sentinels are reported elsewhere
            found.update({(alias, host_id): since for host_id, since in said.items()})
    return found


def _ask(cluster: Cluster, layout: SentinelTopology, timeout: float | None) -> dict[int, float]:
    asked = [
        (sentinel.host_id, host_id, info)
        for sentinel in layout.sentinels
        for host_id, info in layout.hosts.items()
        if info.is_placed
    ]
    commands: list[Args] = [
        ("SENTINEL", "MASTER", info.master_name or "") for _, _, info in asked
    ]
    owners = [sentinel for sentinel, _, _ in asked]
    replies = cluster.run(run_commands(owners, commands, bound=range(len(asked))), timeout)
    now = time.time()
    since: dict[int, float] = {}
    for (_, host_id, info), reply in zip(asked, replies, strict=True):
        told = read_primary_for(reply)
        if told is not None and layout.to_ours(told[0]) == address_of(info):
            since[host_id] = min(now - told[1], since.get(host_id, now))
    return since
