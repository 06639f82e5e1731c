"""Commands to bytes, in RESP's form of requests: arrays of bulk strings.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import cast

from hiredis import pack_command

from .hashing import encode_key

Buffer = bytes | bytearray | memoryview

Arg = bytes | str | int | float
Args = tuple[Arg, ...]

# Commands are joined into pieces of about this many bytes; larger values are not copied.
PIECE_SIZE = 65536

# hiredis' own annotation knows tuples of one argument only.
pack = cast(Callable[[Args], bytes], pack_command)


# The commands that a cache sends by the thousand are formatted here: that takes from a third
# to two thirds of the time that hiredis takes, which is quicker for FEW keys.

FEW = 16
_MOST_HEADERS = 4096


class _Headers(dict[int, bytes]):
    """What precedes an argument, by the argument's size in bytes; made when first needed."""

    def __missing__(self, size: int) -> bytes:
        header = b"\r\n$%d\r\n" % size
        if size < _MOST_HEADERS:
            self[size] = header
        return header


headers = _Headers()
get_header = headers.__getitem__


def encode_get(key: bytes) -> bytes:
    """Return the bytes of ``GET key``."""
    return b"".join((b"*2\r\n$3\r\nGET", headers[len(key)], key, b"\r\n"))


def encode_keys(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the bytes of a command whose arguments are keys, such as ``MGET key key …``."""
    if len(keys) < FEW:
        return pack((name, *keys))
    pieces: list[bytes] = [b""] * (2 * len(keys))
    pieces[0::2] = map(get_header, map(len, keys))
    pieces[1::2] = keys
    arguments = b"".join(pieces)
    return b"*%d\r\n$%d\r\n%b%b\r\n" % (len(keys) + 1, len(name), name, arguments)


def encode_words(words: Args) -> bytes:
    """Return the bytes of a part of a command."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in map(encode_key, words))


# What precedes the key of a SET, and what follows the value.
SetFrame = tuple[bytes, bytes]


@lru_cache(maxsize=256)  # a site has few timeouts
def make_set_frame(options: Args) -> SetFrame:
    """Return what is the same in every ``SET key value`` with some options."""
    return b"*%d\r\n$3\r\nSET" % (len(options) + 3), b"\r\n" + encode_words(options)


def encode_set(frame: SetFrame, key: bytes, value: bytes) -> bytes:
    """Return the bytes of ``SET key value …``."""
    head, tail = frame
    return b"".join((head, headers[len(key)], key, headers[len(value)], value, tail))


def is_large(args: Args) -> bool:
    """Return whether a command has arguments that hiredis should not pack.

    Large ones are better not copied; integers that Python itself does not write as text
    (https://docs.python.org/3/library/stdtypes.html#int-max-str-digits) crash it.
    """
    for arg in args:
        if isinstance(arg, (bytes, str)):
            if len(arg) >= PIECE_SIZE:
                return True
        elif isinstance(arg, int) and arg.bit_length() > 64:
            return True
    return False


def encode(commands: Iterable[Args]) -> Iterator[Buffer]:
    """Yield the bytes of commands, joined into pieces of about PIECE_SIZE."""
    pieces: list[bytes] = []
    size = 0
    for args in commands:
        if is_large(args):
            if pieces:
                yield b"".join(pieces)
                pieces, size = [], 0
            yield from encode_large(args)
        else:
            piece = pack(args)
            pieces.append(piece)
            size += len(piece)
            if size >= PIECE_SIZE:
                yield b"".join(pieces)
                pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def encode_large(args: Args) -> Iterator[Buffer]:
    """Yield the bytes of one command, its large arguments uncopied."""
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
