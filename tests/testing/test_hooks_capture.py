"""What a block sent, as CaptureCommandsContext and the assertions tell it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.core.cache import cache

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.engine.protocol.exchange import Batch, PipelineExchange
from django_rb.engine.rounds.batch import call_each
from django_rb.engine.rounds.observing import Observer, add_observer, remove_observer
from django_rb.testing import CaptureCommandsContext, LocalNodes, RBTestCaseMixin
from django_rb.testing.capture import AssertingContext

from ..engine.peer import Peer, hang_up


@pytest.fixture(autouse=True)
def _configured(nodes: LocalNodes) -> None:
    """The cluster "default" is on four nodes."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    yield clusters["default"]
    assert not any(
        isinstance(observer, CaptureCommandsContext)
        for observer in clusters["default"].observers
    )


@pytest.fixture(params=["poll", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Send a command to node 0 by one of the transports; return the reply, if any."""
    with asyncio.Runner() as runner:

        def ask(cluster: Cluster, *command: str) -> Any:
            batch = call_each(cluster, {0: command})
            is_awaited = request.param == "asyncio"
            outcome = runner.run(cluster.arun(batch)) if is_awaited else cluster.run(batch)
            return outcome[0].get(0)

        yield ask


def owner_of(key: str | bytes) -> int:
    return clusters["default"].get_host_for_key(key)


class TestWhatIsCaptured:
    def test_get(self, cluster: Cluster) -> None:
        cache.set("key", 1)
        with CaptureCommandsContext() as captured:
            assert cache.get("key") == 1
            assert cache.get("key") == 1
        assert captured.commands == {owner_of(b":1:key"): [("GET", b":1:key")] * 2}
        assert (len(captured), captured.batches, captured.rounds) == (2, 2, 2)

    def test_get_many(self, cluster: Cluster) -> None:
        keys = [f"key{n}" for n in range(50)]
        with CaptureCommandsContext(cluster) as captured:
            cache.get_many(keys)
        expected: dict[int, list[bytes]] = {}
        for key in keys:
            made = f":1:{key}".encode()
            expected.setdefault(owner_of(made), []).append(made)
        assert captured.commands == {
            host_id: [("MGET", *share)] for host_id, share in expected.items()
        }
        assert captured.nodes == {0, 1, 2, 3}
        assert captured.batches == captured.rounds == 1

    def test_values_larger_than_what_a_socket_takes(self, cluster: Cluster) -> None:
        values = {f"key{n}": b"x" * 1_000_000 for n in range(8)}
        with CaptureCommandsContext() as captured:
            cache.set_many(values)
        sent = {command[1]: command[2] for _, command in captured}
        assert {*sent} == {f":1:{key}".encode() for key in values}
        assert all(isinstance(value, bytes) and len(value) > 10**6 for value in sent.values())
        assert cache.get("key0") == values["key0"]

    def test_map_and_all(self, cluster: Cluster) -> None:
        with CaptureCommandsContext() as captured:
            with cluster.map() as client:
                client.incr("hits")
            with cluster.all() as everywhere:
                everywhere.ping()
        assert captured.batches == 2
        assert captured[0] == (owner_of("hits"), ("INCRBY", b"hits", b"1"))
        assert sorted(captured[1:]) == [(host_id, ("PING",)) for host_id in range(4)]

    def test_a_script_takes_a_second_round(self, cluster: Cluster) -> None:
        cluster.call_nodes("SCRIPT", "FLUSH")
        cache.set("key", 1)
        with CaptureCommandsContext() as captured:
            assert cache.incr("key") == 2
        names = [command[0] for _, command in captured]
        assert names == ["EVALSHA", "EVAL"]
        assert (captured.batches, captured.rounds) == (1, 2)

    def test_local_clients(self, cluster: Cluster) -> None:
        held = cluster.get_local_client(0)
        held.ping()
        with CaptureCommandsContext() as captured:
            held.set("a", 1)
            with cluster.get_local_client(1).pipeline() as pipe:
                pipe.incr("b")
                pipe.incr("b")
                pipe.execute()
            held.get("a")
        assert captured.commands == {
            0: [("SET", b"a", b"1"), ("GET", b"a")],
            1: [("MULTI",), ("INCRBY", b"b", b"1"), ("INCRBY", b"b", b"1"), ("EXEC",)],
        }
        assert captured.batches == 3
        held.get("a")
        assert len(captured) == 6

    def test_other_threads(self, cluster: Cluster) -> None:
        with CaptureCommandsContext() as captured:
            thread = threading.Thread(target=cache.get, args=("key",))
            thread.start()
            thread.join()
        assert captured.batches == 1

    def test_what_is_awaited(self, cluster: Cluster) -> None:
        async def use() -> None:
            await cache.aset("key", 1)
            await asyncio.gather(*(cache.aget("key") for _ in range(50)))
            async with cluster.aall() as client:
                client.ping()
            await cluster.aio.get("other")

        with CaptureCommandsContext() as captured:
            asyncio.run(use())
        owner = owner_of(b":1:key")
        sent = captured.commands
        assert [command for command in sent[owner] if b":1:key" in command[1:2]] == [
            ("SET", b":1:key", b"1", b"EX", b"300"),
            *[("GET", b":1:key")] * 50,
        ]
        assert all(("PING",) in commands for commands in sent.values())
        assert ("GET", b"other") in sent[owner_of("other")]
        assert (len(captured), captured.batches) == (1 + 50 + 4 + 1, 1 + 50 + 1 + 1)

    def test_what_failed_was_sent_all_the_same(self, ask: Callable[..., Any]) -> None:
        with Peer(lambda peer, connection, command: hang_up(connection)) as peer:
            cluster = Cluster([peer.host])
            with CaptureCommandsContext(cluster) as captured:
                assert ask(cluster, "INCR", "hits") is None
            assert captured.commands == {0: [("INCR", b"hits")]}
            cluster.close()

    def test_what_is_sent_again_is_captured_again(self, ask: Callable[..., Any]) -> None:
        def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            if peer.commands == [[b"GET", b"a"], [b"GET", b"b"]]:
                hang_up(connection)
            else:
                connection.sendall(b"$1\r\nc\r\n")

        with Peer(answer) as peer:
            cluster = Cluster([peer.host])
            assert ask(cluster, "GET", "a") == b"c"
            with CaptureCommandsContext(cluster) as captured:
                assert ask(cluster, "GET", "b") == b"c"
            assert captured.commands == {0: [("GET", b"b"), ("GET", b"b")]}
            cluster.close()

    @pytest.mark.parametrize("transport", ["poll", "asyncio"])
    def test_what_was_not_sent_any_more_is_not_captured(self, transport: str) -> None:
        exchange = PipelineExchange(0, [("SET", f"key{n}", b"x" * 10**6) for n in range(50)])

        def batch() -> Batch[None]:
            yield (exchange,)

        with Peer(lambda peer, connection, command: hang_up(connection)) as peer:
            cluster = Cluster([peer.host])
            with CaptureCommandsContext(cluster) as captured:
                if transport == "asyncio":
                    asyncio.run(cluster.arun(batch()))
                else:
                    cluster.run(batch())
            assert captured[0] == (0, ("SET", b"key0", b"x" * 10**6))
            assert len(captured) < 50
            cluster.close()

    def test_nothing_is_sent_to_nobody(self, ask: Callable[..., Any]) -> None:
        cluster = Cluster([{"port": 1}])
        with CaptureCommandsContext(cluster) as captured:
            assert ask(cluster, "PING") is None
        assert (captured.commands, captured.batches) == ({}, 1)

    def test_passwords_are_not_captured(self) -> None:
        with LocalNodes(1, options={"requirepass": "hunter2"}) as nodes:
            host = {**nodes.hosts[0], "password": "hunter2"}
            cluster = Cluster([host])
            with CaptureCommandsContext(cluster) as captured:
                cluster.call_nodes("PING")
                client = cluster.get_local_client(0)
                client.ping()
                client.connection_pool.disconnect()  # the client comes back on its own
                client.ping()
                client.auth("hunter2")
            assert "hunter2" not in captured.describe()
            assert b"hunter2" not in {word for _, command in captured for word in command}
            assert captured.describe().count("PING") == 3
            cluster.close()


class TestBeginningAndEnd:
    def test_captures_may_be_nested_and_end_in_any_order(self, cluster: Cluster) -> None:
        first, second = CaptureCommandsContext(), CaptureCommandsContext()
        first.__enter__()
        cache.get("a")
        second.__enter__()
        cache.get("b")
        first.__exit__(None, None, None)
        cache.get("c")
        second.__exit__(None, None, None)
        cache.get("d")
        assert [command[1] for _, command in first] == [b":1:a", b":1:b"]
        assert [command[1] for _, command in second] == [b":1:b", b":1:c"]

    def test_a_capture_may_be_used_again(self, cluster: Cluster) -> None:
        captured = CaptureCommandsContext()
        for key in ("a", "b"):
            with captured:
                cache.get(key)
            assert [command[1] for _, command in captured] == [f":1:{key}".encode()]

    def test_nothing_is_left_on_the_cluster(self, cluster: Cluster) -> None:
        cache.get("key")
        client = cluster.get_local_client(0)
        client.ping()
        pool = client.connection_pool
        before = {*vars(cluster)}, {*vars(pool)}, tuple(cluster.observers)
        with CaptureCommandsContext() as captured:
            client.ping()
            assert captured in cluster.observers
        assert ({*vars(cluster)}, {*vars(pool)}, tuple(cluster.observers)) == before
        client.ping()
        cache.get("key")
        assert len(captured) == 1

    def test_an_observer_of_one_use_is_gone_after_it(self, cluster: Cluster) -> None:
        class Once(Observer):
            uses = 0

            def before_use(self) -> None:
                self.uses += 1
                remove_observer(cluster, self)

        once = Once()
        uses: list[Callable[[], object]] = [
            lambda: cache.get("key"),
            lambda: cluster.call_nodes("PING"),
            lambda: asyncio.run(cache.aget("key")),
            lambda: cluster.get_local_client(0).dbsize(),
        ]
        for number, use in enumerate(uses, start=1):
            add_observer(cluster, once)
            add_observer(cluster, once)
            use()
            assert once.uses == number
            assert once not in cluster.observers
            use()
            assert once.uses == number


class TestAssertions(RBTestCaseMixin):
    """The mixin's assertions, with pytest's own means."""

    def test_they_hold(self, cluster: Cluster) -> None:
        with self.assertNumBatches(1), self.assertNodesTouched({owner_of(b":1:a")}):
            cache.get("a")
        self.assertNumBatches(1, cache.get, "a", default=1)
        self.assertNodesTouched(0, len, [])
        self.assertNodesTouched([], len, [])
        self.assertNodesTouched(range(4), cluster.call_nodes, "PING", cluster=cluster)

    def test_a_failure_lists_what_was_sent(self, cluster: Cluster) -> None:
        node = owner_of(b":1:a")

        def get_and_set() -> None:
            cache.get("a")
            cache.set("a", "two words" * 100)

        with pytest.raises(AssertionError) as caught:
            self.assertNumBatches(1, get_and_set)
        lines = str(caught.value).splitlines()
        assert lines[:3] == [
            "2 batches executed, 1 expected",
            "Captured commands were:",
            f"1. node {node}: GET :1:a",
        ]
        assert lines[3].startswith(f"2. node {node}: SET :1:a ")
        assert "…" in lines[3]
        assert len(lines[3]) < 150

    def test_nodes(self, cluster: Cluster) -> None:
        with pytest.raises(AssertionError, match=r"^4 nodes touched, 1 expected\nCaptured"):
            self.assertNodesTouched(1, cluster.call_nodes, "PING")
        with pytest.raises(AssertionError, match=r"^Nodes touched: 0, 1, 2, 3; expected: 1, 7"):
            self.assertNodesTouched({7, 1}, cluster.call_nodes, "PING")
        with pytest.raises(
            AssertionError, match=r"^Nodes touched: none; expected: 1"
        ) as caught:
            self.assertNodesTouched({1}, len, [])
        assert str(caught.value).endswith("\nnone")

    def test_many_keys_are_cut_short(self, cluster: Cluster) -> None:
        with pytest.raises(AssertionError, match=r"MGET :1:\d+ .*… \(\d+ more\)") as caught:
            self.assertNumBatches(0, cache.get_many, range(1000))
        assert len(str(caught.value)) < 1500

    def test_an_error_in_the_block_comes_first(self, cluster: Cluster) -> None:
        with pytest.raises(ZeroDivisionError), AssertingContext(batches=1):
            _ = 1 / 0

    def test_repr(self, cluster: Cluster) -> None:
        with CaptureCommandsContext() as captured:
            cluster.get_local_client(1).ping()
        assert repr(captured) == ("<CaptureCommandsContext: 1 command in 1 batch to nodes [1]>")


def test_redis_py_connections_that_fail_are_captured_again(
    cluster: Cluster, nodes: LocalNodes
) -> None:
    """redis-py connects anew by itself; the handshake is no command of the block's."""
    client = cluster.get_local_client(0)
    client.ping()
    with redis.Redis(**nodes.hosts[0]) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    with CaptureCommandsContext() as captured:
        client.ping()
    assert captured.commands == {0: [("PING",)]}
