"""Replies that cannot be the answers to what the clients sent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest

from django_rb.engine import Cluster, ProtocolError, RoutingClient
from django_rb.engine.protocol.answers import is_number, is_value
from django_rb.engine.rounds.batch import call
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.tables import for_each
from tests.transports import awaited

Ask = Callable[[RoutingClient], Any]


def check(said: bytes, ask: Callable[[Cluster], Any]) -> None:
    """Check that whoever asks hears of a ProtocolError, and that the connection is closed."""

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(b":7\r\n" if command[0] == b"INCRBY" else said)

    with Peer(answer) as peer:
        cluster = Cluster([peer.host])
        for count in (1, 2):
            with pytest.raises(ProtocolError, match="node 0"):
                ask(cluster)
            assert len(peer.connections) == count
        cluster.disconnect_pools()


ARRAYS = [b"*1\r\n$1\r\n1\r\n", b"*3\r\n$1\r\n1\r\n$-1\r\n$-1\r\n", b"*2\r\n:1\r\n:2\r\n"]


@for_each("said", [*ARRAYS, b"$1\r\n1\r\n", b"+OK\r\n", b":1\r\n"])
def test_no_promise_gets_the_reply_to_another(said: bytes) -> None:
    promises: list[Any] = []

    def ask(cluster: Cluster) -> None:
        with cluster.map() as client:
            promises.extend([client.get("a"), client.get("b"), client.incr("n")])

    check(said, ask)
    for promise in promises:
        assert promise.is_rejected


def mapped(call: Callable[[Any], list[Any]], cluster: Cluster) -> None:
    with cluster.map() as client:
        call(client)


@pytest.mark.parametrize("said", [b"+QUEUED\r\n", b"$-1\r\n", b":1\r\n"])
def test_nothing_counts_as_stored_that_may_not_be(said: bytes) -> None:
    check(said, partial(mapped, lambda client: [client.set("a", 1), client.set("b", 1)]))
    check(said, partial(mapped, lambda client: [client.set("a", 1)]))


CALLS: dict[str, tuple[Ask, list[bytes]]] = {
    "get": (lambda client: client.get("k"), [b"*0\r\n", b":1\r\n", b"+OK\r\n"]),
    "mget": (lambda client: client.mget("k", "l"), ARRAYS),
    "set": (lambda client: client.set("k", 1), [b"$-1\r\n", b"+QUEUED\r\n"]),
    "mset": (lambda client: client.mset({"k": 1}), [b"$-1\r\n", b"+QUEUED\r\n"]),
    "ttl": (lambda client: client.ttl("k"), [b"+OK\r\n"]),
    "delete": (lambda client: client.delete("k"), [b"*0\r\n", b"+OK\r\n", b"$-1\r\n"]),
    "scan_iter": (
        lambda client: list(client.scan_iter()),
        [b"*0\r\n", b"*2\r\n$1\r\n0\r\n*1\r\n$-1\r\n", b"*2\r\n$1\r\n0\r\n*1\r\n:1\r\n"],
    ),
}


@for_each(("name", "said"), [(name, said) for name, (_, odd) in CALLS.items() for said in odd])
def test_what_cannot_be_the_answer_fails_its_node(name: str, said: bytes) -> None:
    check(said, lambda cluster: CALLS[name][0](cluster.get_routing_client()))


@pytest.mark.parametrize("transport", [nullcontext, awaited], ids=["threads", "asyncio"])
def test_replies_that_are_one_behind_are_so_until_one_cannot_be_the_answer(
    transport: Callable[[], AbstractContextManager[None]],
) -> None:
    """RESP has no way to tell sooner: a copied reply came when the next question was asked."""
    behind: dict[socket.socket, bytes] = {}

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        right = b":7\r\n" if command[0] == b"INCRBY" else b"$1\r\n%b\r\n" % command[1]
        is_first = len(peer.connections) == 1
        connection.sendall(behind.get(connection, right) if is_first else right)
        behind[connection] = right

    def get(key: bytes) -> Any:
        return cluster.run(call(cluster, key, b"GET", key, answer=is_value))

    with Peer(answer) as peer, transport():
        cluster = Cluster([peer.host])
        assert [get(key)[0] for key in (b"a", b"b", b"c")] == [b"a", b"a", b"b"]
        _, failures = cluster.run(call(cluster, b"n", b"INCRBY", b"n", 1, answer=is_number))
        assert isinstance(failures[0].error, ProtocolError)
        assert [get(key) for key in (b"a", b"b")] == [(b"a", []), (b"b", [])]
        assert len(peer.connections) == 2
        cluster.disconnect_pools()


@pytest.mark.parametrize("protocol", [2, 3])
def test_real_servers_answers_are_answers(protocol: int, nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, pool_options={"protocol": protocol})
    client = cluster.get_routing_client()
    assert client.set("k", 1)
    assert client.set("k", 2, get=True) == b"1"
    assert client.set("k", 3, nx=True) is None
    assert client.mget("k", "none") == [b"2", None]
    assert client.ttl("k") == -1
    assert list(client.scan_iter("k")) == [b"k"]
    assert client.delete("k") == 1
    with cluster.all() as everywhere:
        info, size = everywhere.info("server"), everywhere.dbsize()
    assert all("redis_version" in said for said in info.value.values())
    assert sum(size.value.values()) == 0
    cluster.disconnect_pools()
