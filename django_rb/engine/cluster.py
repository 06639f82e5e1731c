"""Cluster: the front door. Nodes, a router over them, and a transport to reach them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.commands.core import Script as RedisScript

from .aio_clients import AioMapManager, AioRoutingClient, AioUnconnectedPool
from .aio_transport import AioTransport
from .batch import Script, call_nodes
from .clients import Fanned, Hosts, MapManager, Mapped, RoutingClient, UnconnectedPool
from .connections import Node, register_at_fork
from .encoding import Args
from .errors import BadHostSetup, NodeFailure
from .exchange import Batch
from .hashing import Key
from .health import (
    DEFAULT_HEALTH,
    HealthChange,
    HealthChanges,
    News,
    NodeHealth,
    check_health,
)
from .hosts import (
    HostInfo,
    check_pool_options,
    node_of_arguments,
    parse_host,
    parse_hosts,
)
from .promise import Promise
from .routers import BaseRouter, PartitionRouter
from .secrecy import hides_locals
from .transport import PollTransport

T = TypeVar("T")


class Cluster:
    """The nodes of one cluster and the way to them. Safe to share between threads.

    cluster = Cluster([{"port": 6379}, {"port": 6380}])
    with cluster.map() as client:
        pages = [client.get(f"page:{n}") for n in range(100)]

    Args:
        hosts: ``{0: node, 1: node, …}`` or a list; a node is a dictionary or a URL. In a
            list, nodes are numbered from 0 or say their "host_id".
        host_defaults: what holds for every node that does not say otherwise.
        pool_cls: redis-py's class of pools for `get_local_client`; the engine has its own.
        pool_options: `socket_timeout` and `socket_connect_timeout` in seconds (2.0 and
            1.0 where not given, None for no limit), `max_connections` per node and
            process, and every option of redis-py's connections.
        router_cls: decides which node owns a key; rb's `PartitionRouter` by default.
        router_options: keyword arguments for it.
        health: when a node counts as down: after how many FAILURES in a row it is left
            alone, for how many seconds at first (PAUSE) and at most (MAX_PAUSE). None:
            no node ever counts as down.

    Attributes:
        hosts: what is known of each node, by host id.
        nodes: the nodes themselves, by host id.
        router: the router; a new one whenever a host comes or goes.
        is_retired: another cluster took its place; for those who keep a reference.
        try_call: the short way of one command; see `PollTransport.try_call`.
        try_calls: that of a few commands; see `PollTransport.try_calls`.
        news: what of its nodes was logged lately, for all who log.

    Nothing is connected before the first command.

    Raises:
        BadHostSetup: hosts or options that cannot work, with the way out.
    """

    @hides_locals
    def __init__(
        self,
        hosts: Mapping[int, object] | Sequence[object],
        host_defaults: Mapping[str, Any] | None = None,
        pool_cls: type[redis.ConnectionPool] | None = None,
        pool_options: Mapping[str, Any] | None = None,
        router_cls: type[BaseRouter] | None = None,
        router_options: Mapping[str, Any] | None = None,
        health: Mapping[str, Any] | None = DEFAULT_HEALTH,
    ) -> None:
        self._pool_cls = pool_cls or redis.ConnectionPool
        self._pool_options = dict(check_pool_options(pool_options))
        self._router_cls = router_cls or PartitionRouter
        self._router_options = dict(router_options or {})
        self._health_options = check_health(health)
        self._health_changes = HealthChanges()
        self.news = News()
        self.is_retired = False
        self._changing_hosts = threading.Lock()
        self.hosts: dict[int, HostInfo] = parse_hosts(hosts, host_defaults)
        self._host_defaults = dict(host_defaults or {})
        self.nodes: dict[int, Node] = {
            host_id: self._make_node(info) for host_id, info in self.hosts.items()
        }
        self.router = self._make_router()
        # A batch may be under way to a node that is being removed: here it is still known.
        self._known_nodes = dict(self.nodes)
        self._transport = PollTransport(self._known_nodes, self._health_changes)
        self.try_call = self._transport.try_call
        self.try_calls = self._transport.try_calls
        self._aio_transport = AioTransport(self._known_nodes, self._health_changes)
        self._local_pools: dict[int, redis.ConnectionPool] = {}
        # Of hosts that were removed: a batch or a client that began before may use them.
        self._retired_nodes: list[Node] = []
        self._retired_pools: list[redis.ConnectionPool] = []
        self.scripts: dict[bytes, bytes] = {}
        self._prototype: redis.Redis | None = None
        self._aio_prototype: redis.asyncio.Redis | None = None
        self._aio: AioRoutingClient | None = None
        _clusters.add(self)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{info.host_id}: {info.address}" for info in self.hosts.values())
        return f"<Cluster {nodes}>"

    def _make_node(self, info: HostInfo) -> Node:
        return Node(info, self._pool_options, self._health_options, self._health_changes)

    def _make_router(self) -> BaseRouter:
        try:
            return self._router_cls(self, **self._router_options)
        except TypeError as error:  # an argument that it does not take
            raise BadHostSetup(
                f"{self._router_cls.__name__} does not take these options: {error}.",
                ("ROUTER_OPTIONS",),
            ) from error

    # Hosts.

    @hides_locals
    def add_host(self, host_id: int, *node: Any, **options: Any) -> None:
        """Add a host while the cluster is in use; keys move as the router says.

        cluster.add_host(4, host="10.0.0.5", port=6379)
        cluster.add_host(5, "rediss://10.0.0.6")

        Args:
            node: a dictionary of its options, or a URL; or as in rb, in this order: host,
                port, unix_socket_path, db, password, ssl, ssl_options.
            options: its options by name.

        Raises:
            TypeError: there is a host of that id, or arguments do not go together.
            BadHostSetup: an option that cannot work, or a router that cannot do with the
                host; then it is not added.
        """
        if type(host_id) is not int or host_id < 0:
            raise BadHostSetup(f"Host id {host_id!r} is not an integer of 0 or more.")
        with self._changing_hosts:
            if host_id in self.hosts:
                raise TypeError(f"Two hosts share the same host id ({host_id!r})")
            described = node_of_arguments(node, options)
            info = parse_host(host_id, described, self._host_defaults)
            made = self._make_node(info)
            hosts, nodes = self.hosts, self.nodes
            self._retire_pool(host_id)  # a thread may have made it after the removal
            # In this order: whoever learns of the host from the router finds its node.
            self._known_nodes[host_id] = made
            self.nodes = {**nodes, host_id: made}
            self.hosts = dict(sorted({**hosts, host_id: info}.items()))
            try:
                self.router = self._make_router()
            except BadHostSetup:
                self.hosts, self.nodes = hosts, nodes
                raise

    def remove_host(self, host_id: int) -> bool:
        """Remove a host while the cluster is in use; return whether it was there.

        Raises:
            BadHostSetup: the router cannot do without it; it stays.
        """
        with self._changing_hosts:
            if host_id not in self.hosts:
                return False
            hosts = self.hosts
            self.hosts = {other: info for other, info in hosts.items() if other != host_id}
            try:
                self.router = self._make_router()
            except BadHostSetup:
                self.hosts = hosts
                raise
            self._retired_nodes.append(self.nodes[host_id])
            self.nodes = {other: node for other, node in self.nodes.items() if other != host_id}
            self._retire_pool(host_id)
            self._close_retired()
            return True

    def _retire_pool(self, host_id: int) -> None:
        pool = self._local_pools.pop(host_id, None)
        if pool is not None:
            self._retired_pools.append(pool)

    def _close_retired(self) -> None:
        """Close the idle connections of hosts that were removed, lately or long ago."""
        for node in self._retired_nodes:
            node.close()
        for pool in self._retired_pools:
            with suppress(TypeError):  # older BlockingConnectionPools close all or none
                pool.disconnect(inuse_connections=False)

    # Health.

    def health(self) -> dict[int, NodeHealth]:
        """Return what this process knows of each node, by host id. Nothing is asked.

        cluster.health()[1].state              # "up", "failing" or "down"
        """
        return {host_id: node.health.get() for host_id, node in self.nodes.items()}

    def on_health_change(self, callback: Callable[[HealthChange], object]) -> None:
        """Let `callback(change)` be called whenever a node's state changes.

        It is called at the end of the call that saw the change, by its thread. What it
        raises is logged.
        """
        self._health_changes.add_callback(callback)

    def get_address(self, host_id: int) -> str:
        """Return where a node is, in words that hold no secret."""
        return self._known_nodes[host_id].address

    def get_router(self) -> BaseRouter:
        """Return the router of the cluster."""
        return self.router

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns a key."""
        return self.router.get_host_for_key(key)

    # Batches.

    def run(
        self, batch: Batch[T], timeout: float | None = None, began: float | None = None
    ) -> T:
        """Run a batch, such as those of `engine.batch`, and return its result.

        Args:
            timeout: seconds for all of it; what is unfinished then has failed.
            began: when the call began, if that was before, as time.monotonic().
        """
        return self._transport.run(batch, timeout, began)

    async def arun(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch on the event loop that runs; see `run`."""
        return await self._aio_transport.run(batch, timeout)

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

    # Clients of many nodes.

    @property
    def prototype(self) -> redis.Redis:
        """A client of redis-py's that never connects: its reply callbacks and its encoder."""
        if self._prototype is None:
            node = next(iter(self.nodes.values()))
            self._prototype = redis.Redis(connection_pool=node.make_pool(UnconnectedPool))
        return self._prototype

    @property
    def aio_prototype(self) -> redis.asyncio.Redis:
        """As `prototype`, of redis-py's asyncio side."""
        if self._aio_prototype is None:
            kwargs = self.prototype.connection_pool.connection_kwargs
            pool = AioUnconnectedPool(**kwargs)
            self._aio_prototype = redis.asyncio.Redis(connection_pool=pool)
        return self._aio_prototype

    @property
    def aio(self) -> AioRoutingClient:
        """The client for event loops that sends each command where its keys live.

        await cluster.aio.incr("hits")
        """
        if self._aio is None:
            self._aio = AioRoutingClient(self)
        return self._aio

    def get_routing_client(self, auto_batch: bool = True) -> RoutingClient:
        """Return a client that sends each command where its keys live.

        client = cluster.get_routing_client()
        client.incr("hits")

        Args:
            auto_batch: whether its `map()` may merge adjacent GETs and SETs.
        """
        return RoutingClient(self, auto_batch=auto_batch)

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
            timeout: seconds from the end of the block for all commands together; the
                promises of what is unfinished then are rejected with a TimeoutError.
            max_concurrency: how many nodes are asked at a time; None for all.
            auto_batch: merge adjacent GETs to a node into an MGET, and SETs without
                options into an MSET. (An MGET gives None where a GET would complain that
                the key holds no string.)

        Raises, at the end of the block and after every node has finished, the first error
        that no callback handled; `failures_of(error)` says what failed on which node.
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
            hosts: host ids, or "all"; None where each command names its own, with
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

        A promise can be awaited, by one task. Inside the block that has everything sent that
        waits, and the timeout counts for each time. What is cut short then, as by a
        cancellation, is rejected: nobody knows whether it ran.
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

    def remember_script(self, source: str | bytes) -> bytes:
        """Keep a script's source for nodes that do not know it; return its SHA1 digest."""
        script = Script(source)
        self.scripts[script.sha] = script.source
        return script.sha

    def execute_commands(
        self,
        mapping: Mapping[Any, Iterable[Sequence[Any]]],
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> dict[Any, list[Promise[Any]]]:
        """Run commands on the nodes that own given keys, all nodes at once.

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

    # Clients of one node.

    def get_local_client(self, host_id: int) -> redis.Redis:
        """Return redis-py's own client for one node, with pipelines, pub/sub and locks.

        Raises:
            LookupError: the cluster has no such host.
        """
        return redis.Redis(connection_pool=self.get_pool_for_host(host_id))

    def get_local_client_for_key(self, key: Key) -> redis.Redis:
        """Return redis-py's own client for the node that owns a key."""
        return self.get_local_client(self.get_host_for_key(key))

    def get_pool_for_host(self, host_id: int) -> redis.ConnectionPool:
        """Return the pool of redis-py's that local clients of a node share.

        Raises:
            LookupError: the cluster has no such host.
        """
        pool = self._local_pools.get(host_id)
        if pool is None:
            if host_id not in self.nodes:
                raise LookupError(
                    f"There is no host {host_id!r}. Known are: "
                    f"{', '.join(map(str, self.nodes))}."
                )
            # Two threads may get here at once; one pool wins, and nothing was connected.
            pool = self._local_pools.setdefault(
                host_id, self.nodes[host_id].make_pool(self._pool_cls)
            )
        return pool

    def disconnect_pools(self) -> None:
        """Close idle connections; the cluster opens new ones as it needs them."""
        for node in (*self.nodes.values(), *self._retired_nodes):
            node.close()
        for pool in (*self._local_pools.values(), *self._retired_pools):
            pool.disconnect()

    close = disconnect_pools

    async def aclose(self) -> None:
        """Close the idle connections of the event loop that runs."""
        await self._aio_transport.aclose()


_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for cluster in list(_clusters):
        # Another thread of the parent may hold it.
        cluster._changing_hosts = threading.Lock()  # noqa: SLF001 (same room)


register_at_fork(_start_over_after_fork)
