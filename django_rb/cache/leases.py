"""Leases: which caller may compute a value, decided on the value's node, and storing it.

The lease of a key is a key of its own on the same node; in a Redis Cluster, in the same slot.
Each script uses one key only, because a Redis Cluster refuses scripts on two keys while their
slot moves. The order makes sure that only one computation is stored:

    take     the lease, then read the value: a previous computation has stored it by then
    store    the value, then end the lease; if the lease is gone, remove the value again

A lease contains the first and the latest computation that it was granted to, as their begin on
the node's clock, and ends by time. The key exists for a while longer, so that a late
computation can still be stored. Deleting a key deletes its lease, so that computations that
are running then cannot be stored. A computation does not overwrite the value of a later one,
nor one that was stored in another way since it began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..engine import NodeFailure
from ..engine.protocol.answers import is_number, is_value
from ..engine.protocol.encoding import Args
from ..engine.protocol.exchange import Batch, IsAnswer, PipelineExchange
from ..engine.rounds.port import Port
from .companions import lease_of
from .tails import LUA, NUMBERS

KEEP = 3_600_000  # milliseconds after a lease's end in which its computation may be stored

# KEYS: the lease. ARGV: milliseconds, and whether it is taken from its holder.
# Returns when the computation begins; or, if another caller holds the lease, minus the
# milliseconds for which it still does.
_TAKE = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local first, latest, ends = now, 0, 0
local lease = redis.call('GET', KEYS[1])
if lease then first, latest, ends = struct.unpack('>ddd', lease) end
if ends > now and ARGV[2] == '0' then return -math.ceil((ends - now) / 1000) end
local begun = math.max(now, latest + 1)
lease = struct.pack('>ddd', math.min(first, begun), begun, now + ARGV[1] * 1000)
redis.call('SET', KEYS[1], lease, 'PX', ARGV[1] + {KEEP})
return begun
"""

# KEYS: the lease. ARGV: when the computation began, and for how many milliseconds there should
# be no other one. Returns whether it had a right to store.
_END = f"""
local lease = redis.call('GET', KEYS[1])
if not lease then return 0 end
local first, latest = struct.unpack('>ddd', lease)
local begun, rest = tonumber(ARGV[1]), tonumber(ARGV[2])
if begun < first then return 0 end
if begun < latest then return 1 end
if rest == 0 then
  redis.call('DEL', KEYS[1])
else
  local time = redis.call('TIME')
  lease = struct.pack('>ddd', first, latest, time[1] * 1000000 + time[2] + rest * 1000)
  redis.call('SET', KEYS[1], lease, 'PX', rest + {KEEP})
end
return 1
"""

# KEYS: the value. ARGV: the data; milliseconds for which it is fresh, -1 for ever, and then
# stale; how many it took; when that was begun; the fingerprint of what was there, and when that
# expires. Returns whether it was stored.
_STORE = f"""
{LUA}
local data, fresh, stale, took, begun = ARGV[1], unpack(ARGV, 2, 5)
local last = read_end(KEYS[1])
if last == '' then
  if ARGV[6] ~= '' and now() < tonumber(ARGV[7]) then return 0 end
elseif redis.call('STRLEN', KEYS[1]) .. ':' .. last ~= ARGV[6] then
  local _, _, _, theirs = read_tail(last)
  if not theirs or theirs >= tonumber(begun) then return 0 end
end
fresh = tonumber(fresh)
local tail = struct.pack(
  '{NUMBERS}', fresh < 0 and math.huge or now() + fresh, tonumber(stale), tonumber(took),
  tonumber(begun)
) .. '\\255rbtail\\255'
if fresh < 0 then
  redis.call('SET', KEYS[1], data .. tail)
else
  redis.call('SET', KEYS[1], data .. tail, 'PX', string.format('%.0f', fresh + stale))
end
return 1
"""

# KEYS: the value. ARGV: when the computation began whose value is not to stay.
_TAKE_BACK = f"""
{LUA}
local _, _, _, begun = read_tail(read_end(KEYS[1]))
if begun == tonumber(ARGV[1]) then return redis.call('UNLINK', KEYS[1]) end
return 0
"""


class Stored(NamedTuple):
    """What to store for a key.

    Attributes:
        data: the value as it is stored, without a tail.
        fresh: for how many milliseconds; -1 for ever.
        stale: for how many milliseconds more it may be served.
        took: milliseconds.
        begun: when `take` says that its computation began.
        seen: the fingerprint of what was there then.
        seen_until: when that expires, in Unix milliseconds; 0 where it is not known.
    """

    data: bytes
    fresh: int
    stale: int
    took: float
    begun: int
    seen: bytes
    seen_until: float


# By key, what was answered, and what failed.
Answers = tuple[dict[bytes, Any], list[NodeFailure]]


def take(
    port: Port, keys: Iterable[bytes], milliseconds: int, *, is_overtaking: bool
) -> Batch[Answers]:
    """Take the leases of keys, and read the values then.

    Args:
        is_overtaking: whether they are taken from who has them.

    Returns ``{key: (begun, data)}``; `begun` is below 0 where another has the lease, and says
    for how many milliseconds.
    """
    return _ask(
        port,
        {
            key: (
                (b"EVAL", _TAKE, 1, lease_of(key), milliseconds, int(is_overtaking)),
                (b"GET", key),
            )
            for key in keys
        },
        (is_number, is_value),
    )


def store(port: Port, values: Mapping[bytes, Stored]) -> Batch[Answers]:
    """Store computed values and end their leases.

    Returns ``{key: whether it was stored}``.
    """
    told, failures = yield from _ask(
        port,
        {
            key: (
                (b"EVAL", _STORE, 1, key, *value),
                (b"EVAL", _END, 1, lease_of(key), value.begun, 0),
            )
            for key, value in values.items()
        },
        (is_number,),
    )
    stray = {key: values[key].begun for key, told_of in told.items() if told_of == [1, 0]}
    if stray:  # it was deleted in the meantime
        commands: dict[bytes, tuple[Args, ...]] = {
            key: ((b"EVAL", _TAKE_BACK, 1, key, begun),) for key, begun in stray.items()
        }
        _, failed = yield from _ask(port, commands, (is_number,))
        failures += failed
    return {key: told_of == [1, 1] for key, told_of in told.items()}, failures


def end(port: Port, begun: Mapping[bytes, int], rest: int) -> Batch[Answers]:
    """End leases without a value; for `rest` milliseconds no other caller takes them."""
    return _ask(
        port,
        {key: ((b"EVAL", _END, 1, lease_of(key), when, rest),) for key, when in begun.items()},
        (is_number,),
    )


def _ask(
    port: Port, commands: Mapping[bytes, Sequence[Args]], answers: Sequence[IsAnswer]
) -> Batch[Answers]:
    """Run commands on the nodes that own their keys, in parallel.

    In a Redis Cluster each command of a key waits for the one before it. While a slot moves,
    its keys are on two nodes, and the first command may be sent on when the second has run.
    """
    if not port.router.has_slots:
        return (yield from _ask_at_once(port, commands, answers))
    told: dict[bytes, Any] = {key: [] for key in commands}
    failures: list[NodeFailure] = []
    for number in range(max(map(len, commands.values()), default=0)):
        step = {key: commands[key][number : number + 1] for key in told}
        answer = answers[number % len(answers)]
        said, failed = yield from _ask_at_once(port, step, (answer,))
        told = {key: [*told[key], *replies] for key, replies in said.items()}
        failures += failed
    return told, failures


def _ask_at_once(
    port: Port, commands: Mapping[bytes, Sequence[Args]], answers: Sequence[IsAnswer]
) -> Batch[Answers]:
    """Run the commands of each key in one go.

    Scripts are sent whole: one that a node lacks would be sent again after the commands
    that follow it.
    """
    shares: dict[int, list[bytes]] = defaultdict(list)
    keys = list(commands)
    for owner, key in zip(port.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    exchanges = []
    for owner, share in shares.items():
        exchange = PipelineExchange(owner, [args for key in share for args in commands[key]])
        exchange.answers = answers
        exchange.is_for_primary = True  # a replica may not have a lease yet
        exchanges.append(exchange)
    yield exchanges
    told: dict[bytes, Any] = {}
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        owner = exchange.host_id
        replies = iter(exchange.replies)
        for key in shares[owner]:
            said = [next(replies, exchange.error) for _ in range(len(commands[key]))]
            error = next((part for part in said if isinstance(part, Exception)), None)
            if error is None:
                told[key] = said
            else:
                failures.append(NodeFailure(owner, port.get_address(owner), error, (key,)))
    return told, failures
