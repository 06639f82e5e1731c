"""The proxy does what it is told, so that the other tests mean something."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from django_rb.testing import LocalNodes
from tests.faults.proxy import (
    MakeTamper,
    Proxy,
    added,
    cut_after,
    delayed,
    dripping,
    instead,
    only_first,
    reset_after,
    stall_after,
    without_the_last,
)
from tests.faults.rig import open_descriptors

PING = b"*1\r\n$4\r\nPING\r\n"


@pytest.fixture
def proxy(open_nodes: LocalNodes) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", open_nodes.hosts[0]["port"])) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=1)


def said(connection: socket.socket) -> tuple[bytes, str]:
    """Return what comes, and how it ended."""
    heard = b""
    try:
        while data := connection.recv(100):
            heard += data
    except ConnectionResetError:
        return heard, "reset"
    except TimeoutError:
        return heard, "silence"
    return heard, "end"


TAMPERS: dict[str, tuple[MakeTamper, tuple[bytes, str]]] = {
    "cut at the start": (cut_after(0), (b"", "end")),
    "cut after 3 bytes": (cut_after(3), (b"+PO", "end")),
    "cut after the reply": (cut_after(7), (b"+PONG\r\n", "end")),
    "reset at the start": (reset_after(0), (b"", "reset")),
    "reset after 3 bytes": (reset_after(3), (b"+PO", "reset")),
    "stall after 3 bytes": (stall_after(3), (b"+PO", "silence")),
    "garbage": (instead(b"HTTP/1.1"), (b"HTTP/1.1", "silence")),
    "a reply too many": (added(b"+OK\r\n"), (b"+PONG\r\n+OK\r\n", "silence")),
    "a reply too few": (without_the_last(7), (b"", "silence")),
    "half a reply too few": (without_the_last(3), (b"+PON", "silence")),
    "slow drip": (dripping(0.001), (b"+PONG\r\n", "silence")),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_a_reply_is_tampered_with(name: str, proxy: Proxy) -> None:
    tamper, expected = TAMPERS[name]
    with proxy.tampering(replies=tamper), connect(proxy) as connection:
        connection.sendall(PING)
        connection.settimeout(5)
        first = b""
        if expected[1] == "silence":  # a busy machine may be late with what comes before it
            while len(first) < len(expected[0]):
                first += connection.recv(1)
            connection.settimeout(0.1)
        rest, end = said(connection)
        assert (first + rest, end) == expected


def test_a_request_is_cut(proxy: Proxy) -> None:
    with proxy.tampering(requests=cut_after(5)), connect(proxy) as connection:
        connection.sendall(PING)
        assert said(connection) == (b"", "end")
    assert proxy.replied == 0


def test_nothing_is_changed_before_and_after(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        for tamper in (None, delayed(0.01), None):
            with proxy.tampering(replies=tamper):
                connection.sendall(PING)
                assert connection.recv(100) == b"+PONG\r\n"
    assert proxy.accepted == 1
    assert proxy.names() == [b"PING"] * 3
    assert proxy.replied == 3 * len(b"+PONG\r\n")


def test_one_connection_alone_is_tampered_with(proxy: Proxy) -> None:
    with proxy.tampering(replies=only_first(cut_after(0))):
        for expected in (b"", b"+PONG\r\n"):
            with connect(proxy) as connection:
                connection.sendall(PING)
                assert connection.recv(100) == expected


@pytest.mark.parametrize("reset", [True, False])
def test_all_connections_are_hung_up(reset: bool, proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        for connection in (one, other):
            connection.sendall(PING)
            assert connection.recv(100) == b"+PONG\r\n"
        proxy.hang_up(reset=reset)
        assert said(one) == said(other) == (b"", "reset" if reset else "end")


def test_connections_are_refused_and_taken_again(proxy: Proxy) -> None:
    with proxy.refusing(), pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with connect(proxy) as connection:
        connection.sendall(PING)
        assert connection.recv(100) == b"+PONG\r\n"


def test_a_black_hole_swallows_attempts_to_connect(proxy: Proxy) -> None:
    with proxy.black_hole():
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", proxy.port), timeout=0.1)
            assert time.monotonic() - began >= 0.1
    with connect(proxy) as connection:
        connection.sendall(PING)
        assert connection.recv(100) == b"+PONG\r\n"


def test_nothing_is_left_over(open_nodes: LocalNodes) -> None:
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    with Proxy(("127.0.0.1", open_nodes.hosts[0]["port"])) as proxy:
        with connect(proxy) as connection:
            connection.sendall(PING)
            assert connection.recv(100) == b"+PONG\r\n"
        with proxy.black_hole():
            pass
        stays = connect(proxy)
    with stays:
        assert said(stays) == (b"", "end")
    assert open_descriptors() == descriptors
    assert set(threading.enumerate()) == threads
