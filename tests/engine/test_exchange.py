"""An exchange is bytes in and bytes out: it is tested without a network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as redis_errors

from django_rb.engine.errors import ProtocolError
from django_rb.engine.protocol.encoding import (
    _MANY_ALIKE,
    _MANY_KEYS,
    PIECE_SIZE,
    Args,
    Buffer,
    encode,
    encode_each,
    encode_keys,
    encode_keys_and_each,
    pack,
)
from django_rb.engine.protocol.exchange import Exchange
from django_rb.engine.protocol.reader import ReplyReader
from django_rb.engine.rounds.batch import store
from tests.tables import for_each

REPLIES = b"+OK\r\n$5\r\nhello\r\n*2\r\n$-1\r\n:7\r\n-OOM no memory\r\n$0\r\n\r\n"
VALUES: list[Any] = [b"OK", b"hello", [None, 7], redis_errors.OutOfMemoryError, b""]


def begun(count: int, *, has_pushes: bool = False) -> Exchange:
    """Return an exchange that has sent all its commands and awaits `count` replies."""
    exchange = Exchange(0, b"question", count)
    exchange.begin(ReplyReader(), has_pushes)
    exchange.sent(len(b"question"))
    return exchange


def comparable(replies: list[Any]) -> list[Any]:
    return [type(reply) if isinstance(reply, Exception) else reply for reply in replies]


@for_each("cut", range(1, len(REPLIES)))
def test_a_reply_stream_cut_anywhere_gives_the_same_replies(cut: int) -> None:
    exchange = begun(len(VALUES))
    assert not exchange.feed(REPLIES[:cut])
    assert exchange.feed(REPLIES[cut:])
    assert comparable(exchange.replies) == VALUES


def test_replies_may_come_byte_by_byte() -> None:
    exchange = begun(len(VALUES))
    done = [exchange.feed(REPLIES[i : i + 1]) for i in range(len(REPLIES))]
    assert done == [False] * (len(REPLIES) - 1) + [True]
    assert comparable(exchange.replies) == VALUES


@for_each("extra", [b"+OK\r\n", b"+", b"$5\r\n", b"$5\r\nhel"])
def test_a_reply_too_many_is_an_error_and_not_left_for_the_next_question(
    extra: bytes,
) -> None:
    exchange = begun(1)
    with pytest.raises(ProtocolError, match="more replies than expected"):
        exchange.feed(b"+OK\r\n" + extra)


def test_a_reply_before_the_question_was_sent_is_an_error() -> None:
    exchange = Exchange(0, b"quest", 1, iter([b"ion"]))
    exchange.begin(ReplyReader(), False)
    exchange.sent(5)
    with pytest.raises(ProtocolError):
        exchange.feed(b"+OK\r\n")


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\0", b"+OK\r\n?"]
)
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    exchange = begun(2)
    with pytest.raises(ProtocolError, match="does not speak RESP"):
        exchange.feed(garbage)


def test_pushes_of_resp3_answer_nothing() -> None:
    exchange = begun(2, has_pushes=True)
    assert not exchange.feed(b"+a\r\n>2\r\n+invalidate\r\n*0\r\n")
    assert exchange.feed(b">1\r\n+x\r\n+b\r\n")
    assert exchange.replies == [b"a", b"b"]


def test_a_push_is_no_reply_where_the_rest_is_broken() -> None:
    exchange = begun(3, has_pushes=True)
    with pytest.raises(ProtocolError):
        exchange.feed(b">2\r\n+invalidate\r\n*0\r\n+a\r\n!garbage\r\n")
    assert exchange.replies == [b"a"]


@pytest.mark.parametrize("push", [b">1\r\n+x\r\n", b">1\r\n+x\r\n>1\r\n+y\r\n"])
def test_a_push_may_follow_the_last_reply(push: bytes) -> None:
    exchange = begun(1, has_pushes=True)
    assert exchange.feed(b"+a\r\n" + push)
    assert exchange.replies == [b"a"]


@for_each("part", [b">1\r\n", b">", b">1\r\n+", b">1\r\n+x\r\n>1"])
def test_part_of_a_push_may_follow_the_last_reply(part: bytes) -> None:
    exchange = begun(1, has_pushes=True)
    assert exchange.feed(b"+a\r\n" + part)
    assert exchange.replies == [b"a"]
    assert exchange._reader.is_cut


@pytest.mark.parametrize("extra", [b"+b\r\n", b">1\r\n+x\r\n+b\r\n"])
def test_a_reply_too_many_is_an_error_in_resp3(extra: bytes) -> None:
    exchange = begun(1, has_pushes=True)
    with pytest.raises(ProtocolError):
        exchange.feed(b"+a\r\n" + extra)


def test_resp3_false_is_a_reply() -> None:
    exchange = begun(2)
    assert exchange.feed(b"#f\r\n#t\r\n")
    assert exchange.replies == [False, True]


@for_each(
    ("text", "kind", "message"),
    [
        ("ERR no such thing", redis_errors.ResponseError, "no such thing"),
        ("WRONGTYPE Operation", redis_errors.ResponseError, "WRONGTYPE Operation"),
        ("OOM command not allowed", redis_errors.OutOfMemoryError, "OOM command not allowed"),
        ("LOADING dataset", redis_errors.BusyLoadingError, "LOADING dataset"),
        ("READONLY replica", redis_errors.ReadOnlyError, "READONLY replica"),
        ("NOSCRIPT none", redis_errors.NoScriptError, "NOSCRIPT none"),
        ("NOAUTH needed", redis_errors.AuthenticationError, "NOAUTH needed"),
        ("WRONGPASS no", redis_errors.AuthenticationError, "WRONGPASS no"),
        ("NOPERM no", redis_errors.NoPermissionError, "NOPERM no"),
        ("MASTERDOWN link", redis_errors.MasterDownError, "MASTERDOWN link"),
        (
            "ERR max number of clients reached",
            redis_errors.MaxConnectionsError,
            "max number of clients reached",
        ),
    ],
)
def test_error_replies_have_the_types_of_redis_py(
    text: str, kind: type[Exception], message: str
) -> None:
    exchange = begun(1)
    assert exchange.feed(f"-{text}\r\n".encode())
    (reply,) = exchange.replies
    assert type(reply) is kind
    assert str(reply) == message


def test_pieces_are_taken_one_ahead_of_the_socket() -> None:
    taken: list[bytes] = []

    def pieces() -> Iterator[Buffer]:
        for piece in (b"two", b"three"):
            taken.append(piece)
            yield piece

    exchange = Exchange(0, b"one", 1, pieces())
    exchange.sent(2)
    assert taken == []
    assert bytes(exchange.out or b"") == b"e"
    exchange.sent(1)
    assert taken == [b"two"]


def sent_in_steps(pieces: Iterator[Buffer], step: int) -> bytes:
    """Return what a socket that takes `step` bytes at a time is given."""
    exchange = Exchange(0, next(pieces), 1, pieces)
    sent = b""
    while exchange.out is not None:
        size = min(step, len(exchange.out))
        sent += bytes(exchange.out[:size])
        exchange.sent(size)
    return sent


ARGS = st.one_of(st.binary(), st.text(), st.integers(), st.floats(allow_nan=False))


@given(commands=st.lists(st.lists(ARGS, min_size=1), min_size=1), step=st.integers(1, 50))
def test_commands_arrive_as_hiredis_packs_them_however_the_socket_takes_them(
    commands: list[list[bytes | str | int | float]], step: int
) -> None:
    packed = b"".join(pack(tuple(args)) for args in commands)
    assert sent_in_steps(encode(list(map(tuple, commands))), step) == packed


COLUMNS = st.one_of(
    *(
        st.lists(words, min_size=1, max_size=2)
        for words in (st.binary(), st.text(), st.integers(), st.floats(), ARGS)
    ),
    st.just([-0.0, 0.0]),
    st.just([b"1", b"%d" % PIECE_SIZE * 5000]),
)


@given(columns=st.lists(COLUMNS, min_size=1, max_size=6), count=st.sampled_from([15, 16, 300]))
def test_commands_that_are_alike_are_what_hiredis_packs(
    columns: list[list[bytes | str | int | float]], count: int
) -> None:
    commands = list(islice(zip(*map(cycle, columns), strict=True), count))
    assert b"".join(encode(commands)) == b"".join(map(pack, commands))


@given(
    keys=st.lists(st.binary(max_size=600), min_size=1), name=st.sampled_from([b"MGET", b"DEL"])
)
def test_a_command_of_keys_is_what_hiredis_packs(keys: list[bytes], name: bytes) -> None:
    assert encode_keys(name, keys) == pack((name, *keys))
    each = b"".join(pack((b"PTTL", key)) for key in keys)
    assert encode_each(b"PTTL", keys) == each
    assert encode_keys_and_each(name, b"PTTL", keys) == pack((name, *keys)) + each


@for_each("size", [0, 1, 9, 10, 4095, 4096, 70_000])
def test_keys_of_any_length_are_what_hiredis_packs(size: int) -> None:
    keys = [b"short", b"x" * size, *[b"other"] * _MANY_KEYS]
    assert encode_keys(b"UNLINK", keys) == pack((b"UNLINK", *keys))


def test_commands_that_are_alike_and_large_are_sent_uncopied() -> None:
    large = b"x" * PIECE_SIZE
    commands: list[Args] = [("SET", f"key:{n}", large) for n in range(_MANY_ALIKE)]
    assert [piece for piece in encode(commands) if piece is large] == [large] * _MANY_ALIKE


def test_commands_with_many_numbers_are_sent_in_pieces() -> None:
    commands: list[Args] = [("RPUSH", f"key:{n}", *range(n, n + 2000)) for n in range(256)]
    pieces = list(encode(commands))
    assert b"".join(pieces) == b"".join(map(pack, commands))
    assert max(map(len, pieces)) < 2 * PIECE_SIZE


SIZES = [0, 1, 60, 4095, 4096, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1]


class OneHost:
    """A cluster that is a router as well, whose keys all live on host 0."""

    scripts: dict[bytes, bytes] = {}

    @property
    def router(self) -> OneHost:
        return self

    def get_hosts_for_keys(self, keys: list[bytes]) -> list[int]:
        return [0] * len(keys)


@given(
    sets=st.lists(st.tuples(st.binary(max_size=300), st.sampled_from(SIZES)), min_size=1),
    options=st.lists(
        st.one_of(st.integers(0), st.sampled_from([b"EX", b"PX", "NX", b"100%d"]))
    ).map(tuple),
)
def test_many_sets_are_what_hiredis_packs(sets: list[tuple[bytes, int]], options: Args) -> None:
    keys = [key for key, _ in sets]
    (exchange,) = next(store(OneHost(), keys, [size for _, size in sets], bytes, options))  # type: ignore[arg-type]
    sent = b""
    while exchange.out is not None:
        sent += exchange.out
        exchange.sent(len(exchange.out))
    packed = b"".join(pack((b"SET", key, bytes(size), *options)) for key, size in sets)
    assert sent == packed


@pytest.mark.parametrize("size", [PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1])
@for_each("position", [0, 1, 2, 3])
def test_large_arguments_are_sent_uncopied_and_whole(size: int, position: int) -> None:
    args: list[bytes | str | int | float] = [b"SET", "kéy", 7]
    large = b"x" * size
    args.insert(position, large)
    command: Args = tuple(args)
    pieces = list(encode([command]))
    assert b"".join(pieces) == pack(command)
    assert any(piece is large for piece in pieces) == (size >= PIECE_SIZE)


@for_each("nasty", ["a b", "a\r\nFLUSHALL\r\n", "nul\0", "\u2028é€😀", '"quoted"'])
def test_no_argument_can_become_another_command(nasty: str) -> None:
    reader = ReplyReader()
    reader.feed(b"".join(bytes(piece) for piece in encode([("SET", nasty, nasty)])))
    assert reader.gets() == [b"SET", nasty.encode(), nasty.encode()]
    assert not reader.has_data()
