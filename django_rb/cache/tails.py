"""The tail of a computed value: data that follows it under the same key.

    the value as any reader knows it, 32 bytes of numbers, 8 bytes that nothing else ends with

The numbers are doubles, big-endian: until when the value is fresh (Unix milliseconds of its
node's clock, infinity for ever), for how many milliseconds more it may be served while it is
computed anew, how many it took to compute, and when that was begun (Unix microseconds). The key
itself expires at the end of both times.

Readers that do not know tails can read the value as well: pickle ignores what follows a pickle
(this is documented), and so do zlib, zstd and lz4. Output of other serializers is put into an
uncompressed zlib frame; see `django_rb.cache.codec`. Signatures do not cover the tail, as the
node itself changes it with the key's expiry.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

MARK = b"\xffrbtail\xff"
NUMBERS = ">dddd"
_numbers = Struct(NUMBERS)
_MARK_SIZE = len(MARK)
SIZE = _numbers.size + _MARK_SIZE
# Return the first of a tail's numbers, or all, given what is stored and -SIZE; raise NoTail.
read_fresh_until = Struct(">d").unpack_from
read_numbers = _numbers.unpack_from
NoTail = struct_error


class Tail(NamedTuple):
    """The tail of a computed value.

    Attributes:
        fresh_until: Unix milliseconds; infinity for ever.
        stale: milliseconds.
        took: milliseconds.
        begun: Unix microseconds.
    """

    fresh_until: float
    stale: float
    took: float
    begun: float


def read_tail(data: bytes) -> Tail | None:
    """Return the tail of stored data, None if it has none."""
    if data[-_MARK_SIZE:] != MARK or len(data) < SIZE:
        return None
    return Tail._make(_numbers.unpack_from(data, len(data) - SIZE))


def fingerprint(data: bytes | None) -> bytes:
    """Return bytes that identify a stored value; empty if there was none.

    That is its length and its end, which no two computed values have in common.
    """
    return b"" if not data else b"%d:%b" % (len(data), data[-SIZE:])


# For scripts: the tail of a key's value, if it has one, and the node's clock in milliseconds.
LUA = f"""
local function read_end(key)
  local data = redis.pcall('GETRANGE', key, -{SIZE}, -1)
  if type(data) == 'string' then return data end
  if not data.err:find('WRONGTYPE', 1, true) then error(data) end
  return ''
end
local function read_tail(data)
  if #data == {SIZE} and data:sub(-{len(MARK)}) == '\\255rbtail\\255' then
    return struct.unpack('{NUMBERS}', data)
  end
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end
"""
