"""Integers, which servers can increment."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from ..engine.errors import first_error
from ..engine.protocol.answers import is_counter, is_number, is_value
from ..engine.protocol.exchange import Batch
from ..engine.protocol.scripts import LuaScript
from ..engine.rounds.batch import call
from ..engine.rounds.outcomes import Outcome
from ..engine.rounds.scripts import run_script
from .operations import Operations
from .signing import BadSignature
from .tails import LUA, fingerprint, read_tail

# Adds only to what exists, in one step, and leaves the expiry as it is. The sum is read
# as text: a number of Lua is a double and has no room for all 64 bits.
_INCR = LuaScript(
    "if redis.call('EXISTS', KEYS[1]) == 0 then return false end "
    "redis.call('INCRBY', KEYS[1], ARGV[1]) "
    "return redis.call('GET', KEYS[1])"
)

# Writes an integer as digits, if the value is still that of a fingerprint.
_WRITE_DIGITS = LuaScript(
    LUA
    + """
local last = read_end(KEYS[1])
local fresh_until = read_tail(last)
if redis.call('STRLEN', KEYS[1]) .. ':' .. last ~= ARGV[1] then return 0 end
if fresh_until > now() and fresh_until < math.huge then
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', string.format('%.0f', fresh_until))
else
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return 1
"""
)

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1


class NotCountable(ResponseError, ValueError):
    """incr() cannot add: the value is not a 64-bit integer, or the sum would not be one.

    It is both a ValueError, as Django documents, and redis-py's ResponseError, as raised by
    Django's RedisCache: existing sites may catch either.
    """


class Counting(Operations):
    """Operations on integers."""

    def incr(
        self, key: object, delta: int, version: int | None, *, may_create: bool = False
    ) -> Batch[int]:
        """Add to an integer on its node; return the sum.

        Args:
            may_create: whether a missing key counts as 0.
        """
        made = self._keys.make(key, version)
        if not MIN_INTEGER <= delta <= MAX_INTEGER:
            raise ValueError(
                f"Key {key!r} cannot be incremented: the delta does not fit into 64 bits."
            )
        value, failures = yield from self._add(made, delta, may_create=may_create)
        if failures and "not an integer" in str(failures[0].error):
            is_countable = yield from self._write_digits(made)
            if is_countable:
                value, failures = yield from self._add(made, delta, may_create=may_create)
        if failures:
            error = failures[0].error
            if isinstance(error, ResponseError) and "increment" in str(error):
                raise NotCountable(
                    f"Key {key!r} cannot be incremented by {delta}: the result does not fit "
                    "into 64 bits."
                ) from error
            if isinstance(error, ResponseError) and "not an integer" in str(error):
                raise NotCountable(
                    f"Key {key!r} cannot be incremented by {delta}: its value is not an "
                    "integer of 64 bits."
                ) from error
            raise first_error(failures)
        if value is None:
            raise ValueError(f"Key {key!r} not found")
        return int(value)

    def _add(self, made: bytes, delta: int, *, may_create: bool) -> Batch[Outcome[Any]]:
        if may_create:
            return call(self.cluster, made, b"INCRBY", made, delta, answer=is_number)
        return run_script(self.cluster, made, _INCR, delta, answer=is_counter)

    def _write_digits(self, made: bytes) -> Batch[bool]:
        """Store a computed integer as digits without a tail; return whether it is one.

        It stays fresh for as long as before, and then expires.
        """
        data, failures = yield from call(
            self.cluster, made, b"GET", made, answer=is_value, for_primary=True
        )
        if failures or data is None or read_tail(data) is None:
            return False
        try:
            number = self._decode(data, made)
        except BadSignature:
            return False
        if type(number) is not int:
            return False
        yield from run_script(
            self.cluster,
            made,
            _WRITE_DIGITS,
            fingerprint(data),
            b"%d" % number,
            answer=is_number,
        )
        return True
