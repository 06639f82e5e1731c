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
from django_rb.engine.rounds.batch import find
from django_rb.testing import LocalNodes

KEYS = [b"key:%d" % number for number in range(20)]


@contextmanager
def interpreter_kept(seconds: float) -> Iterator[None]:
    """Let a thread keep the interpreter for so long, again and again."""
    is_over = threading.Event()
    usleep = ctypes.PyDLL(None).usleep  # unlike CDLL, it keeps the interpreter's lock

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


@pytest.mark.parametrize("deadline", [0.05, 0.2])
def test_a_thread_that_keeps_the_interpreter(nodes: LocalNodes, deadline: float) -> None:
    cluster = Cluster(nodes.hosts)
    cluster.run(find(cluster, KEYS))
    end = time.monotonic() + 2
    with interpreter_kept(deadline * 1.6):
        while time.monotonic() < end:
            cluster.run(find(cluster, KEYS), deadline)
            states = {known.state for known in cluster.health().values()}
            assert states == {"up"}
    cluster.close()


@pytest.mark.parametrize("deadline", [0.05, 0.2])
def test_a_loop_that_is_blocked(nodes: LocalNodes, deadline: float) -> None:
    cluster = Cluster(nodes.hosts)

    async def block() -> None:
        while True:
            await asyncio.sleep(0.003)
            time.sleep(deadline * 1.6)

    async def main() -> None:
        await cluster.arun(find(cluster, KEYS))
        blocking = asyncio.create_task(block())
        end = time.monotonic() + 2
        while time.monotonic() < end:
            await cluster.arun(find(cluster, KEYS), deadline)
            states = {known.state for known in cluster.health().values()}
            assert states == {"up"}
        blocking.cancel()
        await cluster.aclose()

    asyncio.run(main())
