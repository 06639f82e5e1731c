"""Promises that are awaited: they are settled, whoever is cut short, and in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, Promise

SOON = 10  # seconds; what hangs would hang for ever


@pytest.fixture
def silent() -> Iterator[Cluster]:
    """A cluster of one node that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        yield Cluster(
            [{"host": "127.0.0.1", "port": port}],
            pool_options={"socket_timeout": 30, "socket_connect_timeout": 30},
        )


def test_a_promise_is_awaited_in_and_after_its_block(cluster: Cluster) -> None:
    async def use() -> None:
        async with cluster.amap() as client:
            client.set("key", "value")
            promise = client.get("key")
            assert await promise == b"value"
            assert await promise == b"value"
            later, both = client.get("key"), Promise.all([promise, client.get("none")])
        assert await later == b"value"
        assert await both == [b"value", None]

    asyncio.run(use())


def test_what_a_timeout_cuts_short_is_rejected(silent: Cluster) -> None:
    async def use() -> None:
        async with silent.amap() as client:
            first, second = client.get("key"), client.set("key", 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(first, 0.05)
            with pytest.raises(redis.ConnectionError, match="The call was interrupted"):
                await asyncio.wait_for(second, SOON)
            assert first.is_rejected

    with pytest.raises(
        redis.ConnectionError, match="The call was interrupted"
    ):  # nobody handled the first
        asyncio.run(use())


def test_another_task_does_not_wait_for_one_that_was_cancelled(silent: Cluster) -> None:
    async def use() -> None:
        async with silent.amap() as client:
            first, second = client.get("key"), client.get("other")
            running = asyncio.ensure_future(asyncio.wait_for(first, SOON))
            waiting = asyncio.ensure_future(asyncio.wait_for(second, SOON))
            await asyncio.sleep(0.05)
            running.cancel()
            said = await asyncio.gather(running, waiting, return_exceptions=True)
            assert isinstance(said[0], asyncio.CancelledError)
            assert isinstance(said[1], redis.ConnectionError)

    with pytest.raises(
        redis.ConnectionError, match="The call was interrupted"
    ):  # nobody handled the first
        asyncio.run(use())


def test_the_errors_of_a_call_that_was_cut_short_are_not_raised_by_the_next(
    silent: Cluster,
) -> None:
    async def use() -> None:
        client = silent.get_routing_client().get_mapping_client()
        promise = client.get("key")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ajoin(), 0.05)
        assert promise.is_rejected
        await client.ajoin()  # there is nothing to do

    asyncio.run(use())


def test_the_timeout_holds_for_what_is_awaited_in_the_block(silent: Cluster) -> None:
    async def use() -> None:
        async with silent.amap(timeout=0.1) as client:
            promise = client.get("key")
            with pytest.raises(redis.TimeoutError, match="Deadline"):
                await promise

    began = monotonic()
    asyncio.run(use())
    assert monotonic() - began < SOON


def test_what_nothing_will_settle_says_so(cluster: Cluster) -> None:
    async def of_map() -> None:
        with cluster.map() as client:
            await client.get("key")

    async def fail() -> None:
        async with cluster.amap() as client:
            promises.append(client.get("key"))
            raise LookupError

    async def after_an_error() -> None:
        with pytest.raises(LookupError):
            await fail()
        await promises[0]

    promises: list[Promise[Any]] = []
    for use in (of_map, after_an_error):
        with pytest.raises(RuntimeError, match="sends nothing"):
            asyncio.run(asyncio.wait_for(use(), SOON))


def test_a_waiting_task_gets_the_connection_that_is_free() -> None:
    """Though the one that was opened for it went to another, and the other's failed."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        while data := await reader.read(65536):
            if number == 1:  # its handshake fails, and late
                await asyncio.wait_for(heard.wait(), SOON)
                break
            writer.write(b"+OK\r\n" * data.count(b"CLIENT"))
            if b"LLEN" in data and number == 2:
                heard.set()
                await asyncio.sleep(0.1)
                break
            writer.write(b":7\r\n" * data.count(b"LLEN"))
        writer.close()

    async def ask(cluster: Cluster) -> object:
        script = "return redis.call('LLEN', KEYS[1])"
        return await cluster.aio.execute_command("EVAL", script, 1, "key")

    async def use() -> tuple[object, object]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            cluster = Cluster(
                [{"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}],
                pool_options={"socket_timeout": 30, "socket_connect_timeout": 30},
            )
            asking = asyncio.gather(ask(cluster), ask(cluster), return_exceptions=True)
            said = await asyncio.wait_for(asking, SOON)
            await cluster.aclose()
            return said

    heard = asyncio.Event()
    first, second = asyncio.run(use())
    assert isinstance(first, redis.ConnectionError)  # a script may have run: never again
    assert second == 7
