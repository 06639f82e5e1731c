"""What observers are told: by either transport, and whatever happens to an exchange."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.protocol.scripts import LuaScript
from django_rb.engine.rounds.batch import call, call_each, find, pipeline, store
from django_rb.engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from django_rb.engine.rounds.scripts import run_script
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up

T = TypeVar("T")

Run = Callable[..., Any]


class Log(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.batches: list[BatchEvent] = []
        self.exchanges: list[ExchangeEvent] = []

    def batch_began(self, batch: BatchEvent) -> None:
        self.told.append("batch began")

    def round_began(self, batch: BatchEvent) -> None:
        self.told.append("round began")

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        self.told.append("exchange ended")
        self.exchanges.append(exchange)

    def batch_ended(self, batch: BatchEvent) -> None:
        self.told.append("batch ended")
        self.batches.append(batch)


@pytest.fixture(params=["threads", "loops"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a batch by one of the transports; all on the same loop."""
    with asyncio.Runner() as runner:

        def run(cluster: Cluster, batch: Batch[T], timeout: float | None = None) -> T:
            if request.param == "threads":
                return cluster.run(batch, timeout)
            return runner.run(cluster.arun(batch, timeout))

        yield run


def watch(cluster: Cluster) -> Log:
    log = Log()
    cluster.observers = (*cluster.observers, log)
    return log


def test_one_exchange(cluster: Cluster, run: Run) -> None:
    run(cluster, call(cluster, b"key", b"SET", b"key", b"value"))  # opens a connection
    log = watch(cluster)
    assert run(cluster, call(cluster, b"key", b"GET", b"key")) == (b"value", [])
    assert log.told == ["batch began", "round began", "exchange ended", "batch ended"]
    (batch,), (exchange,) = log.batches, log.exchanges
    assert (batch.operation, batch.commands, batch.rounds, batch.error) == ("call", 1, 1, None)
    owner = cluster.get_host_for_key("key")
    assert (exchange.host_id, exchange.address) == (owner, cluster.get_address(owner))
    assert (exchange.names, exchange.count) == (("GET",), 1)
    assert exchange.commands() == [("GET", b"key")]
    assert exchange.bytes_out == len(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
    assert exchange.bytes_in == len(b"$5\r\nvalue\r\n")
    assert (exchange.redirects, exchange.error, exchange.round) == (0, None, 1)
    assert exchange.batch is batch
    assert 0 < exchange.seconds <= batch.seconds


@pytest.mark.static
def test_several_nodes(cluster: Cluster, run: Run) -> None:
    keys = [b"key:%d" % n for n in range(100)]
    log = watch(cluster)
    run(cluster, store(cluster, keys, keys, bytes))
    found, _ = run(cluster, find(cluster, keys))
    assert len(found) == 100
    assert [(b.operation, b.commands, b.rounds) for b in log.batches] == [
        ("store", 100, 1),
        ("find", 4, 1),
    ]
    assert {exchange.names for exchange in log.exchanges[:4]} == {("SET",)}
    assert {exchange.names for exchange in log.exchanges[4:]} == {("MGET",)}
    asked = {key for exchange in log.exchanges[4:] for key in exchange.commands()[0][1:]}
    assert asked == set(keys)


@pytest.mark.static
def test_a_pipeline(cluster: Cluster, run: Run) -> None:
    log = watch(cluster)
    run(
        cluster, pipeline(cluster, b"n", (b"INCR", b"n"), (b"EXPIRE", b"n", 5), (b"INCR", b"n"))
    )
    (exchange,) = log.exchanges
    assert (exchange.names, exchange.count) == (("INCR", "EXPIRE"), 3)
    assert exchange.commands()[1] == ("EXPIRE", b"n", b"5")


def test_a_script_that_the_node_does_not_know(cluster: Cluster, run: Run) -> None:
    cluster.call_nodes("SCRIPT", "FLUSH")
    log = watch(cluster)
    script = LuaScript("return redis.call('GET', KEYS[1]) or 'observed'")
    assert run(cluster, run_script(cluster, b"key", script)) == (b"observed", [])
    first, second = log.exchanges
    assert (first.names, first.redirects, first.round) == (("EVALSHA",), 0, 1)
    assert isinstance(first.error, redis.exceptions.NoScriptError)
    assert (second.names, second.redirects, second.round) == (("EVAL",), 1, 2)
    assert second.error is None
    (batch,) = log.batches
    assert (batch.commands, batch.rounds, batch.error) == (1, 2, None)


def test_a_stale_connection(run: Run) -> None:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if peer.commands == [[b"GET", b"a"], [b"GET", b"b"]]:
            hang_up(connection)
        else:
            connection.sendall(b"$1\r\nc\r\n")

    with Peer(answer) as peer:
        cluster = Cluster([peer.host])
        run(cluster, call(cluster, b"a", b"GET", b"a"))
        log = watch(cluster)
        assert run(cluster, call(cluster, b"b", b"GET", b"b")) == (b"c", [])
        cluster.close()
    first, second = log.exchanges
    assert isinstance(first.error, redis.ConnectionError)
    assert (first.redirects, second.redirects, second.error) == (0, 1, None)
    assert first.bytes_out == second.bytes_out > 0 == first.bytes_in < second.bytes_in
    assert [batch.error for batch in log.batches] == [None]


def test_a_dead_node(run: Run) -> None:
    cluster = Cluster([{"port": 1}])
    log = watch(cluster)
    _, (failure,) = run(cluster, call_each(cluster, {0: ("PING",)}))
    (exchange,), (batch,) = log.exchanges, log.batches
    assert exchange.error is batch.error is failure.error
    assert (exchange.names, exchange.bytes_out) == (("PING",), 0)


def test_a_deadline(run: Run) -> None:
    with Peer(lambda peer, connection, command: None) as peer:
        cluster = Cluster([peer.host])
        log = watch(cluster)
        _, (failure,) = run(cluster, call_each(cluster, {0: ("PING",)}), timeout=0.3)
        cluster.close()
    assert [e.error for e in log.exchanges] == [b.error for b in log.batches] == [failure.error]
    assert log.exchanges[0].bytes_out > 0


def test_a_call_that_is_cancelled() -> None:
    async def cancel(cluster: Cluster, peer: Peer) -> None:
        task = asyncio.create_task(cluster.arun(call_each(cluster, {0: ("PING",)})))
        while not peer.commands:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    with Peer(lambda peer, connection, command: None) as peer:
        cluster = Cluster([peer.host])
        log = watch(cluster)
        asyncio.run(cancel(cluster, peer))
        cluster.close()
    assert isinstance(log.batches[0].error, asyncio.CancelledError)
    assert isinstance(log.exchanges[0].error, asyncio.CancelledError)


@pytest.mark.static
def test_commands_that_would_be_joined(cluster: Cluster) -> None:
    async def use() -> None:
        calls = (call(cluster, b"key", b"GET", b"key") for _ in range(50))
        await asyncio.gather(*map(cluster.arun, calls))

    log = watch(cluster)
    asyncio.run(use())
    assert len(log.exchanges) == len(log.batches) == 50
    assert {(e.count, e.bytes_in) for e in log.exchanges} == {(1, 5)}


def test_an_observer_that_raises(
    cluster: Cluster, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observer):
        def round_began(self, batch: BatchEvent) -> None:
            raise ZeroDivisionError

        exchange_ended = batch_ended = round_began  # type: ignore[assignment]

    cluster.observers = (Broken(),)
    log = watch(cluster)
    with caplog.at_level(logging.ERROR, "django_rb.observers"):
        for _ in range(3):
            assert run(cluster, call(cluster, b"key", b"GET", b"key")) == (None, [])
    assert len(caplog.records) == 1
    assert len(log.batches) == 3


def test_what_an_observer_asks_itself(cluster: Cluster, run: Run) -> None:
    class Asking(Log):
        def batch_began(self, batch: BatchEvent) -> None:
            super().batch_began(batch)
            cluster.call_nodes("PING")
            cluster.get_local_client(0).ping()

    cluster.observers = (asking := Asking(),)
    run(cluster, call(cluster, b"key", b"GET", b"key"))
    assert asking.told.count("batch began") == len(asking.exchanges) == 1


@pytest.mark.static
def test_local_clients(cluster: Cluster) -> None:
    log = watch(cluster)
    cluster.get_local_client(1).set("key", 1)
    (exchange,), (batch,) = log.exchanges, log.batches
    assert (batch.operation, exchange.host_id) == ("local", 1)
    assert exchange.commands() == [("SET", b"key", b"1")]
    assert exchange.address == cluster.get_address(1)


def test_a_local_client_that_outlives_its_cluster(nodes: LocalNodes) -> None:
    log = Log()
    cluster = Cluster(nodes.hosts)
    cluster.observers = (log,)
    client = cluster.get_local_client(0)
    del cluster
    gc.collect()
    client.ping()
    client.connection_pool.disconnect()
    assert [batch.operation for batch in log.batches] == ["local"]


@pytest.mark.static
def test_passwords_are_left_out(cluster: Cluster) -> None:
    log = watch(cluster)
    client: Any = cluster.get_local_client(0)
    with pytest.raises(redis.AuthenticationError):
        client.execute_command("AUTH", "hunter2")
    client.connection_pool.disconnect()
    assert log.exchanges[0].commands() == [("AUTH",)]
