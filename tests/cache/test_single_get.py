"""A single get: whatever goes wrong on its connection reaches no other call."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
import redis
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import failures_of
from django_rb.engine.threads.connections import FIRST_READ_SIZE, READ_SIZE
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up
from tests.helpers import idle_connections, make_cache

KEY = b":1:key"


@pytest.fixture
def own_node() -> Iterator[LocalNodes]:
    with LocalNodes(1) as own, one_node(own.hosts[0], socket_timeout=0.3):
        yield own
        clusters.reset()


def one_node(host: dict[str, Any], **pool_options: Any) -> override_settings:
    config = {"HOSTS": [host], "POOL_OPTIONS": pool_options}
    return override_settings(RB_CLUSTERS={"default": config})


def test_a_value_larger_than_one_read_comes_whole(nodes: LocalNodes) -> None:
    cache = make_cache()
    cache.set("key", b"x" * 5_000_000)
    for _ in range(3):
        assert cache.get("key") == b"x" * 5_000_000


@pytest.mark.only_sync
def test_a_connection_reads_as_much_at_a_time_as_came_before(own_node: LocalNodes) -> None:
    cache = make_cache()
    cache.set_many({"small": "x", "large": b"x" * FIRST_READ_SIZE})
    (connection,) = idle_connections(cache.cluster)
    assert cache.get("small") == "x"
    assert len(connection.buffer) == FIRST_READ_SIZE
    assert cache.get("large") == b"x" * FIRST_READ_SIZE
    assert len(connection.buffer) == READ_SIZE
    assert cache.get("small") == "x"
    assert idle_connections(cache.cluster) == [connection]


def test_resp3_gives_the_same_answers(own_node: LocalNodes) -> None:
    with one_node(own_node.hosts[0], protocol=3):
        cache = make_cache()
        cache.set("key", "value")
        assert [cache.get("key"), cache.get("key"), cache.get("none")] == [
            "value",
            "value",
            None,
        ]


@pytest.mark.parametrize("on_node_error", ["raise", "miss"])
def test_a_silent_node_is_given_up_after_socket_timeout(
    own_node: LocalNodes, on_node_error: str
) -> None:
    cache = make_cache(OPTIONS={"ON_NODE_ERROR": on_node_error})
    cache.set("key", "value")
    assert cache.get("key") == "value"
    own_node.pause(0)
    start = monotonic()
    if on_node_error == "miss":
        assert cache.get("key", "default") == "default"
    else:
        with pytest.raises(
            redis.TimeoutError, match=r"No answer within 0.3 s \[node 0, "
        ) as it:
            cache.get("key")
        (failure,) = failures_of(it.value)
        assert (failure.host_id, failure.keys) == (0, (KEY,))
    assert 0.3 <= monotonic() - start < 0.55
    own_node.resume(0)
    cache.set("other", "its own")
    assert cache.get("other") == "its own"  # the late reply reached nobody


def test_a_node_that_was_restarted_costs_no_error(own_node: LocalNodes) -> None:
    cache = make_cache()
    cache.set("key", "value")
    assert cache.get("key") == "value"
    own_node.restart(0)
    assert cache.get("key") is None


def test_the_wrong_type_is_an_error_that_names_the_node(own_node: LocalNodes) -> None:
    cache = make_cache()
    cache.cluster.get_local_client(0).lpush(KEY, "x")
    cache.get("warm-up")
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match=r"WRONGTYPE.*\[node 0, "):
            cache.get("key")
    assert cache.get("warm-up") is None


def test_an_interrupt_closes_the_connection(own_node: LocalNodes) -> None:
    """A signal handler raises while the get waits in the kernel."""
    cache = make_cache()
    cache.set("key", "value")
    cache.get("key")
    own_node.pause(0)

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            cache.get("key")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        own_node.resume(0)
    assert idle_connections(cache.cluster) == []
    assert cache.get("key") == "value"


ODD: dict[str, list[bytes]] = {
    "garbage": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "a reply too many": [b"$2\r\nno\r\n$2\r\nno\r\n"],
    "half a reply too many": [b"$2\r\nno\r\n$5\r\n"],
    "the end in mid-reply": [b"$9\r\nno", b""],
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_is_an_error_and_the_next_get_has_a_new_connection(name: str) -> None:
    odd = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if not odd.is_set():
            connection.sendall(b"$2\r\n42\r\n")
            return
        odd.clear()
        for said in ODD[name]:
            if said:
                connection.sendall(said)
            else:
                hang_up(connection)

    with Peer(answer) as peer, one_node(peer.host):
        cache = make_cache()
        assert [cache.get("key"), cache.get("key")] == [42, 42]
        assert len(peer.connections) == 1
        odd.set()
        with pytest.raises(redis.ConnectionError, match=r"\[node 0, "):
            cache.get("key")
        assert len(peer.connections) == 1
        assert cache.get("key") == 42
        assert len(peer.connections) == 2
        clusters.reset()


def test_a_connection_that_ends_before_its_reply_costs_no_error() -> None:
    over = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if over.is_set():
            over.clear()
            hang_up(connection)
        else:
            connection.sendall(b"$2\r\n42\r\n")

    with Peer(answer) as peer, one_node(peer.host):
        cache = make_cache()
        assert cache.get("key") == 42
        over.set()
        assert cache.get("key") == 42
        assert len(peer.connections) == 2
        clusters.reset()


def test_a_reply_that_nobody_asked_for_answers_nothing() -> None:
    """It comes while the connection is idle."""
    received, intruded, over = threading.Event(), threading.Event(), threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if intruded.is_set() and connection is peer.connections[0]:
            over.wait(1)  # or the two would come together, and tell on each other
        connection.sendall(b"$2\r\n42\r\n")
        if len(peer.commands) == 2:  # the first to take the short way
            assert received.wait(5)
            connection.sendall(b"$2\r\n13\r\n")
            intruded.set()

    with Peer(answer) as peer, one_node(peer.host):
        cache = make_cache()
        assert [cache.get("key"), cache.get("key")] == [42, 42]
        received.set()
        assert intruded.wait(5)
        assert cache.get("key") == 42
        over.set()
        assert len(peer.connections) == 2
        clusters.reset()
