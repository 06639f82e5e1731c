"""Reading and changing when keys expire, for plain and for computed values.

For a computed value, the expiry is the end of the time in which it is fresh; its key exists
longer, while it is stale. A script changes both the time in the tail and the key's expiry.
"""

from __future__ import annotations

from ..engine.protocol.answers import is_number
from ..engine.protocol.exchange import Batch
from ..engine.protocol.scripts import LuaScript
from ..engine.rounds.batch import pipeline
from ..engine.rounds.outcomes import Outcome
from ..engine.rounds.scripts import run_script
from .operations import Operations
from .tails import LUA, NUMBERS, SIZE

# KEYS: a key. ARGV: PEXPIRE, PEXPIREAT or PERSIST, and its argument, or 0.
# Returns what that replies.
EXPIRE = LuaScript(f"""
{LUA}
local command, time = ARGV[1], tonumber(ARGV[2])
local _, stale, took, begun = read_tail(read_end(KEYS[1]))
if command == 'PERSIST' then
  time = math.huge
elseif not stale then
  return redis.call(command, KEYS[1], ARGV[2])
elseif command == 'PEXPIRE' then
  time = now() + time
end
if stale then
  if time <= now() then return redis.call('UNLINK', KEYS[1]) end
  local tail = struct.pack('{NUMBERS}', time, stale, took, begun)
  redis.call('SETRANGE', KEYS[1], redis.call('STRLEN', KEYS[1]) - {SIZE}, tail)
end
if command == 'PERSIST' then return redis.call('PERSIST', KEYS[1]) end
return redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', time + stale))
""")

# KEYS: a key. Returns how many milliseconds it has left: -1 for ever, -2 for none.
_TIME_LEFT = LuaScript(f"""
{LUA}
local left = redis.call('PTTL', KEYS[1])
local fresh_until = read_tail(read_end(KEYS[1]))
if not fresh_until or fresh_until == math.huge then return left end
fresh_until = math.ceil(fresh_until - now())
if fresh_until <= 0 then return -2 end
return left < 0 and fresh_until or math.min(left, fresh_until)
""")


class Expiring(Operations):
    """Operations on when keys expire. Timeouts are in milliseconds: None for ever."""

    def touch(self, key: object, timeout: int | None, version: int | None) -> Batch[bool]:
        """Set a key to expire after a timeout; return whether it exists."""
        if timeout == 0:
            deleted = yield from self.delete(key, version)
            return deleted
        made = self._keys.make(key, version)
        if timeout is None:
            found, failures = yield from self._last(made)
        else:
            found, failures = yield from self._expire(made, b"PEXPIRE", timeout)
        if failures:
            self._raise_or_log(failures)
        return bool(found)

    def expire_at(self, key: object, when: int, version: int | None) -> Batch[bool]:
        """Set a key to expire at a time, in Unix milliseconds."""
        made = self._keys.make(key, version)
        found, failures = yield from self._expire(made, b"PEXPIREAT", when)
        if failures:
            self._raise_or_log(failures)
        return bool(found)

    def persist(self, key: object, version: int | None) -> Batch[bool]:
        """Remove a key's expiry; return whether it had one."""
        made = self._keys.make(key, version)
        found, failures = yield from self._expire(made, b"PERSIST", 0)
        if failures:
            self._raise_or_log(failures)
        return bool(found)

    def time_left(self, command: bytes, key: object, version: int | None) -> Batch[int | None]:
        """Return the result of TTL or PTTL: None for ever, 0 if there is no such key."""
        left, failures = yield from self._time_left(self._keys.make(key, version))
        if failures:
            self._raise_or_log(failures)
        if left is None or left == -2:
            return 0
        if left == -1:
            return None
        return (left + 500) // 1000 if command == b"TTL" else left  # as servers round it

    def _expire(self, made: bytes, command: bytes, time: int) -> Batch[Outcome[int | None]]:
        """Run a command of `EXPIRE`; return what it replies."""
        return run_script(self.cluster, made, EXPIRE, command, time, answer=is_number)

    def _last(self, made: bytes) -> Batch[Outcome[int | None]]:
        """Let a key never expire; return 1 for a key that exists, else 0."""
        # PERSIST alone says 0 for a key that had no expiry to lose.
        replies, failures = yield from pipeline(
            self.cluster,
            made,
            (b"EVALSHA", EXPIRE.sha, 1, made, b"PERSIST", 0),
            (b"EXISTS", made),
            answers=(is_number,),
        )
        return replies[-1], failures

    def _time_left(self, made: bytes) -> Batch[Outcome[int | None]]:
        """Return milliseconds: -1 for ever, -2 where there is no such key."""
        return run_script(self.cluster, made, _TIME_LEFT, answer=is_number)
