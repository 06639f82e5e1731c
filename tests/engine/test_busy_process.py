"""A process that is busy with itself blames no node for it."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from django_rb.engine import Cluster
from django_rb.engine.errors import NodeFailure
from django_rb.engine.rounds.batch import call_each, find
from django_rb.testing import LocalNodes

usleep = ctypes.PyDLL(None).usleep  # unlike CDLL, it keeps the interpreter's lock

KEYS = [b"key:%d" % number for number in range(20)]


@contextmanager
def interpreter_kept(seconds: float) -> Iterator[None]:
    """Let a thread keep the interpreter for so long, again and again."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.is_set():
            usleep(int(seconds * 1e6))
            time.sleep(0.01)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Blame:
    """Counts the calls after which a node is not well.

    None is, where the nodes are connected: their answers are there. A connection that is
    being opened takes several of them, and a machine that is busy with others may keep the
    process for less than is told from a slow node: one call in ten may end so.
    """

    def __init__(self, *, is_connected: bool) -> None:
        self._is_connected = is_connected
        self._calls: list[set[str]] = []

    def look(self, cluster: Cluster) -> None:
        self._calls.append({known.state for known in cluster.health().values()})

    def check(self) -> None:
        assert not any("down" in states for states in self._calls)
        allowed = 0 if self._is_connected else max(1, len(self._calls) // 10)
        assert sum(states != {"up"} for states in self._calls) <= allowed


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("deadline", [0.05, 0.2])
def test_a_thread_that_keeps_the_interpreter(
    nodes: LocalNodes, deadline: float, is_connected: bool
) -> None:
    cluster, blame = Cluster(nodes.hosts), Blame(is_connected=is_connected)
    if is_connected:
        cluster.run(find(cluster, KEYS))
    end = time.monotonic() + 2
    with interpreter_kept(deadline * 1.6):
        while time.monotonic() < end:
            cluster.run(find(cluster, KEYS), deadline)
            blame.look(cluster)
    blame.check()
    cluster.close()


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("deadline", [0.05, 0.2])
def test_a_loop_that_is_blocked(nodes: LocalNodes, deadline: float, is_connected: bool) -> None:
    cluster, blame = Cluster(nodes.hosts), Blame(is_connected=is_connected)

    async def block() -> None:
        while True:
            await asyncio.sleep(0.003)
            time.sleep(deadline * 1.6)

    async def main() -> None:
        if is_connected:
            await cluster.arun(find(cluster, KEYS))
        blocking = asyncio.create_task(block())
        end = time.monotonic() + 2
        while time.monotonic() < end:
            await cluster.arun(find(cluster, KEYS), deadline)
            blame.look(cluster)
        blame.check()
        blocking.cancel()
        await cluster.aclose()

    asyncio.run(main())


class TestANodeThatWasNotGivenItsTime:
    """It does not answer, and a second of the call's half was not there for anyone."""

    @pytest.fixture
    def paused(self) -> Iterator[Cluster]:
        with LocalNodes(1) as nodes:
            cluster = Cluster(nodes.hosts, health={"FAILURES": 1})
            cluster.call_nodes("PING")
            nodes.pause(0)
            yield cluster
            cluster.close()

    def check(self, cluster: Cluster, failures: list[NodeFailure]) -> None:
        assert [failure.host_id for failure in failures] == [0]
        assert cluster.health()[0].state == "up"

    def test_a_thread_that_keeps_the_interpreter(self, paused: Cluster) -> None:
        timer = threading.Timer(0.05, usleep, [1_000_000])
        timer.start()
        _, failures = paused.run(call_each(paused, {0: ("PING",)}), 0.5)
        timer.join()
        self.check(paused, failures)

    def test_a_loop_that_is_blocked(self, paused: Cluster) -> None:
        async def main() -> None:
            asyncio.get_running_loop().call_later(0.05, time.sleep, 1)
            _, failures = await paused.arun(call_each(paused, {0: ("PING",)}), 0.5)
            self.check(paused, failures)
            await paused.aclose()

        asyncio.run(main())
