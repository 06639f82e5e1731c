"""Cluster, the class that users create: nodes, a router, and the transports to the nodes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import redis
import redis.asyncio

from . import loops, threads
from .clients.front import ClientSource
from .clients.local import LocalPools
from .errors import BadHostSetup, NodeFailure
from .forks import register_at_fork
from .near.tracking import Trackings
from .nodes.changes import HealthChange, HealthChanges, PrimaryChange, RecentlyLogged
from .nodes.health import DEFAULT_HEALTH, NodeHealth, check_health
from .nodes.hosts import (
    HostInfo,
    node_of_arguments,
    parse_host,
)
from .nodes.node import Node
from .nodes.option_checks import check_pool_options
from .protocol.encoding import Args, Key
from .protocol.exchange import Batch
from .protocol.scripts import remember_script
from .rounds.batch import call_nodes
from .rounds.from_replicas import from_replicas
from .rounds.observing import Observer
from .rounds.telling import observed
from .routing.routers import BaseRouter, PartitionRouter
from .secrecy import hidden, hides_locals
from .topology.making import Topology, make_topology
from .topology.redis_cluster import RedisClusterTopology
from .topology.replicas import PREFER_REPLICA, read_read_from
from .topology.sentinel import SentinelTopology
from .topology.settings import check_topology
from .topology.static import StaticTopology

T = TypeVar("T")


class Connections(NamedTuple):
    """The connections of this process to a node.

    Attributes:
        open: how many there are.
        idle: how many of them are not in use.
    """

    open: int
    idle: int


class Cluster(ClientSource):
    """A cluster of nodes. Safe to share between threads.

    cluster = Cluster([{"port": 6379}, {"port": 6380}])
    with cluster.map() as client:
        pages = [client.get(f"page:{n}") for n in range(100)]

    Args:
        hosts: ``{0: node, 1: node, …}`` or a list; a node is a dictionary or a URL. In a
            list, nodes are numbered from 0, or each has a "host_id".
        host_defaults: options for every node that does not set them itself.
        pool_cls: the redis-py pool class for `get_local_client`; other clients do not use it.
        pool_options: `socket_timeout` and `socket_connect_timeout` in seconds (2.0 and
            1.0 by default, None for no limit), `max_connections` per node and
            process, and every option of redis-py's connections.
        router_cls: decides which node owns a key; rb's `PartitionRouter` by default.
        router_options: keyword arguments for it.
        topology: where the list of nodes comes from. "static": from `hosts`.
            "redis-cluster": from the nodes of a Redis Cluster or Valkey Cluster; `hosts` names
            one or more of them. They place keys themselves, so no router can be given.
            "sentinel": Sentinels give the address of each host's primary; a host is named by
            its "master_name".
        address_map: replaces addresses that nodes or Sentinels report:
            ``{"10.0.0.1:6379": "127.0.0.1:7001"}``, or a function that takes host and port and
            returns both. Not for independent nodes.
        sentinels: where Sentinels are: URLs, dictionaries, or pairs of host and port.
        sentinel_options: options of the connections to them, such as their own password.
        read_from: "primary"; "prefer-primary": commands that only read keys go to a replica
            if the primary is down or refuses them; "prefer-replica": they go to replicas in
            turn, and to the primary if it has none. Replicas of independent nodes are named in
            `hosts` (`"replicas": [node, …]`), others are discovered.
        max_lag: how many seconds a replica that is read from may be behind, as far as that is
            known; None for no limit.
        health: when a node counts as down: after how many FAILURES in a row it is not asked
            for a while, and for how many seconds at first (PAUSE) and at most (MAX_PAUSE).
            None: no node ever counts as down.
        alias: the cluster's name in errors and logs, as in the settings; None for no name.

    Attributes:
        is_retired: another cluster has replaced this one; for code that keeps a reference.
        recently_logged: which lines about its nodes were logged recently, so that none is
            repeated.
        observers: called for batches and exchanges; to add or remove one, replace the tuple.
        trackings: the connections on which nodes report changed keys, for near caches.

    No connection is opened before the first command.

    Raises:
        BadHostSetup: hosts or options cannot work; the message says what to change.
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
        alias: str | None = None,
        topology: str = "static",
        address_map: object = None,
        sentinels: object = None,
        sentinel_options: object = None,
        read_from: object = None,
        max_lag: object = None,
    ) -> None:
        check_topology(
            topology, router_cls, router_options, address_map, sentinels, sentinel_options
        )
        self.alias = alias
        self._pool_cls = pool_cls or redis.ConnectionPool
        self._pool_options = dict(hidden(check_pool_options(pool_options)))
        self._router_cls = router_cls or PartitionRouter
        self._router_options = dict(router_options or {})
        self._health_options = check_health(health)
        self._health_changes = HealthChanges()
        self.recently_logged = RecentlyLogged()
        self.is_retired = False
        self.observers: Sequence[Observer] = ()
        self.trackings = Trackings()
        make_node = partial(
            Node,
            options=self._pool_options,
            health_options=self._health_options,
            changes=self._health_changes,
            alias=alias,
            trackings=self.trackings,
        )
        self._threads = threads.Transport(self._health_changes)
        self._loops = loops.Transport(self._health_changes)
        self._local_pools = LocalPools(
            partial(
                threads.make_redis_pool,
                pool_cls=self._pool_cls,
                observed=self,
            )
        )
        reading = read_read_from(read_from, max_lag)
        self._prefers_replicas = reading.choice == PREFER_REPLICA
        self._topology = make_topology(
            topology,
            hosts,
            host_defaults,
            make_node,
            # By weak references: loops refer to nodes, and nodes to the topology, so a
            # reference from here to the loops would be a cycle.
            partial(
                _use,
                [weakref.ref(user) for user in (self._threads, self._loops, self._local_pools)],
            ),
            pool_options=self._pool_options,
            address_map=address_map,
            sentinels=sentinels,
            sentinel_options=sentinel_options,
            alias=alias,
            read_from=reading,
            changes=self._health_changes,
        )
        self._host_defaults = dict(hidden(host_defaults or {}))
        if not isinstance(self._topology, RedisClusterTopology):
            self._topology.router = self._make_router()
        self.trackings.layout = self._topology
        _clusters.add(self)

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

    # Hosts.

    @property
    def hosts(self) -> dict[int, HostInfo]:
        """The address and options of each host, by host id."""
        return self._topology.hosts

    @property
    def nodes(self) -> dict[int, Node]:
        """The nodes, by host id."""
        return self._topology.nodes

    @property
    def layout(self) -> Topology:
        """What is known of the shards, from the settings, Sentinels or the nodes themselves."""
        return self._topology

    @property
    def router(self) -> BaseRouter:
        """The router; it is replaced whenever a host is added or removed."""
        return self._topology.router

    @hides_locals
    def add_host(self, host_id: int, *node: Any, **options: Any) -> None:
        """Add a host while the cluster is in use; the router decides which keys move to it.

        cluster.add_host(4, host="10.0.0.5", port=6379)
        cluster.add_host(5, "rediss://10.0.0.6")

        Args:
            node: a dictionary of its options, or a URL; or as in rb, in this order: host,
                port, unix_socket_path, db, password, ssl, ssl_options.
            options: its options by name.

        Raises:
            TypeError: there is a host with that id, or arguments contradict each other.
            BadHostSetup: an option cannot work, or the router does not accept the host;
                it is not added.
        """
        topology = self._static()
        if type(host_id) is not int or host_id < 0:
            raise BadHostSetup(f"Host id {host_id!r} is not an integer of 0 or more.")
        described = node_of_arguments(node, options)
        info = parse_host(host_id, described, self._host_defaults)
        topology.add(info, self._make_router)

    def remove_host(self, host_id: int) -> bool:
        """Remove a host while the cluster is in use; return whether it was there.

        Raises:
            BadHostSetup: the router needs the host; it is not removed.
        """
        return self._static().remove(host_id, self._make_router)

    def _static(self) -> StaticTopology:
        if isinstance(self._topology, RedisClusterTopology):
            raise TypeError(
                "The nodes of a Redis Cluster determine its members: add and remove nodes "
                "there, for example with `valkey-cli --cluster`."
            )
        if isinstance(self._topology, SentinelTopology):
            raise TypeError(
                "With Sentinels, hosts can only be listed in HOSTS. Create a new cluster."
            )
        return self._topology

    def learn(self, timeout: float | None = None) -> None:
        """Find out which nodes there are, if that is not known yet.

        Commands do so themselves. Until then, `hosts` and `nodes` of a Redis Cluster are the
        ones it was created with, and the owner of a key is unknown; so are the addresses of
        hosts that Sentinels watch. Independent nodes are known from the beginning.

        Args:
            timeout: in seconds.

        Raises:
            redis.ConnectionError, redis.TimeoutError: no node or Sentinel answers.
        """
        if not self._topology.is_known:
            failure = self._threads.run(self._topology.learn(), timeout)
            if failure is not None:
                raise failure

    async def alearn(self, timeout: float | None = None) -> None:
        """Do what `learn` does, on the running event loop."""
        if not self._topology.is_known:
            failure = await self._loops.run(self._topology.learn(), timeout)
            if failure is not None:
                raise failure

    # Health.

    def health(self) -> dict[int, NodeHealth]:
        """Return the health of each node, by host id, as this process sees it. No I/O.

        cluster.health()[1].state              # "up", "failing" or "down"
        """
        return {host_id: node.health.get() for host_id, node in self.nodes.items()}

    def on_health_change(self, callback: Callable[[HealthChange], object]) -> None:
        """Call `callback(change)` whenever a node's state changes.

        This happens at the end of the call that noticed the change, in the same thread.
        Exceptions of the callback are logged.
        """
        self._health_changes.add_callback(callback)

    def on_primary_change(self, callback: Callable[[PrimaryChange], object]) -> None:
        """Call `callback(change)` whenever Sentinels report a new primary for a shard.

        As with `on_health_change`, this happens at the end of the call that noticed it.
        """
        self._health_changes.add_callback(callback, PrimaryChange)

    def connections(self, hosts: Iterable[int] | None = None) -> dict[int, Connections]:
        """Return how many connections this process has to each node, by host id.

        cluster.connections()[1].idle          # 3

        Args:
            hosts: host ids; every node by default. In a Redis Cluster these are the current
                primaries; there are hardly any connections to replicas.

        Connections of redis-py's own clients are not counted.
        """
        counts = {}
        for host_id in self.nodes if hosts is None else hosts:
            count, idle = self._threads.count(host_id)
            awaited, awaited_idle = self._loops.count(host_id)
            counts[host_id] = Connections(count + awaited, idle + awaited_idle)
        return counts

    def get_address(self, host_id: int) -> str:
        """Return a node's address as text, without secrets."""
        return self._topology.get_address(host_id)

    def get_router(self) -> BaseRouter:
        """Return the router of the cluster."""
        return self.router

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns a key.

        In a Redis Cluster, the nodes are asked first if that is not known yet; see `learn`.
        """
        if self.router.has_slots:
            self.learn()
        return self.router.get_host_for_key(key)

    # Batches.

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch, such as those of `engine.rounds.batch`, and return its result.

        Args:
            timeout: seconds for the whole batch; commands without a reply by then fail.
        """
        batch = self._prepared(batch)
        if self.observers:
            return self._threads.run(observed(self, batch), timeout)
        return self._threads.run(batch, timeout, self)

    def arun(self, batch: Batch[T], timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Return a coroutine that runs a batch on the running event loop; see `run`."""
        batch = self._prepared(batch)
        if self.observers:
            return self._loops.run(observed(self, batch), timeout)
        return self._loops.run(batch, timeout, self)

    def _prepared(self, batch: Batch[T]) -> Batch[T]:
        topology = self._topology
        if not topology.is_quiet and topology.is_look_due:
            batch = topology.looking(batch)
        if self._prefers_replicas:
            batch = from_replicas(topology, batch)
        return batch

    def call_nodes(
        self, *args: Any, hosts: Iterable[int] | None = None, timeout: float | None = None
    ) -> tuple[dict[int, Any], list[NodeFailure]]:
        """Run one command on many nodes at once.

        replies, failures = cluster.call_nodes("DBSIZE")

        Args:
            args: the command and its arguments.
            hosts: host ids; every node by default.
            timeout: seconds for the whole call.

        Returns:
            ``{host id: reply}`` as the server sent it, and a list of what failed.
        """
        command: Args = args
        return self.run(call_nodes(self, command, hosts), timeout)

    def remember_script(self, source: str | bytes) -> bytes:
        """Keep a script's source for nodes that lack it; return its SHA1 digest."""
        return remember_script(source)

    def disconnect_pools(self) -> None:
        """Close connections: idle ones now, the others after the calls that use them.

        The cluster stays usable, and opens new ones when needed.
        """
        self._threads.close_idle()
        self._loops.close_idle_soon()
        self._local_pools.disconnect()

    close = disconnect_pools

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop."""
        await self._loops.aclose()


class _UsesNodes(Protocol):
    def use(self, nodes: Mapping[int, Node]) -> None: ...


def _use(users: Iterable[weakref.ref[_UsesNodes]], nodes: Mapping[int, Node]) -> None:
    """Connect to these nodes only, from now on."""
    for reference in users:
        if (user := reference()) is not None:
            user.use(nodes)


_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for cluster in list(_clusters):
        cluster._topology.start_over()  # noqa: SLF001 (same room)


register_at_fork(_start_over_after_fork)
