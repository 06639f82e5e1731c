"""What is scarce is used sparingly: threads, connections, descriptors, and time."""

from __future__ import annotations

import _thread
import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis
from hiredis import Reader

from django_rb.engine import Cluster, NodeFailure, SlotRouter
from django_rb.engine.nodes.failing import MOST_OPENINGS_PER_NODE
from django_rb.engine.rounds.batch import call, call_each, find
from django_rb.engine.threads import openings
from django_rb.testing import LocalNodes
from tests.faults.sharing.checks import openings_under_way
from tests.faults.sharing.programs import run_program
from tests.helpers import wait_until

KEYS = [b"key:%d" % number for number in range(2000)]
SILENT_NODES = 200
ATTEMPTS = 30


@pytest.fixture
def silent() -> Iterator[Cluster]:
    """Many nodes that take connections and say nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        port = server.getsockname()[1]
        hosts = [{"port": port, "db": number} for number in range(SILENT_NODES)]
        cluster = Cluster(hosts, health=None)
        yield cluster
        cluster.close()
    wait_until(lambda: not openings_under_way())


def test_a_stopped_node_gathers_neither_threads_nor_connections() -> None:
    with LocalNodes(1) as nodes:
        cluster = Cluster(nodes.hosts, health=None)
        nodes.pause(0)
        most = 0
        for _ in range(60):
            _, failures = cluster.run(call(cluster, b"key", b"GET", b"key"), 0.05)
            assert failures
            most = max(most, openings_under_way())
        assert 1 <= most <= MOST_OPENINGS_PER_NODE
        nodes.resume(0)
        wait_until(lambda: not openings_under_way())
        assert cluster.call_nodes("PING") == ({0: b"PONG"}, [])
        assert len(cluster._threads.pools[0].idle) == 1
        cluster.close()


def test_a_stopped_node_gathers_no_openings_on_a_loop() -> None:
    def openings() -> int:
        return sum(task.get_name().startswith("rb-open") for task in asyncio.all_tasks())

    async def main(nodes: LocalNodes) -> None:
        cluster = Cluster(nodes.hosts, health=None)
        nodes.pause(0)
        most = 0
        for _ in range(40):
            batch = call(cluster, b"key", b"GET", b"key")
            assert (await cluster.arun(batch, 0.05))[1]
            most = max(most, openings())
        assert 1 <= most <= MOST_OPENINGS_PER_NODE
        nodes.resume(0)
        value, failures = await cluster.arun(call(cluster, b"key", b"GET", b"key"))
        assert (value, failures) == (None, [])
        await cluster.aclose()

    with LocalNodes(1) as nodes:
        asyncio.run(main(nodes))


def test_many_callers_of_many_silent_nodes_share_openings(silent: Cluster) -> None:
    is_over = threading.Event()

    def look_up() -> None:
        while not is_over.is_set():
            silent.run(find(silent, KEYS), 0.05)

    callers = [threading.Thread(target=look_up) for _ in range(4)]
    for caller in callers:
        caller.start()
    end = time.monotonic() + 1
    most = 0
    while time.monotonic() < end:
        most = max(most, openings_under_way())
    is_over.set()
    for caller in callers:
        caller.join()
    assert most <= SILENT_NODES + len(callers)


def test_few_threads_open_connections_to_many_nodes(
    nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = _thread.start_new_thread, 0

    def count(*arguments: Any) -> int:
        nonlocal started
        started += 1
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", count)
    monkeypatch.setattr(openings, "QUICK_SECONDS_EACH", 20)
    monkeypatch.setattr(openings, "QUICK_SECONDS", 20)
    cluster = Cluster([{**host, "db": db} for db in range(10) for host in nodes.hosts.values()])
    replies, failures = cluster.call_nodes("PING")
    assert (list(replies.values()), failures) == ([b"PONG"] * 40, [])
    assert started == openings.FEW_OPENINGS
    cluster.close()


def test_many_silent_nodes_keep_no_others_from_being_connected_to(nodes: LocalNodes) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        silent = [{"port": server.getsockname()[1], "db": number} for number in range(40)]
        patient = {"socket_timeout": 20.0, "socket_connect_timeout": 20.0}
        hosts = [*silent, *nodes.hosts.values()]
        cluster = Cluster(hosts, pool_options=patient, health=None)
        everywhere = dict.fromkeys(cluster.nodes, ("PING",))
        replies, failures = cluster.run(call_each(cluster, everywhere), 2)
        assert list(replies) == list(cluster.nodes)[len(silent) :]
        assert len(failures) == len(silent)
        cluster.close()
    wait_until(lambda: not openings_under_way())


@pytest.mark.parametrize("deadline", [0.05, 0.1])
@pytest.mark.parametrize("transport", ["threads", "asyncio"])
def test_a_deadline_holds_for_many_silent_nodes(
    transport: str, deadline: float, silent: Cluster
) -> None:
    """50 ms more are promised. A machine may be busy, but not each of many times."""
    limit = deadline + 0.05
    took: list[float] = []

    def note(began: float, failures: list[NodeFailure]) -> None:
        took.append(time.monotonic() - began)
        assert len(failures) == SILENT_NODES

    async def on_a_loop() -> None:
        while len(took) < ATTEMPTS and min(took, default=limit) >= limit:
            began = time.monotonic()
            note(began, (await silent.arun(find(silent, KEYS), deadline))[1])
        await silent.aclose()

    if transport == "threads":
        while len(took) < ATTEMPTS and min(took, default=limit) >= limit:
            began = time.monotonic()
            note(began, silent.run(find(silent, KEYS), deadline)[1])
    else:
        asyncio.run(on_a_loop())
    assert min(took) < limit, took


def test_no_free_descriptor(nodes: LocalNodes) -> None:
    assert run_program("descriptors", "all_taken", nodes.hosts, socket_timeout=2.0) == "done"


class Halting(asyncio.Protocol):
    """A node that takes its time to answer, or never does."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._reader = Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while command := self._reader.gets():
            if self._seconds is not None:
                said = b"$1\r\nv\r\n" if command[0] == b"GET" else b"+OK\r\n"
                asyncio.get_running_loop().call_later(
                    self._seconds, self._transport.write, said
                )


def test_an_opening_that_hangs_holds_others_up_only_while_many_are_under_way() -> None:
    """On event loops: the first connection to node 0 hangs, the next ones do not."""
    hangs: list[float | None] = [None]

    async def main() -> list[bytes | None]:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(
                lambda number=number: Halting(  # type: ignore[misc]
                    0.1 if number else (hangs.pop() if hangs else 0)
                ),
                "127.0.0.1",
                0,
            )
            for number in range(40)
        ]
        hosts = [{"port": server.sockets[0].getsockname()[1]} for server in servers]
        options = {"socket_timeout": None, "socket_connect_timeout": None, "protocol": 2}
        cluster = Cluster(hosts, pool_options=options, router_cls=SlotRouter)

        async def get(host_id: int) -> bytes | None:
            key = next(key for key in KEYS if cluster.get_host_for_key(key) == host_id)
            value, failures = await cluster.arun(call(cluster, key, b"GET", key))
            assert not failures
            return cast("bytes | None", value)

        others = [asyncio.create_task(get(host_id)) for host_id in range(1, 40)]
        await asyncio.sleep(0)
        found = [asyncio.create_task(get(0)) for _ in range(3)]
        async with asyncio.timeout(20):
            said = await asyncio.gather(*found, *others)
        await cluster.aclose()
        for server in servers:
            server.close()
        return said

    assert asyncio.run(main()) == [b"v"] * 42


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought eager tasks")
def test_eager_tasks_on_a_node_that_cannot_be_reached() -> None:
    options = {"socket_timeout": 20.0, "socket_connect_timeout": 20.0}
    hosts = [{"unix_socket_path": "/nowhere/node.sock"}]
    cluster = Cluster(hosts, pool_options=options, health=None)
    make_eager: Callable[..., object] = getattr(asyncio, "eager_task_factory")  # noqa: B009

    async def main() -> list[object]:
        asyncio.get_running_loop().set_task_factory(make_eager)  # type: ignore[arg-type]
        calls = (cluster.aio.get(key) for key in KEYS[:1000])
        async with asyncio.timeout(20):
            said = await asyncio.gather(*calls, return_exceptions=True)
        await cluster.aclose()
        return list(said)

    errors = asyncio.run(main())
    assert {type(error) for error in errors} == {redis.ConnectionError}
