"""redis-py's own clients for one node each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeAlias

import redis

from ..nodes.node import Node

MakePool: TypeAlias = Callable[[Node], redis.ConnectionPool]


class LocalPools:
    """The pools of redis-py's that the local clients of a cluster share.

    Args:
        make_pool: makes one for a node.
    """

    def __init__(self, make_pool: MakePool) -> None:
        self._make_pool = make_pool
        self._by_node: dict[Node, redis.ConnectionPool] = {}

    def get(self, nodes: Mapping[int, Node], host_id: int) -> redis.ConnectionPool:
        """Return the pool of a node.

        Raises:
            LookupError: the cluster has no such host.
        """
        node = nodes.get(host_id)
        if node is None:
            raise LookupError(
                f"There is no host {host_id!r}. Known are: {', '.join(map(str, nodes))}."
            )
        pool = self._by_node.get(node)
        if pool is None:
            # Two threads may get here at once; one pool wins, and nothing was connected.
            pool = self._by_node.setdefault(node, self._make_pool(node))
        return pool

    def keep_only(self, nodes: Mapping[int, Node]) -> None:
        """Let go of the pools of all other nodes; clients that are there go on with theirs."""
        for node in self._by_node.keys() - set(nodes.values()):
            pool = self._by_node.pop(node)
            with suppress(TypeError):  # older BlockingConnectionPools close all or none
                pool.disconnect(inuse_connections=False)

    def disconnect(self) -> None:
        """Close all connections."""
        for pool in list(self._by_node.values()):
            pool.disconnect()
