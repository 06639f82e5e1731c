"""Encoding commands in RESP: arrays of bulk strings.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import index
from typing import TypeAlias, cast

import hiredis

Buffer: TypeAlias = bytes | bytearray | memoryview

Arg: TypeAlias = bytes | str | int | float
Key: TypeAlias = Arg
Args: TypeAlias = tuple[Arg, ...]

# Commands are joined into pieces of about this many bytes; larger values are not copied.
PIECE_SIZE = 65536

# hiredis' own annotation allows tuples of one argument only.
_pack = cast(Callable[[tuple[str | bytes, ...]], bytes], hiredis.pack_command)


def encode_key(key: Key | bytearray | memoryview) -> bytes:
    """Return a key as bytes, as redis-py sends it.

    Bytes stay as they are (a bytearray or memoryview is copied), text becomes UTF-8,
    a number its repr() as an int or float.

    Raises:
        TypeError: for everything else, booleans and None included.
    """
    if type(key) is bytes:
        return key
    if isinstance(key, str):
        return str.encode(key)
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key)
    number = as_number(key)
    if number is not None:
        return repr(number).encode()
    raise TypeError(
        f"{reprlib.repr(key)} ({type(key).__name__}) cannot be a key. Use bytes, text, an "
        "integer or a float; str(value) converts most values to text."
    )


def as_number(value: object) -> int | float | None:
    """Return a number as a plain int or float; None for everything else.

    Subclasses of int and float, such as an IntEnum, and numpy's integers have a repr() that
    must not be sent. A boolean is no number here.
    """
    if isinstance(value, bool | bytes | str):
        return None
    if isinstance(value, float):
        return float(value)
    try:
        return int(index(value))  # type: ignore[arg-type]
    except TypeError:
        return None


def pack(args: Args) -> bytes:
    """Return the bytes of one command."""
    return pack_small(args) or b"".join(encode_large(args))


def pack_small(args: Args) -> bytes | None:
    """Return the bytes of one command; None if it has large arguments, which are not copied.

    hiredis gets only text and bytes: for a number it calls Python code, and if a signal handler
    raises there, hiredis goes on with a null pointer.
    """
    words: list[str | bytes] = []
    for arg in args:
        word: str | bytes
        if type(arg) is str or type(arg) is bytes:  # the common types first
            word = arg
        elif type(arg) is int:
            word = str(arg)
        else:
            word = encode_key(arg)
        if len(word) >= PIECE_SIZE:
            return None
        words.append(word)
    return _pack(tuple(words))


# From this number of keys on, the most frequent commands of a cache are formatted here, which
# takes a third to two thirds of hiredis' time. For fewer keys, hiredis is faster.
_MANY_KEYS = 16

# Bytes of the largest argument whose header is cached.
_LARGEST_HEADER = 4096


class _Headers(dict[int, bytes]):
    """The header of an argument by the argument's size in bytes; made when first needed."""

    def __missing__(self, size: int) -> bytes:
        header = b"\r\n$%d\r\n" % size
        if size < _LARGEST_HEADER:
            self[size] = header
        return header


headers = _Headers()
get_header = headers.__getitem__


def encode_keys(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the bytes of a command whose arguments are keys, such as ``MGET key key …``."""
    if len(keys) < _MANY_KEYS:
        return _pack((name, *keys))
    pieces = [b"\r\n"] * (2 * len(keys) + 2)
    pieces[0] = b"*%d\r\n$%d\r\n%b" % (len(keys) + 1, len(name), name)
    pieces[1:-1:2] = map(get_header, map(len, keys))
    pieces[2:-1:2] = keys
    return b"".join(pieces)


@lru_cache(maxsize=16)
def _start_between(name: bytes) -> bytes:
    """Return the bytes between the key of one command and the header of the next one's key."""
    return b"\r\n*2\r\n$%d\r\n%b" % (len(name), name)


def encode_each(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the bytes of a command for each of some keys: ``GET key``, ``GET key`` …"""
    pieces = [_start_between(name)] * (3 * len(keys) + 1)
    pieces[0] = pieces[0][2:]
    pieces[1::3] = map(get_header, map(len, keys))
    pieces[2::3] = keys
    pieces[-1] = b"\r\n"
    return b"".join(pieces)


def encode_keys_and_each(name: bytes, each: bytes, keys: Sequence[bytes]) -> bytes:
    """Return `encode_keys` of one command, and `encode_each` of another, in less time."""
    end = 2 * len(keys) + 1
    key_headers = [*map(get_header, map(len, keys))]
    pieces = [_start_between(each)] * (5 * len(keys) + 2)
    pieces[0] = b"*%d\r\n$%d\r\n%b" % (len(keys) + 1, len(name), name)
    pieces[1:end:2] = key_headers
    pieces[2:end:2] = keys
    pieces[end + 1 :: 3] = key_headers
    pieces[end + 2 :: 3] = keys
    pieces[-1] = b"\r\n"
    return b"".join(pieces)


def encode_words(words: Args) -> bytes:
    """Return the bytes of some arguments of a command."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in map(encode_key, words))


# The bytes before the key of a SET, and those after the value.
SetFrame = tuple[bytes, bytes]


@lru_cache(maxsize=256)  # a site has few timeouts
def make_set_frame(options: Args) -> SetFrame:
    """Return the bytes around key and value in a ``SET`` with some options."""
    return b"*%d\r\n$3\r\nSET" % (len(options) + 3), b"\r\n" + encode_words(options)


# How many commands are checked together before they are encoded.
_AT_A_TIME = 256

# From this number of commands on, those that are alike are encoded together.
_MANY_ALIKE = 16

_NUMBERS = frozenset({int, float})
_TEXT_OR_BYTES = frozenset({str, bytes})
_PLAIN = _NUMBERS | _TEXT_OR_BYTES


def encode(commands: Sequence[Args]) -> Iterator[Buffer]:
    """Yield the bytes of commands, joined into pieces of about PIECE_SIZE."""
    for first in range(0, len(commands), _AT_A_TIME):
        some = commands[first : first + _AT_A_TIME]
        if len(some) >= _MANY_ALIKE and (alike := _encode_alike(some)) is not None:
            yield alike
            continue
        kinds = set(map(type, chain.from_iterable(some)))
        if not _NUMBERS.isdisjoint(kinds):
            some = list(map(with_text_for_numbers, some))
        if (
            kinds <= _PLAIN
            and sum(map(len, cast(Iterable[str], chain.from_iterable(some)))) < PIECE_SIZE
        ):
            yield b"".join(map(cast(Callable[[Args], bytes], _pack), some))
        else:
            yield from in_pieces(_encode_one_by_one(some))


def _encode_alike(commands: Sequence[Args]) -> bytes | None:
    """Return the bytes of commands that have as many arguments, each of one type.

    Most commands of a `map()` differ in few of them. What all of them share is formatted once.
    Returns None for other commands, and for large ones.
    """
    if len(set(map(len, commands))) != 1:
        return None
    count, size = len(commands), 0
    shared = b"*%d" % len(commands[0])  # after the last argument that is not shared
    columns: list[Sequence[bytes]] = []
    for words in zip(*commands, strict=True):
        kinds = set(map(type, words))
        if len(kinds) != 1 or not kinds <= _PLAIN:
            return None
        is_text = kinds <= _TEXT_OR_BYTES
        size += sum(map(len, cast(Sequence[str], words))) if is_text else 8 * count
        if size >= PIECE_SIZE:
            return None
        # -0.0 equals 0.0, but is sent otherwise.
        is_shared = float not in kinds or len(set(map(id, words))) == 1
        if is_shared and words[0] == words[-1] and words.count(words[0]) == count:
            word = encode_key(words[0])
            shared += get_header(len(word)) + word
        else:
            data = [word.encode() if type(word) is str else encode_key(word) for word in words]
            columns += [shared] * count, list(map(get_header, map(len, data))), data
            shared = b""
    columns.append([shared + b"\r\n"] * count)
    pieces = [b""] * (count * len(columns))
    for position, column in enumerate(columns):
        pieces[position :: len(columns)] = column
    return b"".join(pieces)


def _encode_one_by_one(commands: Iterable[Args]) -> Iterator[Buffer]:
    for args in commands:
        piece = pack_small(args)
        if piece is None:
            yield from encode_large(args)
        else:
            yield piece


def in_pieces(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield pieces joined to about PIECE_SIZE; larger ones are not copied."""
    small: list[Buffer] = []
    size = 0
    for piece in pieces:
        if len(piece) < PIECE_SIZE:
            small.append(piece)
            size += len(piece)
        if size >= PIECE_SIZE or len(piece) >= PIECE_SIZE:
            if small:
                yield b"".join(small)
                small, size = [], 0
            if len(piece) >= PIECE_SIZE:
                yield piece
    if small:
        yield b"".join(small)


def with_text_for_numbers(args: Args) -> Args:
    """Return arguments with numbers as text."""
    return tuple([repr(arg) if type(arg) in _NUMBERS else arg for arg in args])


def encode_large(args: Args) -> Iterator[Buffer]:
    """Yield the bytes of one command, without copying its large arguments."""
    small: list[bytes] = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = encode_key(arg)
        small.append(b"$%d\r\n" % len(data))
        if len(data) >= PIECE_SIZE:
            yield b"".join(small)
            yield data
            small = [b"\r\n"]
        else:
            small += (data, b"\r\n")
    yield b"".join(small)
