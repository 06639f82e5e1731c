"""Nodes with a proxy in front of each, and what is left over of a cluster that used them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.loops.pool import Pool
from django_rb.testing import LocalNodes
from tests.faults.operations import COUNT, Caller, Data, Loop, as_stored, own, stored
from tests.faults.proxy import Proxy
from tests.helpers import Servers, wait_until, without_redirects

FAULTY = 1
# Short, but what is alive answers within them on a busy machine too.
SOCKET_TIMEOUT = 0.4
CONNECT_TIMEOUT = 0.3
TIMEOUTS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}
# Where nothing is to time out, a busy machine shall not make it.
PATIENT = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}

USER, PASSWORD = "app", "correct horse"
NAMES_PER_NODE = 5


class Rig:
    """A few nodes of its own, each behind a proxy; the tests break them and mend them.

    Clients come as the user USER; `servers` come as the default user, past the proxies.

    Attributes:
        nodes: the servers.
        servers: asks them directly.
        proxies: by host id.
        data: what `fill` stores.
        transport: how callers wait: "poll" or "asyncio".
    """

    transport = "poll"

    def __init__(self, count: int, **options: str) -> None:
        # A replica then refuses writes and names no primary, as Redis and older Valkey do.
        # What becomes of calls where it does is told by tests/redirects.
        user = [USER, "on", f">{PASSWORD}", "~*", "&*", "+@all", *without_redirects()]
        # Tests come past the proxies and log in nowhere, and let nodes load by DEBUG RELOAD.
        own = [("requirepass", ""), ("enable-debug-command", "yes")]
        self.nodes = LocalNodes(count, options=[("user", user), *own, *options.items()])
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self.nodes)
            self.proxies = {
                host_id: stack.enter_context(Proxy((host["host"], host["port"])))
                for host_id, host in self.nodes.hosts.items()
            }
            self.servers = stack.enter_context(Servers(self.nodes.hosts))
            self.data = self._make_data()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def proxy(self) -> Proxy:
        """The proxy of the faulty node."""
        return self.proxies[FAULTY]

    def hosts(self, *proxied: int) -> dict[int, dict[str, Any]]:
        """Return the nodes as HOSTS; those named are reached through their proxies."""
        return {
            host_id: {
                **(self.proxies[host_id].host if host_id in proxied else host),
                "username": USER,
                "password": PASSWORD,
            }
            for host_id, host in self.nodes.hosts.items()
        }

    def ask(self, *command: Any) -> Any:
        """Run a command on the faulty node, past the proxy."""
        return self.servers.ask(FAULTY, *command)

    def connections(self) -> int:
        """Return how many connections of USER's the nodes have."""
        clients = [self.servers.ask(host_id, "CLIENT LIST") for host_id in self.data.hosts]
        return sum(client["user"] == USER for listed in clients for client in listed)

    def check_connections(self, cluster: Cluster) -> None:
        """Fail unless every connection that a cluster has is idle in a pool of its."""
        # One that was opened too late for its call becomes idle when it is open.
        wait_until(lambda: self.connections() == count_idle(cluster))

    def handshake(self, cluster: Cluster) -> int:
        """Return how many bytes the faulty node says while a connection is set up."""
        before = self.proxy.replied
        cluster._threads.pools[FAULTY].open().close()
        return self.proxy.replied - before

    def _make_data(self) -> Data:
        data = Data(FAULTY)
        router = SlotRouter(Cluster(self.nodes.hosts))
        for kind, wanted in (("names", NAMES_PER_NODE), ("counters", 1), ("unused", 1)):
            found: dict[int, list[str]] = {host_id: [] for host_id in self.nodes.hosts}
            number = 0
            while any(len(names) < wanted for names in found.values()):
                name = f"{kind}{number}"
                names = found[router.get_host_for_key(stored(name))]
                if len(names) < wanted:
                    names.append(name)
                number += 1
            setattr(data, kind, found)
        return data

    def fill(self, *only: int) -> None:
        """Let nodes, all by default, hold what `data` says and nothing else."""
        data = self.data
        for host_id in only or data.hosts:
            pairs = {stored(name): as_stored(own(name)) for name in data.names[host_id]}
            pairs |= {stored(name): b"%d" % COUNT for name in data.counters[host_id]}
            self.servers.ask(host_id, "FLUSHALL")
            self.servers.ask(
                host_id, "MSET", *(word for pair in pairs.items() for word in pair)
            )

    def held(self, names: list[str]) -> dict[str, Any]:
        """Return what the nodes hold under names, as bytes; None where they hold nothing."""
        by_node: dict[int, list[str]] = {}
        for name in names:
            by_node.setdefault(self.data.node_of(name), []).append(name)
        found: dict[str, Any] = {}
        for host_id, share in by_node.items():
            values = self.servers.ask(host_id, "MGET", *map(stored, share))
            found |= zip(share, values, strict=True)
        return {name: found[name] for name in names}

    @contextlib.contextmanager
    def cluster(
        self, *proxied: int, times_out: bool = False, **config: Any
    ) -> Iterator[Cluster]:
        """Configure the cluster "default"; nothing of it is left over when the block ends.

        Args:
            proxied: the nodes that are reached through their proxies.
            times_out: with TIMEOUTS, else PATIENT.
            config: keys of RB_CLUSTERS["default"] besides HOSTS and POOL_OPTIONS.
        """
        threads, descriptors = set(threading.enumerate()), open_descriptors()
        options = TIMEOUTS if times_out else PATIENT
        settings = {"HOSTS": self.hosts(*proxied), "POOL_OPTIONS": options, **config}
        with override_settings(RB_CLUSTERS={"default": settings}):
            try:
                with loop_of_callers(self.transport):
                    yield clusters["default"]
            finally:  # or a test that fails would make the next ones fail
                try:
                    # What is still being opened, for a call that did not wait, goes to the
                    # pool.
                    wait_until(lambda: set(threading.enumerate()) <= threads)
                finally:
                    clusters.reset()
        wait_until(lambda: self.connections() == 0)
        wait_until(lambda: open_descriptors() <= descriptors)


@contextlib.contextmanager
def loop_of_callers(transport: str) -> Iterator[None]:
    """Let callers await what they do, if the transport is "asyncio"."""
    if transport != "asyncio":
        yield
        return
    Caller.loop = Loop()
    try:
        yield
    finally:
        loop, Caller.loop = Caller.loop, None
        loop.close()


def pools_of(cluster: Cluster) -> list[Pool]:
    """Return the pools that a cluster has on event loops."""
    loops = list(cluster._loops._loops)
    return [pool for loop in loops for pool in loop.pools]


def count_idle(cluster: Cluster) -> int:
    """Return how many idle connections a cluster has, and that it has no others."""
    pools = pools_of(cluster)
    if any(pool._openings or len(pool.connections) != len(pool._idle) for pool in pools):
        return -1
    idle = sum(len(pool._idle) for pool in pools)
    return idle + sum(len(node.idle) for node in cluster._threads.pools.values())


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
