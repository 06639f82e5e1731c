"""The servers that contestants use: started when first asked for, kept for the next race."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contestants import Place
from benchmarks.proxy import ProxyProcess
from benchmarks.redis_cluster import moving
from django_rb.testing import LocalNodes

Host = tuple[str, int]


class Servers:
    """Nodes, and other topologies of as many. Another number of nodes ends those that run."""

    def __init__(self) -> None:
        self.version = ""
        self._count = 0
        self._stack = ExitStack()
        self._nodes: LocalNodes | None = None
        self._cluster: LocalNodes | None = None
        self._watched: LocalNodes | None = None
        self._hosts: dict[Any, list[Host]] = {}

    def hosts(self, place: Place, count: int, rtt: float) -> list[Host]:
        """Return the addresses of a contestant's nodes, `rtt` milliseconds away."""
        if count != self._count:
            self.close()
            self._count = count
        if (place, rtt) not in self._hosts:
            if rtt:
                proxy = ProxyProcess(self.hosts(place, count, 0), rtt)
                self._hosts[place, rtt] = self._stack.enter_context(proxy).hosts
            else:
                self._hosts[place, rtt] = self._start(place)
        return self._hosts[place, rtt]

    def _running(self) -> Iterator[LocalNodes]:
        return filter(None, (self._nodes, self._cluster, self._watched))

    def flush(self) -> None:
        """Remove all keys."""
        for nodes in self._running():
            nodes.flush()

    def pids(self) -> list[int]:
        """Return the process ids of all servers."""
        return [nodes.pid(host_id) for nodes in self._running() for host_id in nodes.hosts]

    @contextmanager
    def moving(self, is_wanted: bool) -> Iterator[None]:
        """Move slots of the Redis Cluster for as long as the block runs, if that is wanted."""
        if not is_wanted:
            yield
            return
        assert self._cluster is not None
        with moving(self._cluster):
            yield

    def close(self) -> None:
        """End the servers."""
        self._nodes = self._cluster = self._watched = None
        self._hosts = {}
        self._stack.close()

    def _start(self, place: Place) -> list[Host]:
        if place == "cluster":
            nodes = self._cluster = self._run(topology="redis-cluster")
        elif place == "sentinel":
            return self._start_watched()
        else:
            nodes = self._nodes = self._nodes or self._run()
        if place == "tls":
            return self._start_tls(nodes)
        hosts = [(host["host"], host["port"]) for host in nodes.hosts.values()]
        return hosts[:1] if place == "one" else hosts

    def _start_watched(self) -> list[Host]:
        nodes = self._watched = self._run(topology="sentinel")
        sentinels = [urlsplit(url) for url in nodes.sentinels]
        places = [nodes.address(number) for number in range(nodes.count)]
        return [
            *((place["host"], place["port"]) for place in places),
            *((str(url.hostname), url.port or 0) for url in sentinels),
        ]

    def _run(self, **options: Any) -> LocalNodes:
        # Contestants get a host and a port, and no password.
        nodes = LocalNodes(self._count, options={"requirepass": ""}, **options)
        self._stack.enter_context(nodes)
        self.version = nodes.server
        return nodes

    def _start_tls(self, nodes: LocalNodes) -> list[Host]:
        import trustme  # noqa: PLC0415 (only django-rb's own environment has it)

        from tests.security.tls import serve_tls  # noqa: PLC0415

        authority = trustme.CA()
        folder = Path(self._stack.enter_context(TemporaryDirectory()))
        certificate = authority.issue_cert("127.0.0.1")
        served = serve_tls(nodes, certificate, authority, folder)
        hosts = self._stack.enter_context(served)
        return [(host["host"], host["port"]) for host in hosts.values()]


@contextmanager
def on_one_core(pids: Sequence[int]) -> Iterator[None]:
    """Keep processes, all their threads, on one core, where the system lets us."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    for thread in _threads(pids):
        os.sched_setaffinity(thread, {min(before)})
    try:
        yield
    finally:
        for thread in _threads(pids):
            os.sched_setaffinity(thread, before)


def _threads(pids: Sequence[int]) -> list[int]:
    return [
        int(thread.name) for pid in pids for thread in Path(f"/proc/{pid}/task").glob("[0-9]*")
    ]
