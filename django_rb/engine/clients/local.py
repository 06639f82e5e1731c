"""redis-py's own clients for one node each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

import redis

from ..nodes.node import Node
from ..threads.handshake import Home


class MakePool(Protocol):
    """A function that makes a pool; `home` says where it connects to, if that may change."""

    def __call__(self, node: Node, *, home: Home | None = None) -> redis.ConnectionPool:
        """Return a new pool."""


class LocalPools:
    """The redis-py pools that the local clients of a cluster share.

    Args:
        make_pool: makes one for a node.
    """

    def __init__(self, make_pool: MakePool) -> None:
        self._make_pool = make_pool
        self._by_node: dict[Node, redis.ConnectionPool] = {}
        self._homes: dict[Node, Home] = {}  # of shards whose primaries may change

    def get(self, nodes: Mapping[int, Node], host_id: int) -> redis.ConnectionPool:
        """Return the pool of a node.

        Raises:
            LookupError: the cluster has no such host.
        """
        node = nodes.get(host_id)
        if node is None:
            raise LookupError(
                f"There is no host {host_id!r}. Choices are: {', '.join(map(str, nodes))}."
            )
        pool = self._by_node.get(node)
        if pool is None:
            # If two threads get here at once, one pool is dropped; it has no connections yet.
            home = None
            if node.follows_redirects and node.info.unix_socket_path is None:
                home = self._homes.setdefault(node, Home(node))
            pool = self._by_node.setdefault(node, self._make_pool(node, home=home))
        return pool

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Drop the pools of all other nodes; existing clients keep using theirs.

        The pool of a shard whose primary has changed connects to the new one from now on.
        """
        for node in self._by_node.keys() - set(nodes.values()):
            pool, home = self._by_node.pop(node), self._homes.pop(node, None)
            successor = nodes.get(node.host_id)
            # The connections of a pool are all over TCP, or none of them is.
            is_over_tcp = successor is not None and successor.info.unix_socket_path is None
            if home is not None and successor is not None and is_over_tcp:
                home.node = successor
                self._by_node[successor], self._homes[successor] = pool, home
            with suppress(TypeError):  # older BlockingConnectionPools close all or none
                pool.disconnect(inuse_connections=False)

    def disconnect(self) -> None:
        """Close all connections."""
        for pool in list(self._by_node.values()):
            pool.disconnect()
