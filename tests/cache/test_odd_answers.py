"""A reply that cannot be the answer: an error of that node, and the connection is closed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import ProtocolError, failures_of
from tests.engine.peer import Peer
from tests.helpers import make_cache
from tests.tables import for_each

Operation = Callable[[RBCache], Any]

# By name: the operation, what its misses look like, and replies that cannot be its answers.
ODD: dict[str, tuple[Operation, Any, list[bytes]]] = {
    "get": (
        lambda c: c.get("k", "none"),
        "none",
        [b"*1\r\n$1\r\n1\r\n", b":1\r\n", b"+OK\r\n"],
    ),
    "get_many": (
        lambda c: c.get_many(["k", "l"]),
        {},
        [b"*1\r\n$1\r\n1\r\n", b"*2\r\n:1\r\n$1\r\n1\r\n", b"$1\r\n1\r\n", b"+OK\r\n"],
    ),
    "set": (lambda c: c.set("k", 1), None, [b"+QUEUED\r\n", b"$-1\r\n", b":1\r\n"]),
    "set_many": (lambda c: c.set_many({"k": 1}), ["k"], [b"+QUEUED\r\n", b"$-1\r\n"]),
    "add": (lambda c: c.add("k", 1), False, [b"+QUEUED\r\n", b":1\r\n"]),
    "touch": (lambda c: c.touch("k"), False, [b"*0\r\n", b"+OK\r\n", b"$-1\r\n"]),
    "delete": (lambda c: c.delete("k"), False, [b"*0\r\n", b"+OK\r\n"]),
    "delete_many": (lambda c: c.delete_many(["k"]), None, [b"*0\r\n", b"$1\r\n1\r\n"]),
    "has_key": (lambda c: c.has_key("k"), False, [b"+OK\r\n", b"$1\r\n0\r\n"]),
    "ttl": (lambda c: c.ttl("k"), 0, [b"+OK\r\n", b"$1\r\n9\r\n"]),
    "clear": (lambda c: c.clear(), False, [b"+QUEUED\r\n", b":1\r\n"]),
    "keys": (lambda c: c.keys("*"), [], [b"*0\r\n", b"+OK\r\n", b"*2\r\n$1\r\nx\r\n*0\r\n"]),
    "delete_pattern": (lambda c: c.delete_pattern("*"), 0, [b"*0\r\n", b":1\r\n"]),
}
RAISES = {  # also with "miss": what was not counted must not look as if it were
    "incr": (lambda c: c.incr("k"), [b"*0\r\n", b"$3\r\nabc\r\n", b":1\r\n", b"+OK\r\n"]),
}


def check(operation: Operation, said: bytes, on_error: str, missed: Any) -> None:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(said)

    with Peer(answer) as peer:
        config = {"default": {"HOSTS": [peer.host]}}
        with override_settings(RB_CLUSTERS=config):
            cache = make_cache(OPTIONS={"ON_NODE_ERROR": on_error})
            for count in (1, 2):
                if on_error == "raise":
                    with pytest.raises(ProtocolError) as raised:
                        operation(cache)
                    assert [failure.host_id for failure in failures_of(raised.value)] == [0]
                else:
                    assert operation(cache) == missed
                assert len(peer.connections) == count  # the one before was closed
            clusters.reset()


@pytest.mark.parametrize("on_error", ["raise", "miss"])
@for_each(("name", "said"), [(name, said) for name, (_, _, odd) in ODD.items() for said in odd])
def test_what_cannot_be_the_answer_fails_its_node(
    name: str, said: bytes, on_error: str
) -> None:
    operation, missed, _ = ODD[name]
    check(operation, said, on_error, missed)


@for_each(("name", "said"), [(name, said) for name, (_, odd) in RAISES.items() for said in odd])
def test_a_count_that_is_no_number_fails_its_node(name: str, said: bytes) -> None:
    check(RAISES[name][0], said, "raise", None)


@for_each("said", RAISES["incr"][1])
def test_so_it_is_where_the_script_had_to_be_sent(said: bytes) -> None:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(b"-NOSCRIPT none\r\n" if command[0] == b"EVALSHA" else said)

    with (
        Peer(answer) as peer,
        override_settings(RB_CLUSTERS={"default": {"HOSTS": [peer.host]}}),
    ):
        with pytest.raises(ProtocolError):
            make_cache().incr("k")
        assert [command[0] for command in peer.commands[-2:]] == [b"EVALSHA", b"EVAL"]
        clusters.reset()
