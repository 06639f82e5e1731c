"""Connections belong to the loops that made them, and end with them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import subprocess
import sys
import threading
import unittest
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from django_rb import clusters
from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.loops import handshake as aio_handshake
from django_rb.engine.loops import pool as aio_pool
from django_rb.engine.nodes.node import Node
from django_rb.engine.rounds.batch import call_each
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import collect_garbage, wait_until

NewLoop = Callable[[], asyncio.AbstractEventLoop]

CACHES = {"default": {"BACKEND": "django_rb.cache.RBCache"}}


@pytest.fixture(
    params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """What makes a loop. Every test with it must leave nothing of its loops."""
    made: NewLoop = request.param
    made().close()  # opens what the process needs for loops of a kind
    return made


@pytest.fixture
def left(cluster: Cluster) -> Iterator[Callable[[], object]]:
    """Return what is open of loops and known of them; at the end, that must be nothing."""
    collect_garbage()
    before = sockets()

    def look() -> object:
        gc.collect()
        return sockets() - before, known(cluster)

    yield look
    wait_until(lambda: look() == (set(), 0))


def sockets() -> set[str]:
    found = set()
    for fd in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this very look
            found.add(str(fd.readlink()))
    return {name for name in found if name.startswith("socket:")}


async def turn_until(predicate: Callable[[], object]) -> None:
    """Let the loop run until something is true: it closes sockets in a later turn."""
    async with asyncio.timeout(10):
        while not predicate():
            await asyncio.sleep(0.005)


def known(cluster: Cluster) -> int:
    """Return how many loops a cluster and its nodes know."""
    return len(cluster._loops._loops)


async def use(cluster: Cluster, tasks: int = 12) -> None:
    """Have several connections to each node, and see that they answer what was asked."""

    async def one(n: int) -> None:
        await cluster.aio.mset({f"key:{n}": n, f"also:{n}": -n})
        assert await cluster.aio.mget(f"key:{n}", f"also:{n}") == [b"%d" % n, b"%d" % -n]

    await asyncio.gather(*map(one, range(tasks)))


async def ids(cluster: Cluster) -> Any:
    """Return the ids that the nodes have for a connection."""
    async with cluster.aall() as client:
        promise = client.client_id()
    return promise.value


# The end of a loop.


def test_a_loop_that_runs_again_has_its_connections(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        first = runner.run(ids(cluster))
        assert runner.run(ids(cluster)) == first
        assert known(cluster) == 1
        assert len(left()[0]) >= len(cluster.nodes)  # the loop has its own


@pytest.mark.parametrize("how", ["close", "asyncgens", "runner"])
def test_nothing_is_left_of_a_loop_that_was_closed(
    how: str, cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    if how == "runner":
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(use(cluster))
        return
    loop = new_loop()
    loop.run_until_complete(use(cluster))
    if how == "asyncgens":
        loop.run_until_complete(loop.shutdown_asyncgens())
    gc.disable()
    try:
        before = sockets()
        loop.close()
        assert len(before - sockets()) >= len(cluster.nodes)  # not only when it is collected
    finally:
        gc.enable()
    loop.close()  # as often as one likes


def test_a_loop_that_runs_cannot_be_closed(cluster: Cluster, new_loop: NewLoop) -> None:
    async def main() -> None:
        first = await ids(cluster)
        with pytest.raises(RuntimeError, match=r"[Cc]annot close a running event loop"):
            asyncio.get_running_loop().close()
        assert await ids(cluster) == first

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_loop_ends_while_connections_are_opened(new_loop: NewLoop, nodes: LocalNodes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = {"host": "127.0.0.1", "port": silent.getsockname()[1]}
        cluster = Cluster([host, nodes.hosts[1]])
        gc.collect()
        before = sockets()
        loop = new_loop()
        asked = loop.create_task(ids(cluster))
        loop.run_until_complete(asyncio.sleep(0.02))
        loop.call_soon(asked.cancel)
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(asked)
        loop.close()
        del asked, loop
        gc.collect()
        assert sockets() <= before
        assert known(cluster) == 0


def test_a_connection_that_is_there_although_its_opening_was_cancelled(
    cluster: Cluster, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = aio_handshake.connect

    async def pass_over(node: Node) -> Any:
        task = asyncio.ensure_future(connect(node))
        opened.append(task)
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(task)
        return task.result()

    opened: list[Any] = []
    monkeypatch.setattr(aio_pool, "connect", pass_over)
    loop = asyncio.new_event_loop()
    asked = loop.create_task(ids(cluster))
    while not opened:
        loop.run_until_complete(asyncio.sleep(0))
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(asked)
    loop.close()


def test_a_loop_that_nobody_closes_is_collected_with_all_it_has(
    cluster: Cluster, left: Any
) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(cluster))
    reference = weakref.ref(loop)
    del loop
    with pytest.warns(ResourceWarning, match="unclosed"):  # asyncio's, of the loop
        gc.collect()
    assert reference() is None


def test_loops_come_and_go(cluster: Cluster, new_loop: NewLoop, left: Any) -> None:
    async def count() -> int:
        return await cluster.aio.incr("count")

    for n in range(100):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(count()) == n + 1
        assert known(cluster) == 0


def test_several_loops_at_once(cluster: Cluster, new_loop: NewLoop, left: Any) -> None:
    meet = threading.Barrier(4)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                for _ in range(3):
                    meet.wait(30)
                    runner.run(use(cluster))
        except BaseException as error:  # noqa: BLE001 (it is the test's)
            errors.append(error)
            meet.abort()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# By address: for a name uvloop starts libuv's pool of threads, whose end may wait for ever in a
# forked child.
EXITS = """
import asyncio, os, sys, threading, uvloop
from django_rb.engine import Cluster
cluster = Cluster([sys.argv[1]])
async def use():
    await asyncio.gather(*(cluster.aio.incr("hits") for _ in range(8)))
async def forever():
    await use()
    used.set()
    await asyncio.Event().wait()
used = threading.Event()
for run in (asyncio.run, uvloop.run):
    run(use())
    if sys.argv[2] == "a loop runs":
        threading.Thread(target=run, args=[forever()], daemon=True).start()
        used.wait()
        used.clear()
if not os.fork():
    asyncio.run(use())
    sys.exit()
os.wait()
kept = asyncio.new_event_loop()
kept.run_until_complete(use())
"""


@pytest.mark.parametrize("when", ["a loop runs", "no loop runs"])
def test_an_interpreter_exits_with_idle_connections(when: str, nodes: LocalNodes) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXITS, nodes.urls[0], when],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0
    # What asyncio says of a loop that nobody closes, and of its two ends of a pipe.
    told = [line for line in ended.stderr.splitlines() if "Warning: " in line]
    assert all("loop" in line or "family=1," in line for line in told), ended.stderr


# What a cluster does meanwhile.


def test_a_closed_cluster_closes_what_is_idle_on_all_loops(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    goes_on, ready = threading.Event(), threading.Event()

    async def main() -> None:
        await use(cluster)
        ready.set()
        while not goes_on.is_set():  # by another thread
            await asyncio.sleep(0.002)
        await use(cluster)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        thread = threading.Thread(target=runner.run, args=[main()])
        thread.start()
        ready.wait()
        before = sockets()
        cluster.close()
        wait_until(lambda: len(before - sockets()) >= len(cluster.nodes))
        goes_on.set()
        thread.join()
        assert known(cluster) == 1


def test_aclose_closes_what_is_idle_on_the_loop_that_runs(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    async def main() -> None:
        await cluster.aclose()  # with nothing to close
        first = await ids(cluster)
        before = sockets()
        await cluster.aclose()
        assert len(before - sockets()) >= len(cluster.nodes)
        assert not (await ids(cluster)).items() & first.items()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_cluster_that_is_collected_takes_its_connections_along(
    nodes: LocalNodes, new_loop: NewLoop, left: Any
) -> None:
    async def main() -> None:
        before = sockets()
        for _ in range(3):
            await use(Cluster(nodes.hosts))
            gc.collect()
        await turn_until(lambda: not sockets() - before)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_hosts_come_and_go_while_loops_run(
    cluster: Cluster, nodes: LocalNodes, new_loop: NewLoop, left: Any
) -> None:
    async def main() -> None:
        first = await ids(cluster)
        before = sockets()
        assert cluster.remove_host(3)
        await turn_until(lambda: len(before - sockets()) == 1)
        assert await ids(cluster) == {host: first[host] for host in (0, 1, 2)}

        cluster.add_host(3, **nodes.hosts[2])  # another server than before
        found = await ids(cluster)
        assert found[3] > found[2]
        cluster.remove_host(3)
        cluster.add_host(3, **nodes.hosts[3])
        await use(cluster)
        assert (await ids(cluster))[3] > first[3]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_host_that_goes_has_its_answer_heard(nodes: LocalNodes, new_loop: NewLoop) -> None:
    async def main() -> None:
        asked = asyncio.create_task(ping())
        while not peer.commands:
            await asyncio.sleep(0.002)
        cluster.remove_host(0)
        cluster.add_host(0, **nodes.hosts[0])
        assert await ping() == b"PONG"
        may_answer.set()
        assert await asked == b"late"
        [pools] = cluster._loops._loops
        await turn_until(lambda: [n for p in pools.pools if (n := len(p.connections))] == [1])

    async def ping() -> Any:
        replies, _ = await cluster.arun(call_each(cluster, {0: ("PING",)}))
        return replies[0]

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        assert may_answer.wait(10)
        connection.sendall(b"+late\r\n")

    may_answer = threading.Event()
    with Peer(answer) as peer, asyncio.Runner(loop_factory=new_loop) as runner:
        cluster = Cluster(
            [peer.host, nodes.hosts[1]],
            pool_options={"socket_timeout": 30},
            router_cls=SlotRouter,
        )
        runner.run(main())


def test_both_transports_know_a_node_that_is_down() -> None:
    changes: list[tuple[int, str]] = []
    health = {"FAILURES": 2, "PAUSE": 60, "MAX_PAUSE": 60}
    with LocalNodes(1) as nodes, asyncio.Runner() as runner:
        cluster = Cluster([nodes.hosts[0], {"port": 1}], health=health)
        cluster.on_health_change(lambda change: changes.append((change.host_id, change.state)))
        runner.run(cluster.arun(call_each(cluster, {0: ("PING",), 1: ("PING",)})))
        cluster.call_nodes("PING")
        assert cluster.health()[1].state == "down"
        for outcome in (
            runner.run(cluster.arun(call_each(cluster, {0: ("PING",), 1: ("PING",)}))),
            cluster.call_nodes("PING"),
        ):
            [failure] = outcome[1]
            assert "is down" in str(failure.error)
        assert [state for _, state in changes] == ["failing", "down"]
        cluster.close()


# Both at once.


def test_a_loops_thread_may_use_the_methods_that_wait(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    async def main() -> None:
        await cluster.aio.set("key", 1)
        assert cluster.get_routing_client().get("key") == b"1"
        with cluster.map() as client:
            promise = client.incr("key")
        assert await promise == 2  # settled already
        assert await cluster.aio.get("key") == b"2"
        cluster.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_process_forks_while_its_loop_runs(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    async def child() -> None:
        assert not sockets() & parents
        assert len(cluster._loops._loops) == 0
        await use(cluster)
        assert not (await ids(cluster)).items() & mine.items()

    async def main() -> None:
        before = sockets()
        mine.update(await ids(cluster))
        await use(cluster)
        # What is being opened is redis-py's still, and would stay open in the child.
        (pools,) = cluster._loops._loops
        while any(pool._openings for pool in pools.pools):
            await asyncio.sleep(0.001)
        parents.update(sockets() - before)
        assert len(parents) >= len(cluster.nodes)
        everybody = {host: await clients(host) for host in cluster.nodes}
        pid = os.fork()
        if not pid:
            status = 1
            with contextlib.suppress(BaseException):
                with asyncio.Runner(loop_factory=new_loop) as runner:
                    runner.run(child())
                gc.collect()
                status = 0
            os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        await use(cluster)
        assert everybody == {host: await clients(host) for host in cluster.nodes}

    async def clients(host: int) -> set[Any]:
        """Return the ids of all connections that are open to a node."""
        async with cluster.afanout([host]) as client:
            promise = client.client_list()
        return {client["id"] for client in promise.value[host]}

    mine: dict[int, int] = {}
    parents: set[str] = set()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


# Django's ways to have loops.


async def awaited_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await caches["default"].aincr("hits")))


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(async_to_sync(caches["default"].aincr)("hits")))


urlpatterns = [path("async", awaited_page), path("sync", page)]


@pytest.fixture
def site(nodes: LocalNodes) -> Iterator[Cluster]:
    with override_settings(CACHES=CACHES, ROOT_URLCONF=__name__):
        caches["default"].set("hits", 0)
        yield clusters["default"]


def test_views_of_both_kinds_in_clients_of_both_kinds(site: Cluster, left: Any) -> None:
    async def visit() -> list[bytes]:
        client = AsyncClient()
        return [(await client.get(f"/{page}")).content for page in ("async", "sync")]

    found = [Client().get(f"/{page}").content for page in ("async", "sync") * 3]
    assert found == [b"%d" % n for n in range(1, 7)]
    assert asyncio.run(visit()) == [b"7", b"8"]
    assert async_to_sync(visit)() == [b"9", b"10"]
    assert known(site) == 0


def test_settings_that_change_on_a_loop(nodes: LocalNodes, left: Any) -> None:
    async def main() -> None:
        for db in (1, 2, 3):
            hosts = {host_id: {**host, "db": db} for host_id, host in nodes.hosts.items()}
            with override_settings(CACHES=CACHES, RB_CLUSTERS={"default": {"HOSTS": hosts}}):
                assert await caches["default"].aadd("db", db)
                assert await caches["default"].aget("db") == db
            await asyncio.sleep(0.01)
            gc.collect()
        await turn_until(lambda: not sockets() - before)
        await cache_of_before.aset("key", 1)
        assert await cache_of_before.aget("key") == 1

    with override_settings(CACHES=CACHES), asyncio.Runner() as runner:
        cache_of_before = caches["default"]
        runner.run(asyncio.sleep(0))
        before = sockets()
        runner.run(main())


def test_an_isolated_test_case(site: Cluster, left: Any) -> None:
    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            await caches["default"].aset("key", 1)

        async def test_it(self) -> None:
            assert await caches["default"].aincr("key") == 2

        async def asyncTearDown(self) -> None:
            await caches["default"].adelete("key")

    result = unittest.TestResult()
    Case("test_it").run(result)
    assert result.wasSuccessful(), result.errors
    assert known(site) == 0


def test_a_loop_may_be_closed_where_another_runs(
    cluster: Cluster, new_loop: NewLoop, left: Any
) -> None:
    other = new_loop()
    thread = threading.Thread(target=other.run_until_complete, args=(use(cluster),))
    thread.start()
    thread.join()

    async def close() -> None:
        other.close()

    asyncio.run(close())
    assert left() == (set(), 0)


def test_a_connection_does_not_keep_what_opened_it(cluster: Cluster) -> None:
    """The context of a request refers to all that belongs to it."""
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    class Thing:
        pass

    async def request() -> weakref.ref[Thing]:
        thing = Thing()
        variable.set(thing)
        await use(cluster)
        return weakref.ref(thing)

    async def serve() -> None:
        seen = await asyncio.create_task(request())
        for _ in range(100):  # until the loop's own callbacks are done
            await asyncio.sleep(0)
        gc.collect()
        assert seen() is None

    asyncio.run(serve())
