"""Making the topology that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from ..nodes.changes import HealthChanges
from ..nodes.hosts import parse_hosts
from ..nodes.node import Node
from .redis_cluster import RedisClusterTopology
from .replicas import ReadFrom
from .sentinel import SentinelTopology
from .sentinel_settings import read_watched
from .settings import REDIS_CLUSTER, SENTINEL, read_address_map
from .static import StaticTopology

Topology: TypeAlias = StaticTopology | RedisClusterTopology | SentinelTopology


def make_topology(
    topology: str,
    hosts: object,
    host_defaults: Mapping[str, Any] | None,
    make_node: Callable[..., Node],
    use: Callable[[Mapping[int, Node]], None],
    *,
    pool_options: Mapping[str, Any],
    address_map: object,
    sentinels: object,
    sentinel_options: object,
    alias: str | None,
    read_from: ReadFrom,
    changes: HealthChanges,
) -> Topology:
    """Return a topology; see `Cluster`.

    Args:
        make_node: makes a node of what is known of it.
        use: called with all servers that may be connected to, by host id.

    Raises:
        BadHostSetup: hosts or options that cannot work.
    """
    if topology == REDIS_CLUSTER:
        infos = parse_hosts(hosts, host_defaults)
        return RedisClusterTopology(
            infos, make_node, use, read_address_map(address_map), read_from
        )
    # Not for replicas: with this option they would redirect reads, too.
    make_primary = partial(make_node, follows_redirects=True)
    if topology == SENTINEL:
        return SentinelTopology(
            read_watched(hosts, host_defaults, sentinels, sentinel_options, pool_options),
            make_primary,
            make_node,
            partial(make_node, options=None),  # those of nodes are not for Sentinels
            use,
            read_address_map(address_map),
            alias,
            read_from,
            changes,
        )
    infos = parse_hosts(hosts, host_defaults)
    return StaticTopology(infos, make_primary, make_node, use, read_from, alias, changes)
