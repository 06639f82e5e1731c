"""Who asks for more than a server allows: an error that says so, and no node is down for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.errors import first_error
from django_rb.engine.rounds.batch import call, find, store
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up

MEGABYTE = 2**20
LARGE = b"x" * (4 * MEGABYTE)
KEYS = [b"key:%d" % number for number in range(20)]

Run = Callable[[Cluster, Any], None]


def in_thread(cluster: Cluster, batch: Any) -> None:
    _, failures = cluster.run(batch)
    if failures:
        raise first_error(failures)


def on_loop(cluster: Cluster, batch: Any) -> None:
    async def main() -> None:
        _, failures = await cluster.arun(batch)
        if failures:
            raise first_error(failures)

    asyncio.run(main())


@pytest.fixture(params=[in_thread, on_loop])
def run(request: pytest.FixtureRequest) -> Run:
    way: Run = request.param
    return way


@pytest.fixture(
    params=[
        {"proto-max-bulk-len": str(MEGABYTE)},
        {"client-query-buffer-limit": str(MEGABYTE)},
        {"client-output-buffer-limit": ["normal", str(MEGABYTE), "0", "0"]},
    ],
    ids=["bulk", "query", "output"],
)
def limited(request: pytest.FixtureRequest) -> Iterator[tuple[str, Cluster]]:
    (name,) = request.param
    with LocalNodes(1, options=request.param) as nodes:
        cluster = Cluster(nodes.hosts, health={"FAILURES": 1})
        yield name, cluster
        cluster.close()


def test_the_error_names_the_limit_and_the_node_stays_up(
    limited: tuple[str, Cluster], run: Run
) -> None:
    name, cluster = limited
    if name == "client-output-buffer-limit":
        run(cluster, store(cluster, KEYS, [b"x" * (MEGABYTE // 2)] * len(KEYS), bytes))
        batches: list[Callable[[], Any]] = [lambda: find(cluster, KEYS)]
    else:
        batches = [
            lambda: call(cluster, b"k", b"SET", b"k", LARGE),
            lambda: store(cluster, [b"k", b"l"], [LARGE, b"1"], bytes),
        ]
    for _ in range(4):
        for make in batches:
            with pytest.raises(redis.RedisError, match=rf"{name}|proto-max-bulk-len"):
                run(cluster, make())
            assert cluster.health()[0].state == "up"
            run(cluster, call(cluster, b"k", b"GET", b"k"))


@pytest.mark.parametrize("size", [10, 100_000])
def test_values_of_a_lost_batch_are_not_encoded_again(run: Run, size: int) -> None:
    """That may take long, and raise what would take other nodes' commands along."""
    encoded: list[bytes] = []

    def encode(value: bytes) -> bytes:
        encoded.append(value)
        return value * size

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        hang_up(connection)

    with Peer(answer) as peer:
        cluster = Cluster([peer.host])
        keys = [b"a", b"b", b"c"]
        with pytest.raises(redis.ConnectionError):
            run(cluster, store(cluster, keys, keys, encode))
        assert len(encoded) == len(set(encoded))
        cluster.close()
