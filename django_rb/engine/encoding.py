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

_HEADERS = [b"\r\n$%d\r\n" % size for size in range(512)]


def encode_get(key: bytes) -> bytes:
    """Return the bytes of ``GET key``."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def encode_keys(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the bytes of a command whose arguments are keys, such as ``MGET key key …``."""
    if len(keys) < FEW:
        return pack((name, *keys))
    pieces: list[bytes] = [b""] * (2 * len(keys))
    try:
        pieces[0::2] = map(_HEADERS.__getitem__, map(len, keys))
    except IndexError:  # a key longer than any sensible one
        return pack((name, *keys))
    pieces[1::2] = keys
    arguments = b"".join(pieces)
    return b"*%d\r\n$%d\r\n%b%b\r\n" % (len(keys) + 1, len(name), name, arguments)


def encode_words(words: Args) -> bytes:
    """Return the bytes of a part of a command."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in map(encode_key, words))


@lru_cache(maxsize=256)  # a site has few timeouts
def set_format(options: Args) -> bytes:
    """Return a format for ``SET key value`` with some options.

    Apply it to ``(len(key), key, len(value), value)``.
    """
    tail = encode_words(options)
    return b"*%d\r\n$3\r\nSET\r\n$%%d\r\n%%b\r\n$%%d\r\n%%b\r\n%b" % (
        len(options) + 3,
        tail.replace(b"%", b"%%"),
    )


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
