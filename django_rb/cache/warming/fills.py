"""How values of the old layout are stored in the new one, and what keeps them out of it.

A value is stored only if the key has neither a value nor a seal. A seal is a separate key on
the same node; it means that the value in the old layout is no longer valid. Deleting a key sets
a seal, so that a reader that has read the old value just before does not store it afterwards. A
reader stores nothing later than `fill_seconds` after it began; a seal lasts longer (`SHORT`).
If the old value could not be deleted because its node is down, the seal lasts a day (`LONG`).

Both keys are checked atomically. In a Redis Cluster they are in the same slot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat
from struct import Struct, pack
from time import time

from ...engine import NodeFailure
from ...engine.protocol.answers import is_ok
from ...engine.protocol.encoding import Args, encode_words
from ...engine.protocol.exchange import Batch, PipelineExchange
from ...engine.protocol.scripts import LuaScript
from ...engine.rounds.port import Port
from ..companions import seal_of
from ..keys import SEAL
from .groups import MOST_KEYS, Script, ask_in_groups
from .old_layout import FOREVER, NOTHING, SAME_TIME, Found, Moved

SHORT, LONG = 10_000, 24 * 3_600_000  # milliseconds that a seal lasts

# The approximate size of one command, unless one value is larger; and how many keys one key of
# the sample stands for.
_MOST_BYTES, _SAMPLED = 2**20, 16


class _Fill(Script):
    """Stores values that were read, until they expire.

    Its ARGV are the data of all keys in one string; in another one, as doubles, how long the
    data of each is, and then when each expires; this machine's time; and the seals of the keys,
    if one of these contains braces. They are not among the KEYS: while slots of a Redis Cluster
    are migrated, servers refuse commands on two keys of which one does not exist.

    Its reply has two elements for each key for which nothing was stored: its number, from 0,
    and what is already stored, or nil.

    Args:
        read: what was found.
    """

    name = b"EVALSHA"
    sha = LuaScript(f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local all, numbers, skew, at = ARGV[1], ARGV[2], now - ARGV[3], 1
if math.abs(skew) <= {SAME_TIME} then skew = 0 end
local function seal_of(key) return key .. '\\31{SEAL[1:].decode()}{{' .. key .. '}}' end
local function store(key, data, expires)
  if expires == {FOREVER} then return redis.call('SET', key, data, 'NX') end
  return redis.call('SET', key, data, 'NX', 'PXAT', string.format('%.0f', expires + skew))
end
local out = {{}}
for i, key in ipairs(KEYS) do
  local size = struct.unpack('>d', numbers, 8 * i - 7)
  local expires = struct.unpack('>d', numbers, 8 * (#KEYS + i) - 7)
  local data = string.sub(all, at, at + size - 1)
  at = at + size
  if expires >= 0 and expires + skew <= now or expires == {NOTHING}
    or redis.call('EXISTS', ARGV[3 + i] or seal_of(key)) == 1
    or not store(key, data, expires)
  then
    local there = redis.pcall('GET', key)
    out[#out + 1] = i - 1
    out[#out + 1] = type(there) == 'string' and there
  end
end
return out
""").sha
    _start = encode_words((name, sha, 1))

    def __init__(self, read: Found) -> None:
        self._read = read

    def arguments(self, keys: list[bytes]) -> list[bytes]:
        values = [*map(self._read.data.__getitem__, keys)]
        ends = map(self._read.ends.get, keys, repeat(FOREVER))
        numbers = pack(f">{2 * len(keys)}d", *map(len, values), *ends)
        joined = b"".join(keys)
        seals = map(seal_of, keys) if b"{" in joined or b"}" in joined else ()
        return [self.sha, b"%d" % len(keys), *keys, b"".join(values), numbers, _now(), *seals]

    def encode(self, keys: list[bytes]) -> bytes:
        key = keys[0]
        if len(keys) > 1 or b"{" in key or b"}" in key:
            return super().encode(keys)
        data, now = self._read.data[key], _now()
        numbers = _pack_two(len(data), self._read.ends.get(key, FOREVER))
        words = (len(key), key, len(data), data, numbers, len(now), now)
        return _FILL_ONE % (self._start, *words)


_FILL_ONE = b"*7\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n$16\r\n%b\r\n$%d\r\n%b\r\n"
_pack_two = Struct(">2d").pack


def _now() -> bytes:
    return b"%d" % (time() * 1000)


def fill(
    port: Port, moved: Moved, read: Found
) -> Batch[tuple[dict[bytes, bytes], int, list[NodeFailure]]]:
    """Store values of the old layout, until they expire.

    Args:
        moved: contains at least the keys that were read.
        read: what was found. Keys for which nothing was found are read again: another process
            may have moved them in the meantime.

    Returns what is stored afterwards, by key; how many of these values came from the old
    layout; and the failures.
    """
    keys, owners = moved.keys, moved.now
    if len(read.data) < len(keys):
        chosen = [n for n, key in enumerate(keys) if key in read.data]
        keys, owners = [keys[n] for n in chosen], [owners[n] for n in chosen]
    some = keys[::_SAMPLED]
    size = sum([len(read.data[key]) for key in some])
    most_keys = max(1, min(MOST_KEYS, _MOST_BYTES * len(some) // max(1, size)))
    answers = yield from ask_in_groups(port, _Fill(read), keys, owners, most_keys)
    stored = read.data.copy()
    warmed = 0
    failures: list[NodeFailure] = []
    for group, replies in answers:
        if isinstance(replies, Exception):
            owner = owners[keys.index(group[0])]
            failure = NodeFailure(owner, port.get_address(owner), replies, tuple(group))
            failures.append(failure)
            for key in group:
                stored.pop(key, None)
            continue
        warmed += len(group) - len(replies) // 2
        for number, data in zip(replies[::2], replies[1::2], strict=False):
            if data is None:
                stored.pop(group[number], None)
            else:
                stored[group[number]] = data
    return stored, warmed, failures


def seal(port: Port, keys: Sequence[bytes], milliseconds: int) -> Batch[list[NodeFailure]]:
    """Seal keys, so that their values in the old layout are ignored; return the failures."""
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(port.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    exchanges = []
    for owner, share in shares.items():
        commands = [make_seal(key, milliseconds) for key in share]
        exchange = PipelineExchange(owner, commands)
        exchange.answers = (is_ok,)
        exchanges.append(exchange)
    if not exchanges:
        return []
    yield exchanges
    failures = []
    for exchange in exchanges:
        errors = (reply for reply in exchange.replies if isinstance(reply, Exception))
        error = exchange.error or next(errors, None)
        if error is not None:
            owner = exchange.host_id
            lost = tuple(shares[owner])
            failures.append(NodeFailure(owner, port.get_address(owner), error, lost))
    return failures


def make_seal(key: bytes, milliseconds: int) -> Args:
    """Return the command that seals a key, for the node that owns the key."""
    return (b"SET", seal_of(key), b"", b"PX", milliseconds)
