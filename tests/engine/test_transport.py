"""Batches over real sockets: side by side, bounded in time, and never mixed up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, NodeFailure, SlotRouter, failures_of
from django_rb.engine.errors import first_error
from django_rb.engine.polling import SelectorPoller, make_poller
from django_rb.engine.protocol.encoding import pack
from django_rb.engine.protocol.exchange import Batch, Exchange
from django_rb.engine.rounds.batch import call, call_each, find, store
from django_rb.engine.threads.connections import KERNEL_WAIT_SECONDS
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up
from tests.helpers import collect_garbage, wait_until
from tests.tables import for_each

# Bounds in time are about what is waited for; a busy machine may take this much longer.
SLACK = 0.25


def ask(cluster: Cluster, key: bytes, *args: Any, timeout: float | None = None) -> Any:
    """Run one command where `key` lives; raise what failed."""
    reply, failures = cluster.run(call(cluster, key, *args), timeout)
    if failures:
        raise first_error(failures)
    return reply


def keys_by_owner(cluster: Cluster, number: int = 100) -> dict[int, list[bytes]]:
    owned: dict[int, list[bytes]] = {host_id: [] for host_id in cluster.hosts}
    for i in range(number):
        key = b"key:%d" % i
        owned[cluster.get_host_for_key(key)].append(key)
    assert all(owned.values())
    return owned


def look_up(
    cluster: Cluster, keys: list[bytes], timeout: float | None = None
) -> tuple[dict[bytes, bytes], list[NodeFailure]]:
    return cluster.run(find(cluster, keys), timeout)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def filled(cluster: Cluster) -> list[bytes]:
    """Return 100 keys; each holds itself, on the node that owns it."""
    keys = [b"key:%d" % i for i in range(100)]
    _, failures = cluster.run(store(cluster, keys, keys, bytes))
    assert failures == []
    return keys


def test_values_come_back_in_the_order_of_the_keys(
    cluster: Cluster, filled: list[bytes]
) -> None:
    found, failures = look_up(cluster, filled[::-1])
    assert failures == []
    assert list(found.items()) == [(key, key) for key in filled[::-1]]


def test_keys_live_where_the_router_says(cluster: Cluster, filled: list[bytes]) -> None:
    for host_id, keys in keys_by_owner(cluster).items():
        assert set(cluster.get_local_client(host_id).keys("*")) == set(keys)


def test_nodes_are_asked_side_by_side_not_one_after_the_other(cluster: Cluster) -> None:
    """Each node answers only once every node was asked."""
    asked = threading.Barrier(4, timeout=5)

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        asked.wait()
        connection.sendall(b"+PONG\r\n")

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(answer)) for _ in range(4)]
        cluster = Cluster([peer.host for peer in peers])
        replies, failures = cluster.call_nodes("PING")
        assert failures == []
        assert replies == dict.fromkeys(range(4), b"PONG")


def test_missing_connections_are_opened_side_by_side() -> None:
    """Each node finishes its handshake only once every node is in its own."""
    greeted = threading.Barrier(3, timeout=5)

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"SELECT":
            greeted.wait()
        connection.sendall(b"+OK\r\n")

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(answer)) for _ in range(3)]
        cluster = Cluster([peer.host for peer in peers], host_defaults={"db": 1})
        replies, failures = cluster.call_nodes("PING")
        assert failures == []
        assert len(replies) == 3


def test_warm_connections_do_not_wait_for_one_that_cannot_be_opened(
    nodes: LocalNodes,
) -> None:
    """A node that never finishes its handshake costs the others nothing."""
    silent = Peer(lambda *_: None)
    with silent:
        hosts = [*nodes.hosts.values(), {**silent.host, "db": 1}]
        cluster = Cluster(hosts, pool_options={"socket_timeout": 0.3})
        replies, failures = cluster.call_nodes("PING")
        assert sorted(replies) == [0, 1, 2, 3]
        (failure,) = failures
        assert failure.host_id == 4
        assert isinstance(failure.error, redis.TimeoutError)
        assert f"node 4, 127.0.0.1:{silent.port}/1" in str(failure.error)
        cluster.close()


def test_no_thread_is_started_once_connections_are_open(
    cluster: Cluster, filled: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up(cluster, filled)
    monkeypatch.setattr(threading.Thread, "start", None)
    found, failures = look_up(cluster, filled)
    assert len(found) == len(filled)
    assert failures == []


def test_connections_open_without_threads_where_none_can_be_started(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    replies, failures = cluster.call_nodes("PING")
    assert failures == []
    assert len(replies) == 4


@pytest.mark.parametrize("without", ["poll"])
def test_selectors_serve_where_the_platform_has_no_poll(
    without: str, cluster: Cluster, filled: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, without)
    assert isinstance(make_poller(), SelectorPoller)
    cluster.close()  # connections keep the poller they were opened with
    found, failures = look_up(cluster, filled)
    assert failures == []
    assert list(found) == filled
    large = {b"large:%d" % i: bytes([i]) * 3_000_000 for i in range(8)}
    _, failures = cluster.run(store(cluster, list(large), large.values(), bytes))
    assert failures == []
    assert look_up(cluster, list(large))[0] == large


def test_replies_are_read_while_commands_are_still_being_written(nodes: LocalNodes) -> None:
    """A node that is not read from stops reading: its output and our input would both be
    full. ECHO makes it say as much as it is told.
    """
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter)
    value = b"x" * 50_000
    from django_rb.engine.protocol.encoding import encode
    from django_rb.engine.protocol.exchange import Exchange

    def echo() -> Batch[list[Exchange]]:
        exchanges = []
        for host_id in cluster.nodes:
            pieces = encode([(b"ECHO", value)] * 2000)
            exchanges.append(Exchange(host_id, next(pieces), 2000, pieces))
        yield exchanges
        return exchanges

    exchanges = cluster.run(echo())
    assert [e.error for e in exchanges] == [None] * 4
    assert all(e.replies == [value] * 2000 for e in exchanges)
    cluster.close()


def test_values_of_64_mib_do_not_deadlock(nodes: LocalNodes) -> None:
    # A busy machine lets a node be silent for long while it copies them.
    patient = {"socket_timeout": 30.0, "socket_connect_timeout": 30.0}
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter, pool_options=patient)
    values = {b"huge:%d" % i: bytes([i]) * (64 << 20) for i in range(4)}
    _, failures = cluster.run(store(cluster, list(values), values.values(), bytes))
    assert failures == []
    found, failures = look_up(cluster, list(values))
    assert failures == []
    assert found == values
    cluster.close()


def test_a_stale_idle_connection_is_noticed_before_it_is_used(
    cluster: Cluster, filled: list[bytes]
) -> None:
    look_up(cluster, filled)
    for host_id in cluster.hosts:
        cluster.get_local_client(host_id).client_kill_filter(_type="normal", skipme=True)
    found, failures = look_up(cluster, filled)
    assert failures == []
    assert len(found) == len(filled)


def test_a_node_restarted_between_two_calls_costs_no_error() -> None:
    with LocalNodes(2) as own:
        cluster = Cluster(own.hosts)
        assert cluster.call_nodes("PING")[1] == []
        own.restart(0)
        assert cluster.call_nodes("PING")[1] == []
        cluster.close()


def test_a_dead_node_takes_nothing_from_the_others() -> None:
    with LocalNodes(3) as own:
        cluster = Cluster(own.hosts, router_cls=SlotRouter)
        owned = keys_by_owner(cluster)
        keys = [key for share in owned.values() for key in share]
        cluster.run(store(cluster, keys, keys, bytes))
        own.kill(1)
        found, failures = look_up(cluster, keys)
        assert set(found) == {*owned[0], *owned[2]}
        (failure,) = failures
        assert failure.host_id == 1
        assert failure.address == f"127.0.0.1:{own.hosts[1]['port']}/0"
        assert set(failure.keys) == set(owned[1])
        assert isinstance(failure.error, redis.ConnectionError)
        with pytest.raises(redis.ConnectionError) as caught:
            raise first_error(failures)
        assert failures_of(caught.value) == (failure,)
        cluster.close()


def test_hung_nodes_are_given_up_after_socket_timeout() -> None:
    with LocalNodes(3) as own:
        cluster = Cluster(
            own.hosts, router_cls=SlotRouter, pool_options={"socket_timeout": 0.3}
        )
        keys = [key for share in keys_by_owner(cluster).values() for key in share]
        cluster.run(store(cluster, keys, keys, bytes))
        for host_id in (0, 2):
            own.pause(host_id)
        start = time.monotonic()
        found, failures = look_up(cluster, keys)
        took = time.monotonic() - start
        for host_id in (0, 2):
            own.resume(host_id)
        assert set(found) == {k for k in keys if cluster.get_host_for_key(k) == 1}
        assert {failure.host_id for failure in failures} == {0, 2}
        for failure in failures:
            assert isinstance(failure.error, redis.TimeoutError)
            assert f"No reply within 0.3 s [node {failure.host_id}, " in str(failure.error)
        assert 0.3 <= took < 0.3 + SLACK
        found, failures = look_up(cluster, keys)  # the late replies reach nobody
        assert failures == []
        assert found == {key: key for key in keys}
        cluster.close()


def test_a_node_that_speaks_slowly_is_not_waited_for_before_others_are_heard(
    nodes: LocalNodes,
) -> None:
    def spell(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        for letter in b"+%b\r\n" % (b"P" + b"O" * 40 + b"NG"):
            connection.sendall(bytes([letter]))
            time.sleep(KERNEL_WAIT_SECONDS / 2)

    heard: list[int] = []

    def ping() -> Batch[None]:
        exchanges = [Exchange(host_id, pack(("PING",))) for host_id in (0, 1)]
        for exchange in exchanges:
            exchange.on_done = lambda done: heard.append(done.host_id)
        yield exchanges

    with Peer(spell) as peer:
        cluster = Cluster([peer.host, nodes.hosts[0]])
        cluster.call_nodes("PING")
        cluster.run(ping())
        cluster.close()
    assert heard == [1, 0]


@pytest.mark.parametrize("warm", [True, False])
def test_a_call_with_a_deadline_ends_by_it(warm: bool) -> None:
    with LocalNodes(4) as own:
        cluster = Cluster(own.hosts)
        if warm:
            cluster.call_nodes("PING")
        for host_id in (0, 1, 2):
            own.pause(host_id)
        start = time.monotonic()
        replies, failures = cluster.call_nodes("PING", timeout=0.2)
        took = time.monotonic() - start
        assert replies == {3: b"PONG"}
        assert [f.host_id for f in failures] == [0, 1, 2]
        assert all(isinstance(f.error, redis.TimeoutError) for f in failures)
        assert 0.2 <= took < 0.2 + SLACK
        for host_id in (0, 1, 2):
            own.resume(host_id)
        assert cluster.call_nodes("PING")[1] == []
        cluster.close()


def test_a_refused_connection_names_the_node_and_the_cause() -> None:
    with LocalNodes(2) as own:
        cluster = Cluster(own.hosts)
        own.kill(0)
        _, (failure,) = cluster.call_nodes("PING")
        assert isinstance(failure.error, redis.ConnectionError)
        assert "refused" in str(failure.error)
        assert f"[node 0, 127.0.0.1:{own.hosts[0]['port']}/0]" in str(failure.error)
        cluster.close()


Misbehaviour = dict[str, tuple[bytes | None, type[Exception]]]

MISBEHAVIOUR: Misbehaviour = {
    "closes without a word": (b"", redis.ConnectionError),
    "closes in mid-reply": (b"$100\r\nhalf", redis.ConnectionError),
    "says garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n", redis.InvalidResponse),
    "says too much": (b"+OK\r\n+OK\r\n", redis.InvalidResponse),
    "says half too much": (b"+OK\r\n$5\r\n", redis.InvalidResponse),
    "says nothing": (None, redis.TimeoutError),
}


@for_each("said", [b"*-1\r\n", b"$-1\r\n", b":5\r\n", b"+OK\r\n"])
def test_an_mget_that_is_answered_with_no_array_is_a_failure(said: bytes) -> None:
    with Peer(lambda peer, connection, command: connection.sendall(said)) as peer:
        cluster = Cluster([peer.host])
        found, (failure,) = look_up(cluster, [b"a", b"b"])
        cluster.close()
    assert found == {}
    assert "reply of the node to MGET: " in str(failure.error)


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_misbehaving_node_fails_alone_and_loses_its_connection(
    name: str, nodes: LocalNodes
) -> None:
    said, kind = MISBEHAVIOUR[name]
    well_behaved = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if well_behaved.is_set():
            connection.sendall(b"+%b\r\n" % command[1])
        elif said is not None:
            connection.sendall(said)
            if "close" in name:
                hang_up(connection)

    with Peer(answer) as peer:
        # The others are given time enough on a busy machine, where that costs none.
        seconds = 1 if said is None else 10
        cluster = Cluster(
            [*nodes.hosts.values(), peer.host], pool_options={"socket_timeout": seconds}
        )
        replies, (failure,) = cluster.call_nodes("ECHO", "first")
        assert replies == dict.fromkeys(range(4), b"first")
        assert failure.host_id == 4
        assert isinstance(failure.error, kind)
        assert f"[node 4, 127.0.0.1:{peer.port}/0]" in str(failure.error)
        well_behaved.set()
        replies, failures = cluster.call_nodes("ECHO", "second")
        assert failures == []
        assert replies == dict.fromkeys(range(5), b"second")
        cluster.close()


def test_a_late_reply_too_many_reaches_nobody() -> None:
    """It comes when the connection is idle again: the connection is given up."""
    extra_was_sent = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(b"+%b\r\n" % command[1])
        if command[1] == b"first":
            received.wait(5)
            connection.sendall(b"+intruder\r\n")
            extra_was_sent.set()

    received = threading.Event()
    with Peer(answer) as peer:
        cluster = Cluster([peer.host])
        assert cluster.call_nodes("ECHO", "first")[0] == {0: b"first"}
        received.set()
        assert extra_was_sent.wait(5)
        assert cluster.call_nodes("ECHO", "second")[0] == {0: b"second"}
        assert len(peer.connections) == 2
        cluster.close()


class ResettingPeer(Peer):
    """A node that resets its first connection when told to, after its first answer."""

    def __init__(self) -> None:
        super().__init__(self.answer_then_reset)
        self.reset = threading.Event()

    def answer_then_reset(
        self, peer: Peer, connection: socket.socket, command: list[bytes]
    ) -> None:
        connection.sendall(b"+PONG\r\n")
        if len(self.commands) == 1:
            self.reset.wait(5)
            linger = struct.pack("ii", 1, 0)  # a close() that resets instead of ending
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()


def test_a_connection_reset_before_the_first_write_is_replaced_within_the_batch() -> None:
    """The connection is fine when it is looked at and is gone when it is written to."""

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(b"+PONG\r\n")

    with ResettingPeer() as peer, Peer(answer) as other:
        cluster = Cluster([peer.host, other.host])
        cluster.call_nodes("PING")
        lose_when_written_to(peer, cluster)
        assert cluster.call_nodes("PING") == ({0: b"PONG", 1: b"PONG"}, [])
        assert len(peer.connections) == 2
        cluster.close()


def lose_when_written_to(peer: ResettingPeer, cluster: Cluster) -> None:
    """Let the first node reset its idle connection just before the next write."""
    (idle,) = cluster._threads.pools[0].idle
    send = idle.send

    def lose_then_send(data: Any) -> int:
        peer.reset.set()
        wait_until(idle.has_input)
        return send(data)

    idle.send = lose_then_send


def test_a_single_command_survives_a_connection_reset_before_its_first_write() -> None:
    with ResettingPeer() as peer:
        cluster = Cluster([peer.host])
        cluster.call_nodes("PING")
        lose_when_written_to(peer, cluster)
        assert ask(cluster, b"key", b"PING") == b"PONG"
        assert len(peer.connections) == 2
        cluster.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_batch_leaves_no_connection_in_doubt(
    error: type[BaseException], cluster: Cluster, filled: list[bytes]
) -> None:
    """A signal handler raises while the batch waits for replies."""
    look_up(cluster, filled)

    def interrupt(signum: int, frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(error):
            cluster.call_nodes("BLPOP", "nothing", 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(not node.idle for node in cluster._threads.pools.values())
    found, failures = look_up(cluster, filled)
    assert failures == []
    assert found == {key: key for key in filled}


def test_a_value_that_cannot_be_encoded_leaves_connections_usable(
    cluster: Cluster, filled: list[bytes]
) -> None:
    def encode_value(value: bytes) -> bytes:
        if value == b"key:99":
            raise pickle.PicklingError("no")
        return value * 10_000

    with pytest.raises(pickle.PicklingError):
        cluster.run(store(cluster, filled, filled, encode_value))
    found, failures = look_up(cluster, filled)
    assert failures == []
    assert len(found) == 100


def test_an_os_error_while_encoding_is_not_taken_for_the_nodes(
    cluster: Cluster, filled: list[bytes]
) -> None:
    def encode_value(value: bytes) -> bytes:
        if value == b"key:99":
            raise FileNotFoundError("no")
        return value * 10_000

    with pytest.raises(FileNotFoundError):
        cluster.run(store(cluster, filled, filled, encode_value))
    assert len(look_up(cluster, filled)[0]) == 100


def test_an_error_that_is_no_nodes_fault_is_raised_as_it_is(nodes: LocalNodes) -> None:
    """One made before anything is connected, with a mistake in the settings, for one."""

    class Retries:
        def __deepcopy__(self, memo: Any) -> Any:
            raise ZeroDivisionError

    hosts = [nodes.hosts[0], {**nodes.hosts[1], "retry": Retries()}]
    cluster = Cluster(hosts)
    with pytest.raises(ZeroDivisionError):
        cluster.call_nodes("PING")
    cluster.close()


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
def test_integers_of_any_size_are_sent_as_text(cluster: Cluster, number: int) -> None:
    assert ask(cluster, b"key", b"ECHO", number) == str(number).encode()


def test_integers_that_python_does_not_write_are_an_error_and_no_crash(
    cluster: Cluster,
) -> None:
    with pytest.raises(ValueError, match="4300"):
        ask(cluster, b"key", b"ECHO", 10**5000)


def test_signal_handlers_may_use_the_cluster_in_the_middle_of_a_batch(
    cluster: Cluster, filled: list[bytes]
) -> None:
    seen: list[Any] = []

    def handler(signum: int, frame: object) -> None:
        seen.append(look_up(cluster, filled))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(2000):
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + i % 10 * 0.0001)
            found, failures = look_up(cluster, filled)
            assert failures == []
            assert len(found) == 100
            if len(seen) >= 20:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) >= 20
    assert all(outcome == (found, []) for outcome in seen)


def test_threads_share_a_cluster_and_get_their_own_replies(cluster: Cluster) -> None:
    errors: list[object] = []

    def work(name: bytes) -> None:
        keys = [b"%b:%d" % (name, i) for i in range(50)]
        for _ in range(20):
            _, failures = cluster.run(store(cluster, keys, keys, bytes))
            found, more = look_up(cluster, keys)
            if failures or more or found != {key: key for key in keys}:
                errors.append((name, failures, more))

    threads = [threading.Thread(target=work, args=(b"t%d" % i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_forked_child_opens_connections_of_its_own(
    cluster: Cluster, filled: list[bytes]
) -> None:
    look_up(cluster, filled)
    mine = {
        connection.fd for node in cluster._threads.pools.values() for connection in node.idle
    }
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            inherited = mine & {int(fd) for fd in open_descriptors()}
            found, failures = look_up(cluster, filled)
            os.write(write_end, repr((inherited, len(found), failures)).encode())
            status = 0
        os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as pipe:  # noqa: PTH123
        said = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    assert said == "(set(), 100, [])"
    found, failures = look_up(cluster, filled)  # the parent's are as they were
    assert failures == []
    assert len(found) == 100
    assert mine == {c.fd for node in cluster._threads.pools.values() for c in node.idle}


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    collect_garbage()
    before = open_descriptors()
    yield
    gc.collect()
    # A thread that opened a connection may take a while to end, and knows it until then.
    wait_until(lambda: open_descriptors() <= before)


@pytest.mark.usefixtures("no_descriptor_left")
def test_a_dropped_cluster_leaves_no_descriptor_open(shared_nodes: LocalNodes) -> None:
    cluster = Cluster(shared_nodes.hosts)
    assert cluster.call_nodes("PING")[1] == []
    del cluster


def test_max_connections_is_a_bound_with_a_clear_error() -> None:
    release = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"WAIT":
            asked.set()
            release.wait(5)
        connection.sendall(b"+OK\r\n")

    asked = threading.Event()
    with Peer(answer) as peer:
        cluster = Cluster([peer.host], pool_options={"max_connections": 1})
        waiting = threading.Thread(target=cluster.call_nodes, args=("WAIT",))
        waiting.start()
        assert asked.wait(5)
        _, (failure,) = cluster.call_nodes("PING")
        assert isinstance(failure.error, redis.exceptions.MaxConnectionsError)
        assert "All 1 connections are in use" in str(failure.error)
        assert "max_connections" in str(failure.error)
        release.set()
        waiting.join()
        assert cluster.call_nodes("PING") == ({0: b"OK"}, [])
        cluster.close()


def test_an_error_reply_of_one_node_is_that_nodes_failure(cluster: Cluster) -> None:
    keys = [b"key:%d" % i for i in range(100)]
    cluster.run(store(cluster, keys, keys, bytes))
    cluster.get_local_client(1).config_set("maxmemory", 1)
    try:
        _, failures = cluster.run(store(cluster, keys, keys, bytes))
        (failure,) = failures
        assert failure.host_id == 1
        assert isinstance(failure.error, redis.exceptions.OutOfMemoryError)
        assert "[node 1, " in str(failure.error)
        assert set(failure.keys) == {k for k in keys if cluster.get_host_for_key(k) == 1}
    finally:
        cluster.get_local_client(1).config_set("maxmemory", 0)


def test_commands_of_several_rounds_share_one_deadline(cluster: Cluster) -> None:
    def slow_rounds() -> Batch[list[list[int]]]:
        failed = []
        for _ in range(20):
            commands = dict.fromkeys(cluster.nodes, (b"BLPOP", b"nothing", b"0.05"))
            _, failures = yield from call_each(cluster, commands)
            failed.append([f.host_id for f in failures])
        return failed

    start = time.monotonic()
    failed = cluster.run(slow_rounds(), timeout=0.5)
    assert time.monotonic() - start < 0.5 + SLACK
    assert failed[0] == []
    assert failed[-1] == [0, 1, 2, 3]


def test_a_deadline_ends_what_is_slow_to_encode(cluster: Cluster) -> None:
    """Though every node takes all it is sent, at once."""
    encoded = 0

    def encode_slowly(value: bytes) -> bytes:
        nonlocal encoded
        encoded += 1
        time.sleep(0.002)
        return value

    keys = [b"key:%d" % i for i in range(2000)]
    values = [bytes(40_000)] * len(keys)
    began = time.monotonic()
    _, failures = cluster.run(store(cluster, keys, values, encode_slowly), 0.1)
    assert time.monotonic() - began < 0.1 + SLACK + 1
    assert 0 < encoded < 1000
    assert all("Deadline exceeded" in str(failure.error) for failure in failures)
    assert {failure.host_id for failure in failures} == set(cluster.hosts)


def test_what_is_slow_to_encode_is_no_silence_of_the_nodes() -> None:
    """Each node's share takes longer to encode than any node may be silent."""
    shares: dict[int, int] = {}

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if len(peer.commands) % shares[peer.port] == 0:
            time.sleep(0.1)  # the node thinks
            connection.sendall(b"+OK\r\n" * shares[peer.port])

    def encode_slowly(value: bytes) -> bytes:
        time.sleep(0.03)
        return value

    with Peer(answer) as one, Peer(answer) as other:
        cluster = Cluster(
            [one.host, other.host],
            pool_options={"socket_timeout": 0.3, "socket_connect_timeout": 0.1},
            router_cls=SlotRouter,
        )
        keys = [b"key:%d" % i for i in range(30)]
        for key in keys:
            port = cluster.hosts[cluster.get_host_for_key(key)].port
            shares[port] = shares.get(port, 0) + 1
        assert min(shares.values()) * 0.03 > 0.3
        for _ in range(2):  # with connections to open, and with idle ones
            large = [bytes(70_000)] * len(keys)  # more than a piece each
            _, failures = cluster.run(store(cluster, keys, large, encode_slowly))
            assert failures == []
        cluster.close()


@pytest.mark.parametrize("transport", ["poll", "asyncio"])
def test_after_part_of_a_push_a_connection_is_asked_no_more(transport: str) -> None:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"HELLO":
            connection.sendall(b"%1\r\n+proto\r\n:3\r\n")
        elif command[0] == b"ECHO":
            connection.sendall(b"$3\r\n" + command[1] + b"\r\n>2\r\n+inv")
        else:
            connection.sendall(b"+OK\r\n")

    def echo(text: str) -> Any:
        batch = call_each(cluster, {0: ("ECHO", text)})
        return cluster.run(batch) if transport == "poll" else runner.run(cluster.arun(batch))

    with Peer(answer) as peer, asyncio.Runner() as runner:
        cluster = Cluster([peer.host], pool_options={"protocol": 3})
        assert echo("one") == ({0: b"one"}, [])
        assert echo("two") == ({0: b"two"}, [])
        assert len(peer.connections) == 2
        cluster.close()


def test_a_closed_connection_sends_nothing_to_who_has_its_descriptor_now(
    cluster: Cluster,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = cluster._threads.pools[0].open()
        send, number = connection.send, connection.fd
        connection.close()
        os.dup2(ours.fileno(), number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            send(b"PING\r\n")
        os.close(number)


def test_connections_that_nobody_needs_for_a_minute_are_closed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = cluster._threads.pools[0]
    connections = [pool.open() for _ in range(5)]
    now = time.monotonic()

    def use(count: int, seconds: float) -> None:
        monkeypatch.setattr("django_rb.engine.threads.pool.monotonic", lambda: now + seconds)
        taken = [pool.take() for _ in range(count)]
        for connection in filter(None, taken):
            pool.give_back(connection)

    for connection in connections:
        pool.give_back(connection)
    use(5, 30)
    use(2, 61)  # the five were needed in this minute
    assert len(pool.idle) == 5
    use(2, 90)
    use(2, 122)
    assert len(pool.idle) == 2
