"""A single get, on a connection that was used before, and what can go wrong there."""

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
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up
from tests.helpers import Servers, make_cache
from tests.tables import for_each

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


def test_values_of_very_different_sizes_come_right_on_one_connection(
    own_node: LocalNodes,
) -> None:
    cache = make_cache()
    with Servers(own_node.hosts) as servers:
        values = {"small": "x", "large": b"x" * 2_000_000, "none": None}
        cache.set_many({name: value for name, value in values.items() if name != "none"})
        before = servers.ask(0, "INFO", "stats")["total_connections_received"]
        for name in ["small", "large", "small", "none", "large", "small"]:
            assert cache.get(name) == values[name]
        assert servers.ask(0, "INFO", "stats")["total_connections_received"] == before


@pytest.mark.parametrize("pool_options", [{}, {"protocol": 3}], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("deadline", [None, 5], ids=["no deadline", "deadline"])
def test_one_command_is_sent_whatever_the_settings_are(
    own_node: LocalNodes, pool_options: dict[str, Any], deadline: float | None
) -> None:
    with (
        one_node(own_node.hosts[0], **pool_options),
        Servers(own_node.hosts) as servers,
    ):
        cache = make_cache(OPTIONS={"DEADLINE": deadline})
        cache.set("key", "value")
        servers.reset_counts()
        assert [cache.get("key"), cache.get("key"), cache.get("none", 1)] == ["value"] * 2 + [1]
        cache.set("key", "other", 7.5)
        assert servers.counts() == {0: {"get": 3, "set": 1}}
        assert cache.get("key") == "other"
        clusters.reset()


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
        with pytest.raises(redis.TimeoutError, match=r"No reply within 0.3 s \[node 0, ") as it:
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
    cache.set_many({"key": "value", "other": "its own"})
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
    assert cache.get("other") == "its own"  # the late reply reached nobody
    assert cache.get("key") == "value"


ODD: dict[str, list[bytes]] = {
    "garbage": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "a reply too many": [b"$2\r\nno\r\n$2\r\nno\r\n"],
    "half a reply too many": [b"$2\r\nno\r\n$5\r\n"],
    "the end in mid-reply": [b"$9\r\nno", b""],
}


@pytest.mark.parametrize("on_node_error", ["raise", "miss"])
@for_each("name", [*ODD, "the end"])
def test_what_is_odd_is_no_answer_and_ends_the_connection(
    name: str, on_node_error: str
) -> None:
    odd = threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if not odd.is_set():
            connection.sendall(b"$2\r\n42\r\n")
            return
        odd.clear()
        for said in ODD.get(name, [b""]):
            if said:
                connection.sendall(said)
            else:
                hang_up(connection)

    with Peer(answer) as peer, one_node(peer.host):
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": on_node_error})
        assert [cache.get("key"), cache.get("key")] == [42, 42]
        assert len(peer.connections) == 1
        odd.set()
        if name == "the end":  # a connection that was closed while idle: asked again
            assert cache.get("key") == 42
        elif on_node_error == "miss":
            assert cache.get("key", "default") == "default"
        else:
            with pytest.raises(redis.ConnectionError, match=r"\[node 0, ") as it:
                cache.get("key")
            assert [failure.keys for failure in failures_of(it.value)] == [(KEY,)]
        assert [cache.get("key"), cache.get("key")] == [42, 42]
        assert len(peer.connections) == 2
        clusters.reset()


def test_a_reply_that_nobody_asked_for_answers_nothing() -> None:
    """It comes while the connection is idle."""
    received, intruded, over = threading.Event(), threading.Event(), threading.Event()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if intruded.is_set() and connection is peer.connections[0]:
            over.wait(1)  # or the two would come together, and tell on each other
        connection.sendall(b"$2\r\n42\r\n")
        if len(peer.commands) == 2:  # of the connection that is used again
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
