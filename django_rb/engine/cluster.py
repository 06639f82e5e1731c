"""Cluster: the front door. Nodes, a router over them, and the transports to reach them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

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
from .topology.making import Layout, make_topology
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
        idle: how many of them nobody uses.
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
            list, nodes are numbered from 0 or say their "host_id".
        host_defaults: options for every node that does not set them itself.
        pool_cls: redis-py's class of pools for `get_local_client`; the engine has its own.
        pool_options: `socket_timeout` and `socket_connect_timeout` in seconds (2.0 and
            1.0 where not given, None for no limit), `max_connections` per node and
            process, and every option of redis-py's connections.
        router_cls: decides which node owns a key; rb's `PartitionRouter` by default.
        router_options: keyword arguments for it.
        topology: who says which nodes there are: "static", these hosts; "redis-cluster", the
            nodes of a Redis Cluster or Valkey Cluster, of which `hosts` names any. They
            place keys themselves, so that no router goes with it. "sentinel": Sentinels say
            where the primary of each host is, which is named by its "master_name".
        address_map: where a node is that is said to be at another place, as
            ``{"10.0.0.1:6379": "127.0.0.1:7001"}``, or as a function of host and port that
            returns both. Not for independent nodes.
        sentinels: where Sentinels are: URLs, dictionaries, or pairs of host and port.
        sentinel_options: options of the connections to them, such as their own password.
        read_from: "primary"; "prefer-primary": commands that only read keys go to a replica
            where the primary is down or refuses; "prefer-replica": they go to replicas in turn,
            to the primary where there is none. Replicas of independent nodes are named in
            `hosts` (`"replicas": [node, …]`), others are told.
        max_lag: seconds by which a replica that is read from may be behind, as far as that is
            known; None for any.
        health: when a node counts as down: after how many FAILURES in a row it is left
            alone, for how many seconds at first (PAUSE) and at most (MAX_PAUSE). None:
            no node ever counts as down.
        alias: what errors and logs call it; that of the settings, None for no name.

    Attributes:
        is_retired: another cluster took its place; for those who keep a reference.
        recently_logged: what of its nodes was logged lately, for all who log.
        observers: called for batches and exchanges; to add or remove one, replace the tuple.
        trackings: the connections on which nodes tell of changes, for those who keep copies.

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
        self._topology, self._layout = make_topology(
            topology,
            hosts,
            host_defaults,
            make_node,
            partial(_use, self._threads, self._loops, self._local_pools),
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
        if isinstance(self._topology, StaticTopology):
            self._use(self._topology.everybody)
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
        """What is known of each host, by host id."""
        return self._topology.hosts

    @property
    def nodes(self) -> dict[int, Node]:
        """The nodes, by host id."""
        return self._topology.nodes

    @property
    def layout(self) -> Layout | None:
        """What the nodes of a Redis Cluster or Sentinels have said; None if nobody is asked.

        Where replicas of independent nodes are read from, these and how far they are behind.
        """
        return self._layout

    @property
    def router(self) -> BaseRouter:
        """The router; a new one whenever a host comes or goes."""
        return self._topology.router

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
            BadHostSetup: an option that cannot work, or a router that does not
                accept the host; then it is not added.
        """
        topology = self._static()
        if type(host_id) is not int or host_id < 0:
            raise BadHostSetup(f"Host id {host_id!r} is not an integer of 0 or more.")
        described = node_of_arguments(node, options)
        info = parse_host(host_id, described, self._host_defaults)
        topology.add(info, self._make_router, self._use)

    def remove_host(self, host_id: int) -> bool:
        """Remove a host while the cluster is in use; return whether it was there.

        Raises:
            BadHostSetup: the router needs the host; then it is not removed.
        """
        return self._static().remove(host_id, self._make_router, self._use)

    def _use(self, nodes: Mapping[int, Node]) -> None:
        _use(self._threads, self._loops, self._local_pools, nodes)

    def _static(self) -> StaticTopology:
        if isinstance(self._topology, RedisClusterTopology):
            raise TypeError(
                "The nodes of a Redis Cluster say themselves which nodes there are: add and "
                "remove them there, as by `valkey-cli --cluster`."
            )
        if isinstance(self._topology, SentinelTopology):
            raise TypeError(
                "Hosts that Sentinels watch are named once, in HOSTS. Make a new cluster."
            )
        return self._topology

    def learn(self, timeout: float | None = None) -> None:
        """Find out which nodes there are, if that is not known yet.

        Commands do so themselves. Until then, `hosts` and `nodes` of a Redis Cluster are those
        that the cluster was made with, and nobody knows who owns a key; of hosts that Sentinels
        watch nobody knows where they are. Independent nodes are known from the beginning.

        Args:
            timeout: seconds for it.

        Raises:
            redis.ConnectionError, redis.TimeoutError: no node or Sentinel answers.
        """
        if self._layout is not None and not self._layout.is_known:
            failure = self._threads.run(self._layout.learn(), timeout)
            if failure is not None:
                raise failure

    async def alearn(self, timeout: float | None = None) -> None:
        """Do what `learn` does on the event loop that runs."""
        if self._layout is not None and not self._layout.is_known:
            failure = await self._loops.run(self._layout.learn(), timeout)
            if failure is not None:
                raise failure

    # Health.

    def health(self) -> dict[int, NodeHealth]:
        """Return what this process knows of each node, by host id. Nothing is asked.

        cluster.health()[1].state              # "up", "failing" or "down"
        """
        return {host_id: node.health.get() for host_id, node in self.nodes.items()}

    def on_health_change(self, callback: Callable[[HealthChange], object]) -> None:
        """Call `callback(change)` whenever a node's state changes.

        It is called at the end of the call that saw the change, in the same thread. Its
        exceptions are logged.
        """
        self._health_changes.add_callback(callback)

    def on_primary_change(self, callback: Callable[[PrimaryChange], object]) -> None:
        """Let `callback(change)` be called whenever Sentinels give a shard another primary.

        As with `on_health_change`, at the end of the call that learned of it.
        """
        self._health_changes.add_callback(callback, PrimaryChange)

    def connections(self, hosts: Iterable[int] | None = None) -> dict[int, Connections]:
        """Return how many connections this process has to each node, by host id.

        cluster.connections()[1].idle          # 3

        Args:
            hosts: host ids; every node by default. In a Redis Cluster these are the
                primaries, whichever node that is by now; replicas have none but for a
                question now and then.

        Those of redis-py's own clients are not counted.
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

        The nodes of a Redis Cluster are asked first, if that is not known yet; see `learn`.
        """
        if self.router.has_slots:
            self.learn()
        return self.router.get_host_for_key(key)

    # Batches.

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch, such as those of `engine.rounds.batch`, and return its result.

        Args:
            timeout: seconds for all of it; what is unfinished then has failed.
        """
        if self._layout is not None and self._layout.is_look_due:
            batch = self._layout.looking(batch)
        if self._prefers_replicas and self._layout is not None:
            batch = from_replicas(self._layout, batch)
        if self.observers:
            return self._threads.run(observed(self, batch), timeout)
        return self._threads.run(batch, timeout, self)

    def arun(self, batch: Batch[T], timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Run a batch on the event loop that runs, once awaited; see `run`."""
        if self._layout is not None and self._layout.is_look_due:
            batch = self._layout.looking(batch)
        if self._prefers_replicas and self._layout is not None:
            batch = from_replicas(self._layout, batch)
        if self.observers:
            return self._loops.run(observed(self, batch), timeout)
        return self._loops.run(batch, timeout, self)

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
        return self.run(call_nodes(self, command, hosts), timeout)

    def remember_script(self, source: str | bytes) -> bytes:
        """Keep a script's source for nodes that do not know it; return its SHA1 digest."""
        return remember_script(source)

    # Clients of one node.

    def get_local_client(self, host_id: int) -> redis.Redis:
        """Return redis-py's own client for one node, with pipelines, pub/sub and locks.

        Raises:
            LookupError: the cluster has no such host.
        """
        if self._layout is not None:
            self.learn()
        return redis.Redis(connection_pool=self.get_pool_for_host(host_id))

    def get_local_client_for_key(self, key: Key) -> redis.Redis:
        """Return redis-py's own client for the node that owns a key.

        In a Redis Cluster it is good for commands and transactions on keys of one slot, as long
        as that stays where it is: the client does not follow it, and raises what the node
        says (MOVED). Locks of `get_routing_client()` and of a cache do.
        """
        return self.get_local_client(self.get_host_for_key(key))

    def get_pool_for_host(self, host_id: int) -> redis.ConnectionPool:
        """Return the pool of redis-py's that local clients of a node share.

        Raises:
            LookupError: the cluster has no such host.
        """
        return self._local_pools.get(self.nodes, host_id)

    def disconnect_pools(self) -> None:
        """Close idle connections; the cluster opens new ones as it needs them."""
        self._threads.close_idle()
        self._loops.close_idle_soon()
        self._local_pools.disconnect()

    close = disconnect_pools

    async def aclose(self) -> None:
        """Close the idle connections of the event loop that runs."""
        await self._loops.aclose()


def _use(
    transport: threads.Transport,
    loops_transport: loops.Transport,
    local_pools: LocalPools,
    nodes: Mapping[int, Node],
) -> None:
    """Have connections to these nodes from now on."""
    transport.use(nodes)
    loops_transport.use(nodes)
    local_pools.keep_only(nodes)


_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for cluster in list(_clusters):
        cluster._topology.start_over()  # noqa: SLF001 (same room)


register_at_fork(_start_over_after_fork)
