"""Idle connections keep none of the memory that a huge reply took."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from pathlib import Path

import pytest

from django_rb.engine import Cluster
from django_rb.engine.protocol.reader import NO_REPLY, ReplyReader
from django_rb.engine.rounds.batch import call, pipeline
from tests.helpers import idle_connections

CONNECTIONS = 3
# Bytes; what is larger than 32 MiB goes back to the system at once when it is freed (glibc).
SIZE = 36 * 2**20
KEY = b"huge"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident() -> int:
    """Return how many bytes of memory this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def read_side_by_side(cluster: Cluster) -> None:
    together = threading.Barrier(CONNECTIONS)

    def read() -> None:
        connection = cluster._threads.pools[cluster.get_host_for_key(KEY)].open()
        together.wait()  # each has a connection of its own
        cluster._threads.pools[connection.node.host_id].give_back(connection)
        together.wait()
        value, failures = cluster.run(call(cluster, KEY, b"GET", KEY))
        assert (len(value), failures) == (SIZE, [])

    threads = [threading.Thread(target=read) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads(cluster: Cluster) -> None:
    cluster.run(call(cluster, KEY, b"SET", KEY, bytes(SIZE)))
    read_side_by_side(cluster)
    cluster.close()
    before = resident()
    read_side_by_side(cluster)
    assert len(idle_connections(cluster)) >= CONNECTIONS
    assert resident() - before < SIZE


def test_event_loops(cluster: Cluster) -> None:
    async def read_side_by_side() -> None:
        batches = [pipeline(cluster, KEY, (b"GET", KEY)) for _ in range(CONNECTIONS)]
        for replies, failures in await asyncio.gather(*map(cluster.arun, batches)):
            assert (len(replies[0]), failures) == (SIZE, [])
        del replies
        await asyncio.sleep(0)  # what is awaited holds its result until its task waits again

    async def main() -> None:
        await cluster.arun(call(cluster, KEY, b"SET", KEY, bytes(SIZE)))
        await read_side_by_side()
        await cluster.aclose()
        before = resident()
        await read_side_by_side()
        (pools,) = cluster._loops._loops
        assert sum(len(pool.connections) for pool in pools.pools) >= CONNECTIONS
        assert resident() - before < SIZE
        await cluster.aclose()

    asyncio.run(main())


def test_a_parser_that_shrinks_goes_on_as_before() -> None:
    reader = ReplyReader()
    reader.feed(b"$3\r\none\r\n")
    assert reader.gets() == b"one"
    reader.shrink()
    assert (reader.gets(), reader.has_data(), reader.errors) == (NO_REPLY, False, [])
    reader.feed(b":2\r\n")
    assert reader.gets() == 2
