"""Scripts on keys of many nodes, asked the short way, and what ends that way early."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, ProtocolError
from django_rb.engine.protocol.encoding import encode_words
from django_rb.engine.protocol.scripts import KeyScript
from django_rb.engine.rounds.scripts import ScriptCall, run_scripts
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer, hang_up
from tests.helpers import Servers

Answer = Callable[[socket.socket], object]

ECHO = KeyScript("return {KEYS[1], ARGV[1]} -- 100 %", 1)
SHORT = 0.3  # seconds


def call_all(cluster: Cluster, keys: list[bytes]) -> list[Any]:
    calls = [(key, ECHO, encode_words((n,))) for n, key in enumerate(keys)]
    return run(cluster, calls)


def run(cluster: Cluster, calls: Sequence[ScriptCall]) -> list[Any]:
    return cluster.run(run_scripts(cluster, calls))


def one_key_each(cluster: Cluster) -> list[bytes]:
    """Return keys of which the first is on the first node, and so on."""
    keys: dict[int, bytes] = {}
    for n in range(1000):
        key = b"key%d" % n
        keys.setdefault(cluster.get_host_for_key(key), key)
    return [keys[host_id] for host_id in sorted(keys)]


@contextlib.contextmanager
def odd_peer(
    answer: Answer, asked: list[Peer] | None = None, **options: float
) -> Iterator[tuple[Cluster, list[bytes]]]:
    """Three nodes. The one in the middle answers scripts as told, from the second on.

    Whoever was asked for a script is listed in `asked`.
    """
    scripts: list[Peer] = [] if asked is None else asked

    def say(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] != b"EVALSHA":
            connection.sendall(b"+OK\r\n")
            return
        scripts.append(peer)
        if peer is middle and scripts.count(peer) > 1:
            answer(connection)
        else:
            connection.sendall(b"*2\r\n$1\r\nx\r\n$1\r\n1\r\n")

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(say)) for _ in range(3)]
        middle = peers[1]
        cluster = Cluster([peer.host for peer in peers], pool_options=options)
        stack.callback(cluster.close)
        keys = one_key_each(cluster)
        assert call_all(cluster, keys) == [[b"x", b"1"]] * 3  # connections are open now
        yield cluster, keys


def test_scripts_run_where_their_keys_live(cluster: Cluster) -> None:
    keys = [b"key:%d" % n for n in range(50)]
    for _ in range(3):  # unknown, known, and known on open connections
        expected = [[key, b"%d" % n] for n, key in enumerate(keys)]
        assert call_all(cluster, keys) == expected
    assert call_all(cluster, [b"%d %s \r\n"]) == [[b"%d %s \r\n", b"0"]]


def test_a_script_that_fails_fails_alone_and_names_its_node(cluster: Cluster) -> None:
    fail = KeyScript("if ARGV[1] == '1' then return redis.error_reply('NO') end return 1", 1)
    calls = [(b"{tag}%d" % n, fail, encode_words((n,))) for n in range(3)]
    for _ in range(2):
        first, second, third = run(cluster, calls)
        assert (first, third) == (1, 1)
        assert isinstance(second, redis.ResponseError)
        assert f"[node {cluster.get_host_for_key(b'{tag}')}, " in str(second)


def test_connections_that_were_closed_while_idle_are_opened_anew(
    cluster: Cluster, nodes: LocalNodes
) -> None:
    keys = one_key_each(cluster)
    call_all(cluster, keys)
    with Servers(nodes.hosts) as servers:
        for host_id in (0, 2):
            servers.ask(host_id, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert [reply[0] for reply in call_all(cluster, keys)] == keys


def test_an_answer_may_come_in_pieces() -> None:
    def answer(connection: socket.socket) -> None:
        for piece in (b"*2\r\n$1\r\nx\r", b"\n$1\r\n", b"1\r\n"):
            connection.sendall(piece)
            threading.Event().wait(0.01)

    with odd_peer(answer) as (cluster, keys):
        for _ in range(3):
            assert call_all(cluster, keys) == [[b"x", b"1"]] * 3


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (hang_up, redis.ConnectionError, "closed the connection"),
        (lambda c: c.sendall(b"!?\r\n"), ProtocolError, "does not speak RESP"),
        (lambda c: c.sendall(b"+1\r\n+2\r\n"), ProtocolError, "more replies than expected"),
        (lambda c: c.sendall(b"*2\r\n$1\r\n"), redis.TimeoutError, "No reply within"),
        (lambda c: None, redis.TimeoutError, "No reply within"),
    ],
    ids=["hangs up", "no RESP", "too much", "half", "silence"],
)
def test_a_node_that_answers_badly_fails_alone(
    answer: Answer, error: type[Exception], words: str
) -> None:
    asked: list[Peer] = []
    with odd_peer(answer, asked, socket_timeout=SHORT) as (cluster, keys):
        first, middle, last = call_all(cluster, keys)
        assert [asked.count(peer) for peer in asked] == [2] * 6  # once each time, no more
        assert (first, last) == ([b"x", b"1"], [b"x", b"1"])
        assert isinstance(middle, error)
        assert words in str(middle)
        assert "[node 1, " in str(middle)
        assert cluster.health()[1].state == "failing"
        assert [len(cluster._threads.pools[n].idle) for n in range(3)] == [1, 0, 1]


def test_of_several_scripts_for_a_node_those_fail_that_it_did_not_answer() -> None:
    def answer_one(connection: socket.socket) -> None:
        connection.sendall(b"*2\r\n$1\r\nx\r\n$1\r\n1\r\n")
        hang_up(connection)

    with odd_peer(answer_one) as (cluster, keys):
        first, known, lost, last = call_all(cluster, [keys[0], keys[1], keys[1], keys[2]])
        assert (first, known, last) == ([b"x", b"1"],) * 3
        assert isinstance(lost, redis.ConnectionError)


def test_a_node_that_is_gone_takes_nothing_from_the_others() -> None:
    with odd_peer(hang_up) as (cluster, keys):
        cluster._threads.pools[1].close_idle()
        first, middle, last = call_all(cluster, keys)
        assert (first, last) == ([b"x", b"1"], [b"x", b"1"])
        assert isinstance(middle, redis.ConnectionError)


def test_large_arguments(cluster: Cluster) -> None:
    keys = one_key_each(cluster)
    call_all(cluster, keys)
    large = encode_words((b"x" * 100_000,))
    calls = [(key, ECHO, large) for key in keys]
    assert [len(reply[1]) for reply in run(cluster, calls)] == [100_000] * len(keys)


def test_who_answers_late_leaves_less_time_to_the_others() -> None:
    def say(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"EVALSHA" and len(peer.commands) > known:
            if peer is not peers[0]:
                return
            threading.Event().wait(0.9)
        connection.sendall(b"+OK\r\n")

    known = 1000
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(say)) for _ in range(3)]
        cluster = Cluster([peer.host for peer in peers], pool_options={"socket_timeout": 1.0})
        stack.callback(cluster.close)
        keys = one_key_each(cluster)
        assert call_all(cluster, keys) == [b"OK"] * 3
        known = 0
        began = monotonic()
        replies = call_all(cluster, keys)
        assert 0.9 < monotonic() - began < 1.6  # and not 1.9
    assert replies[0] == b"OK"
    assert all(isinstance(reply, redis.TimeoutError) for reply in replies[1:])


@pytest.mark.parametrize("said", [b"", b"*2\r\n$1\r\n"], ids=["at once", "in mid-reply"])
def test_nodes_that_hang_are_waited_for_together(said: bytes) -> None:
    asked: list[bytes] = []

    def say(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        asked.extend(command[:1])
        connection.sendall(b"+OK\r\n" if asked.count(b"EVALSHA") <= 4 else said)

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(say)) for _ in range(4)]
        cluster = Cluster([peer.host for peer in peers], pool_options={"socket_timeout": 1.0})
        stack.callback(cluster.close)
        keys = one_key_each(cluster)
        assert call_all(cluster, keys) == [b"OK"] * 4
        began = monotonic()
        replies = call_all(cluster, keys)
        assert 0.95 < monotonic() - began < 1.8  # not once for each
    assert all(isinstance(reply, redis.TimeoutError) for reply in replies)
