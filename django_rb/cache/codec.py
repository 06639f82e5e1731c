"""The stored form of values.

By default the same bytes as Django's RedisCache: an integer as its digits, so that the
server can count with it, anything else as its serializer writes it. A value that was
compressed, or that could be taken for something else, is framed:

    0xC1, one byte that names the form, the data

0xC1 begins no pickle of protocol 2 or later, no JSON and no other UTF-8, and MessagePack
leaves it unused. So framed and plain values are told apart when read, whatever the
settings are by then, and compression can be switched on and off in a rolling deploy.

A signed value (see `django_rb.cache.signing`) is framed, too. A codec that has no key reads
it as if it were unsigned.

Bytes after a pickle, or after compressed data, are ignored when it is read. The tail of a
computed value is stored there (see `django_rb.cache.tails`).
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .compressors import Compressor, get_compressor_by_code
from .serializers import (
    JSONSerializer,
    MessagePackSerializer,
    PickleSerializer,
    Serializer,
)

MISSING = object()  # None is a value
SIGNED = b"\xc1h"  # what precedes the MAC of a signed value
MAC_SIZE = 32  # bytes

# Items that contain values, and a function that returns the stored bytes of an item.
Encoding = tuple[Iterable[Any], Callable[[Any], bytes]]

_FRAME = 0xC1
_AS_IS = ord("0")
_ZLIB = ord("z")  # always available
_SIGNED = SIGNED[1]
_PICKLE_MARK = 0x80  # the first byte of every pickle of protocol 2 or later
_INTEGER = frozenset(b"-0123456789")
_MAX_BITS = (
    2048  # Python refuses to write out integers of any size (sys.set_int_max_str_digits)
)


class Codec:
    """Turns values into what is stored under a key, and back.

    The stored bytes do not depend on the key, which need not be given; but see SignedCodec.

    Args:
        serializer: for everything except integers.
        compressor: for serialized values of at least `min_bytes`.
        min_bytes: bytes.

    Attributes:
        is_safe: whether unsigned bytes can be read without running arbitrary code, which
            unpickling may do.
    """

    def __init__(
        self, serializer: Serializer, compressor: Compressor | None = None, min_bytes: int = 0
    ) -> None:
        # The fast path for pickle, which most caches use. No pickle of any protocol can be
        # mistaken for something else, so it needs no frame.
        self._pickle_protocol: int | None = None
        self._is_pickling = type(serializer) is PickleSerializer
        if type(serializer) is PickleSerializer and compressor is None:
            self._pickle_protocol = serializer.protocol
        self._dumps = serializer.dumps
        self._loads = serializer.loads
        # These create only numbers, text and containers, whatever they read.
        self.is_safe = type(serializer) in {JSONSerializer, MessagePackSerializer}
        self._compressor = compressor
        self._min_bytes = min_bytes

    def encode(self, value: Any, key: bytes = b"") -> bytes:
        """Return what is stored for a value under a key."""
        # Not bool, nor any other subclass of int.
        if type(value) is int and value.bit_length() <= _MAX_BITS:
            return b"%d" % value
        if self._pickle_protocol is not None:
            return pickle.dumps(value, self._pickle_protocol)
        data = self._dumps(value)
        packed = self._compressed(data)
        return self._framed_if_ambiguous(data) if packed is None else packed

    def encode_computed(self, value: Any, key: bytes = b"") -> bytes:
        """Return what is stored for a value, in a form that can have a tail."""
        if self._pickle_protocol is not None:
            return pickle.dumps(value, self._pickle_protocol)
        data = self._dumps(value)
        packed = self._compressed(data)
        if packed is not None:
            return packed
        if self._is_pickling and data[:1] == bytes((_PICKLE_MARK,)):
            return data
        return bytes((_FRAME, _ZLIB)) + zlib.compress(data, 0)

    def encoding(self, values: Iterable[Any], keys: Sequence[bytes]) -> Encoding:
        """Return values, and a function that returns the stored bytes of a value."""
        return values, self.encode

    def decode(self, data: bytes, key: bytes = b"") -> Any:
        """Return the value that was stored under a key.

        Raises whatever the serializer raises for bytes that it did not write.
        """
        if data and data[0] == _PICKLE_MARK:
            return self._loads(data)
        first = data[0] if data else 0
        if first in _INTEGER:
            try:
                return int(data)
            except ValueError:
                return self._loads(data)
        if first == _FRAME and len(data) > 1:
            return self._loads(self._unframed(data))
        return self._loads(data)

    def decode_found(
        self,
        bad: list[bytes],
        found: dict[Any, Any],
        names: list[Any],
        keys: list[bytes],
        replies: list[bytes | None],
    ) -> int:
        """Put the values of keys into `found`; return how many keys have none. A hot loop.

        As `engine.rounds.batch.find` wants it, after the first argument.

        Args:
            bad: a SignedCodec adds the keys whose values have a bad signature.
        """
        loads, decode, mark, misses = self._loads, self.decode, _PICKLE_MARK, 0
        for name, data in zip(names, replies, strict=True):
            if data and data[0] == mark:
                found[name] = loads(data)
            elif data is None:
                misses += 1
            else:
                found[name] = decode(data)
        return misses

    def moved(self, data: bytes, key: bytes, new_key: bytes) -> bytes:
        """Return stored bytes changed as needed for another key."""
        return data

    def _compressed(self, data: bytes) -> bytes | None:
        """Return data compressed and framed, None if that is not smaller."""
        if self._compressor is not None and len(data) >= self._min_bytes:
            packed = self._compressor.compress(data)
            if len(packed) + 2 < len(data):
                return bytes((_FRAME, self._compressor.code)) + packed
        return None

    @staticmethod
    def _framed_if_ambiguous(data: bytes) -> bytes:
        """Frame bytes that would be read as an integer or as a frame."""
        if data[:1] == bytes((_FRAME,)):
            return bytes((_FRAME, _AS_IS)) + data
        if data and data[0] in _INTEGER:
            try:
                int(data)
            except ValueError:
                return data
            return bytes((_FRAME, _AS_IS)) + data
        return data

    @staticmethod
    def _unframed(data: bytes) -> bytes:
        code = data[1]
        if code == _SIGNED and len(data) >= len(SIGNED) + MAC_SIZE:
            data = data[len(SIGNED) + MAC_SIZE :]
            if data[:1] != bytes((_FRAME,)) or len(data) == 1:
                return data
            code = data[1]
        if code == _AS_IS:
            return data[2:]
        compressor = get_compressor_by_code(code)
        return data if compressor is None else compressor.decompress(data[2:])
