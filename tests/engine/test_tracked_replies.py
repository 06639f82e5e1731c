"""Replies to reads of keys that a node tracks, wherever they are cut and changes come."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from django_rb.engine.errors import ProtocolError
from django_rb.engine.near.copies import Copies
from django_rb.engine.near.tracking import Tracking, Trackings
from django_rb.engine.protocol.reader import ReplyReader
from django_rb.engine.rounds.tracked import Reading, Tracked, TrackedMget, TrackedSlotValues
from django_rb.engine.rounds.tracked_get import TrackedGet
from django_rb.engine.routing.slots import ClusterRouter

KEYS = [b"a", b"b", b"c"]
LONG, SHORT, GONE, FOR_EVER = b":99999\r\n", b":5000\r\n", b":-2\r\n", b":-1\r\n"
CHANGE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nb\r\n"
FLUSH = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


class Hosts:
    hosts = {0: None}


HOSTS: Any = Hosts()


class Rig:
    """A connection with tracking, and a read of keys on it."""

    def __init__(self, kind: str) -> None:
        self.copies = Copies(100_000, 10)
        trackings = Trackings()
        trackings.keepers = (self.copies,)
        node: Any = SimpleNamespace(epoch=0)
        self.reader = ReplyReader()
        self.tracking = Tracking(trackings, node, 0, b"", lambda _: None)
        self.reader.tracking = self.tracking
        self.reading = Reading(self.copies, KEYS)
        self.kind = kind
        self.keys = KEYS[1:2] if kind == "GET" else KEYS
        self.exchange: Tracked
        if kind == "GET":
            self.exchange = TrackedGet(0, KEYS[1], self.copies)
        elif kind == "MGET":
            self.exchange = TrackedMget(0, KEYS, self.reading)
        else:
            self.exchange = TrackedSlotValues(
                0, KEYS, ClusterRouter(HOSTS, [0] * 16384), self.reading
            )

    def run(self, parts: list[bytes]) -> bool:
        """Let the node answer in parts; return whether the last one ended the exchange."""
        batch = self.reading.run([self.exchange])
        next(batch)
        self.exchange.begin(self.reader, True)
        assert self.exchange.out is not None
        self.exchange.sent(len(self.exchange.out))
        ended = [self.exchange.feed(bytearray(part), len(part)) for part in parts]
        assert not any(ended[:-1])
        with pytest.raises(StopIteration):
            next(batch)
        return ended[-1]

    def near(self, later: float = 0.0) -> list[bytes | None]:
        """Return what is near, some seconds after it was read."""
        return self.copies.get_many(self.keys, self.tracking.term.until - 5.0 + later)[0]


def replies(kind: str, *times: bytes) -> list[bytes]:
    """Return a node's replies, between which changes may come."""
    values = [b"$1\r\n1\r\n", b"$1\r\n2\r\n", b"$1\r\n3\r\n"]
    if kind == "GET":
        return [values[1], times[1]]
    if kind == "MGET":
        return [b"*3\r\n" + b"".join(values), *times]
    return [*values, *times]


each_kind = pytest.mark.parametrize("kind", ["GET", "MGET", "GETs"])


@each_kind
@pytest.mark.parametrize("times", [(LONG, FOR_EVER, LONG), (FOR_EVER,) * 3, (SHORT,) * 3])
def test_they_may_be_cut_anywhere(kind: str, times: tuple[bytes, ...]) -> None:
    data = b"".join(replies(kind, *times))
    for cut in range(len(data)):
        rig = Rig(kind)
        assert rig.run([data[:cut], data[cut:]] if cut else [data])
        values = [b"2"] if kind == "GET" else [b"1", b"2", b"3"]
        assert list(rig.exchange.replies) == ([values] if kind == "MGET" else values)
        assert rig.near() == values
        assert rig.exchange.is_kept


@pytest.mark.parametrize("read", range(6))
def test_a_lost_connection_leaves_the_values_that_came(read: int) -> None:
    rig = Rig("GETs")
    batch = rig.reading.run([rig.exchange])
    next(batch)
    rig.exchange.begin(rig.reader, True)
    for part in replies("GETs", LONG, LONG, LONG)[:read]:
        assert not rig.exchange.feed(bytearray(part), len(part))
    lost = ConnectionError()
    rig.exchange.fail(lost)
    batch.close()
    assert isinstance(rig.exchange, TrackedSlotValues)
    values: list[Any] = [b"1", b"2", b"3"]
    assert rig.exchange.values() == values[:read] + [lost] * (3 - read)
    assert rig.exchange.lost == KEYS[read:]
    assert rig.near() == [None] * 3


@each_kind
@pytest.mark.parametrize("in_parts", [True, False])
def test_what_changes_before_the_first_reply_is_older(kind: str, in_parts: bool) -> None:
    for push in (CHANGE, FLUSH):
        rig = Rig(kind)
        answer = b"".join(replies(kind, LONG, LONG, LONG))
        assert rig.run([push, answer] if in_parts else [push + answer])
        assert rig.near() == ([b"2"] if kind == "GET" else [b"1", b"2", b"3"])


@each_kind
@pytest.mark.parametrize("in_parts", [True, False])
def test_what_changes_after_the_first_reply_is_newer(kind: str, in_parts: bool) -> None:
    parts = replies(kind, LONG, LONG, LONG)
    for place in range(1, len(parts) + 1 - in_parts):
        for push, left in ((CHANGE, [b"1", None, b"3"]), (FLUSH, [None] * 3)):
            rig = Rig(kind)
            told = [*parts[:place], push, *parts[place:]]
            assert rig.run(told if in_parts else [b"".join(told)])
            assert rig.near() == ([None] if kind == "GET" else left)


@each_kind
def test_an_older_change_does_not_hide_a_newer_one(kind: str) -> None:
    rig = Rig(kind)
    answer = b"".join(replies(kind, LONG, LONG, LONG))
    feed = rig.exchange.feed

    def feed_after_write(data: Any, size: int = -1) -> bool:
        rig.copies.drop([b"b"])  # another thread has written
        return feed(data, size)

    rig.exchange.feed = feed_after_write  # type: ignore[method-assign]
    assert rig.run([CHANGE + answer])
    assert b"2" not in rig.near()


def test_each_key_has_its_own_expiry() -> None:
    rig = Rig("MGET")
    assert rig.run([b"".join(replies("MGET", SHORT, GONE, LONG))])
    assert rig.near() == [b"1", None, b"3"]
    rig.tracking.term.until += 5.0
    assert rig.copies.get_many(KEYS, rig.tracking.term.until - 4.9)[0] == [None, None, b"3"]


WRONG: list[Callable[[list[bytes]], list[bytes]]] = [
    lambda parts: [*parts[:-1], b"+OK\r\n"],
    lambda parts: [b":1\r\n", *parts[1:]],
    lambda parts: [*parts, b"$5\r\nextra\r\n"],
]


@each_kind
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_cannot_be_an_answer_is_not_kept(kind: str, number: int) -> None:
    data = b"".join(WRONG[number](replies(kind, LONG, LONG, LONG)))
    for answer in ([data], [data[:2], data[2:]]):
        rig = Rig(kind)
        with pytest.raises(ProtocolError):
            rig.run(answer)
        assert rig.near() == [None] * len(rig.keys)
