"""The methods of a cluster that return clients, and context managers of clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
import redis.asyncio
from redis.commands.core import Script as RedisScript

from .. import threads
from ..protocol.encoding import Key
from .aio import AioMapManager, AioRoutingClient, AioUnconnectedPool
from .base import UnconnectedPool
from .local import LocalPools
from .managers import Fanned, Hosts, MapManager, Mapped
from .port import ClientPort
from .promise import Promise
from .routing import RoutingClient


class ClientSource(ClientPort):
    """The part of a cluster that creates clients."""

    _local_pools: LocalPools
    _prototype: redis.Redis | None = None
    _aio_prototype: redis.asyncio.Redis | None = None
    _aio: AioRoutingClient | None = None

    @property
    def prototype(self) -> redis.Redis:
        """A redis-py client that never connects, for its reply callbacks and its encoder."""
        if self._prototype is None:
            node = next(iter(self.nodes.values()))
            self._prototype = redis.Redis(
                connection_pool=threads.make_redis_pool(node, UnconnectedPool)
            )
        return self._prototype

    @property
    def aio_prototype(self) -> redis.asyncio.Redis:
        """Like `prototype`, of redis.asyncio."""
        if self._aio_prototype is None:
            kwargs = self.prototype.connection_pool.connection_kwargs
            pool = AioUnconnectedPool(**kwargs)
            self._aio_prototype = redis.asyncio.Redis(connection_pool=pool)
        return self._aio_prototype

    @property
    def aio(self) -> AioRoutingClient:
        """The client for event loops that sends each command to the node that owns its keys.

        await cluster.aio.incr("hits")
        """
        if self._aio is None:
            self._aio = AioRoutingClient(self)
        return self._aio

    def get_routing_client(
        self, auto_batch: bool = True, timeout: float | None = None
    ) -> RoutingClient:
        """Return a client that sends each command to the node that owns its keys.

        client = cluster.get_routing_client()
        client.incr("hits")

        Args:
            auto_batch: whether its `map()` may merge adjacent GETs and SETs.
            timeout: seconds for each of its commands, and for each page of `scan_iter()`;
                None without limit.
        """
        return RoutingClient(self, auto_batch=auto_batch, timeout=timeout)

    def get_local_client(self, host_id: int) -> redis.Redis:
        """Return redis-py's own client for one node, with pipelines, pub/sub and locks.

        Raises:
            LookupError: the cluster has no such host.
        """
        self.learn()
        return redis.Redis(connection_pool=self.get_pool_for_host(host_id))

    def get_local_client_for_key(self, key: Key) -> redis.Redis:
        """Return redis-py's own client for the node that owns a key.

        In a Redis Cluster, use it for commands and transactions on keys of one slot. If the
        slot moves to another node, the client does not follow the redirect: it raises the
        node's error (MOVED). Locks of `get_routing_client()` and of a cache do follow it.
        """
        return self.get_local_client(self.get_host_for_key(key))

    def get_pool_for_host(self, host_id: int) -> redis.ConnectionPool:
        """Return the redis-py connection pool that local clients of a node share.

        Raises:
            LookupError: the cluster has no such host.
        """
        return self._local_pools.get(self.nodes, host_id)

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> MapManager[Mapped]:
        """Return a context manager: commands become promises and run when its block ends.

        with cluster.map() as client:
            pages = [client.get(f"page:{n}") for n in range(100)]
        values = [promise.value for promise in pages]

        Args:
            timeout: seconds from the end of the block for all commands together; promises
                that are pending then are rejected with a TimeoutError.
            max_concurrency: how many nodes are asked at the same time; None for all.
            auto_batch: merge adjacent GETs to a node into an MGET, and SETs without
                options into an MSET. (For a key that holds no string, MGET returns None
                and GET an error.)

        At the end of the block, after every node has finished, the first error that no
        callback handled is raised; `failures_of(error)` returns what failed on which node.
        """
        return self.get_routing_client(auto_batch).map(timeout, max_concurrency)

    def fanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> MapManager[Fanned]:
        """Return a context manager like `map()`'s, for commands to chosen hosts.

        with cluster.fanout(hosts=[0, 1]) as client:
            sizes = client.dbsize()
        sizes.value                            # {0: 12, 1: 7}

        Args:
            hosts: host ids, or "all"; None if each command names its own, with
                `client.target([0])` or `client.target_key("page:1")`.
        """
        client = self.get_routing_client(auto_batch)
        return client.fanout(hosts, timeout, max_concurrency)

    def all(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> MapManager[Fanned]:
        """Return a context manager for commands to every host; see `fanout`.

        with cluster.all() as client:
            client.flushdb()
        """
        return self.fanout("all", timeout, max_concurrency, auto_batch)

    def amap(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Mapped]:
        """Return what `map` does, for event loops.

        async with cluster.amap() as client:
            pages = [client.get(f"page:{n}") for n in range(100)]
        values = [promise.value for promise in pages]

        A promise can be awaited, by one task. Inside the block, that sends all pending
        commands, and the timeout counts anew each time. If it is interrupted, for example by
        a cancellation, the promises are rejected; their commands may have run.
        """
        return self.aio.map(timeout, max_concurrency, auto_batch)

    def afanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Fanned]:
        """Return what `fanout` does, for event loops."""
        return self.aio.fanout(hosts, timeout, max_concurrency, auto_batch)

    def aall(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Fanned]:
        """Return what `all` does, for event loops."""
        return self.afanout("all", timeout, max_concurrency, auto_batch)

    def execute_commands(
        self,
        mapping: Mapping[Any, Iterable[Sequence[Any]]],
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> dict[Any, list[Promise[Any]]]:
        """Run commands on the nodes that own given keys, on all nodes in parallel.

        cluster.execute_commands({
            "foo": [("PING",), ("TIME",)],
            "bar": [(script, ["key:1"], [3])],      # script = client.register_script(…)
        })                                          # {"foo": [<Promise True>, …], …}

        Args:
            mapping: ``{key: [command, …]}``; a command is a sequence of its name and
                arguments, or of a redis-py Script, its keys and its arguments.

        Returns:
            ``{key: [promise, …]}``, each promise settled.
        """
        results: dict[Any, list[Promise[Any]]] = {}
        with self.fanout(None, timeout, max_concurrency, auto_batch) as client:
            for key, commands in mapping.items():
                targeted = client.target_key(key)
                results[key] = []
                for command in commands:
                    words: Sequence[Any] = command
                    if isinstance(command[0], RedisScript):
                        script, keys, args = command
                        sha = self.remember_script(script.script)
                        keys = tuple(keys)
                        words = ("EVALSHA", sha, len(keys), *keys, *args)
                    results[key].append(targeted.execute_command(*words))
        return results
