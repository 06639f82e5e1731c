"""Cluster: the front door. Nodes, a router over them, and a transport to reach them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import redis

from .batch import call_nodes
from .connections import Node
from .encoding import Args
from .errors import BadHostSetup, NodeFailure, first_error
from .exchange import Batch
from .hashing import Key
from .hosts import HostInfo, check_pool_options, parse_hosts
from .routers import BaseRouter, PartitionRouter
from .transport import PollTransport

T = TypeVar("T")


class Cluster:
    """The nodes of one cluster and the way to them. Safe to share between threads.

    cluster = Cluster([{"port": 6379}, {"port": 6380}])
    cluster.get_local_client_for_key("user:7").get("user:7")

    Args:
        hosts: ``{0: node, 1: node, …}`` or a list; a node is a dictionary or a URL.
        host_defaults: what holds for every node that does not say otherwise.
        pool_options: `socket_timeout` and `socket_connect_timeout` in seconds (2.0 and
            1.0 where not given, None for no limit), `max_connections` per node and
            process, and every option of redis-py's connections.
        router_cls: decides which node owns a key; rb's `PartitionRouter` by default.
        router_options: keyword arguments for it.

    Nothing is connected before the first command.

    Raises:
        BadHostSetup: hosts or options that cannot work, with the way out.
    """

    def __init__(
        self,
        hosts: Mapping[int, object] | Sequence[object],
        host_defaults: Mapping[str, Any] | None = None,
        pool_options: Mapping[str, Any] | None = None,
        router_cls: type[BaseRouter] | None = None,
        router_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._host_defaults = dict(host_defaults or {})
        self._pool_options = dict(check_pool_options(pool_options))
        self._router_cls = router_cls or PartitionRouter
        self._router_options = dict(router_options or {})
        self.hosts: dict[int, HostInfo] = parse_hosts(hosts, host_defaults)
        self.nodes: dict[int, Node] = {
            host_id: Node(info, self._pool_options) for host_id, info in self.hosts.items()
        }
        self.router = self._make_router()
        self._transport = PollTransport(self.nodes)
        self._local_pools: dict[int, redis.ConnectionPool] = {}

    def __repr__(self) -> str:
        nodes = ", ".join(f"{info.host_id}: {info.address}" for info in self.hosts.values())
        return f"<Cluster {nodes}>"

    def _make_router(self) -> BaseRouter:
        try:
            return self._router_cls(self, **self._router_options)
        except TypeError as error:  # an argument that it does not take
            raise BadHostSetup(
                f"{self._router_cls.__name__} does not take these options: {error}.",
                ("ROUTER_OPTIONS",),
            ) from error

    def get_router(self) -> BaseRouter:
        """Return the router of the cluster."""
        return self.router

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns a key."""
        return self.router.get_host_for_key(key)

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch, such as those of `engine.batch`, and return its result.

        Args:
            timeout: seconds for all of it; what is unfinished then has failed.
        """
        return self._transport.run(batch, timeout)

    def call_nodes(
        self, *args: Any, hosts: Iterable[int] | None = None, timeout: float | None = None
    ) -> tuple[dict[int, Any], list[NodeFailure]]:
        """Run one command on many nodes at once.

        replies, failures = cluster.call_nodes("DBSIZE")

        Args:
            args: the command and its arguments.
            hosts: host ids; every node by default.
            timeout: seconds for all of it.

        Returns:
            ``{host id: reply}`` as the server sent it, and what failed on other nodes.
        """
        command: Args = args
        targets = self.nodes if hosts is None else hosts
        return self.run(call_nodes(self, dict.fromkeys(targets, command)), timeout)

    def get_local_client(self, host_id: int) -> redis.Redis:
        """Return redis-py's own client for one node, with pipelines, pub/sub and locks.

        Raises:
            KeyError: the cluster has no such host.
        """
        if host_id not in self.nodes:
            raise KeyError(f"No host {host_id} in {self!r}")
        pool = self._local_pools.get(host_id)
        if pool is None:
            # Two threads may get here at once; one pool wins, and nothing was connected.
            pool = self._local_pools.setdefault(host_id, self.nodes[host_id].make_pool())
        return redis.Redis(connection_pool=pool)

    def get_local_client_for_key(self, key: Key) -> redis.Redis:
        """Return redis-py's own client for the node that owns a key."""
        return self.get_local_client(self.get_host_for_key(key))

    def close(self) -> None:
        """Close idle connections. The cluster stays usable and opens new ones."""
        for node in self.nodes.values():
            node.close()
        for pool in self._local_pools.values():
            pool.disconnect()


def raise_first(failures: Sequence[NodeFailure]) -> None:
    """Raise the first node's error, if any failed, with every node's failure attached."""
    if failures:
        raise first_error(failures)
