"""How values of the old layout are stored in the new one, and what keeps them out of it.

A value is stored only where there is none, and where the key has no seal. A seal is a key of
its own beside the key, on the same node; it says that what the old layout has for the key does
not count any more. Whoever deletes a key leaves a seal, so that who has read the old value just
before does not store it after. A reader stores nothing later than `fill_seconds` after it
began; a seal lasts for longer (`SHORT`). Where the old value could not be deleted, as its node
is down, the seal stays for a day (`LONG`).

Both keys are looked at in one step. In a Redis Cluster they have the same slot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from time import monotonic

from ...engine import NodeFailure
from ...engine.protocol.answers import is_ok
from ...engine.protocol.encoding import Args
from ...engine.protocol.exchange import Batch, PipelineExchange
from ...engine.protocol.scripts import LuaScript
from ...engine.rounds.port import Port
from ..companions import seal_of
from ..keys import SEAL
from .groups import ask_in_groups
from .old_layout import Found

SHORT, LONG = 10_000, 24 * 3_600_000  # milliseconds that a seal lasts

FOREVER, NOTHING = b"-1", b"-2"  # in place of milliseconds, as PTTL says it

# KEYS: keys. ARGV: for each key its data, and for how many milliseconds; in a Redis Cluster,
# where there is one key, its seal as well. It is not among the KEYS: while slots move, servers
# refuse what is on two keys of which one is not there.
# Returns for each key what is stored already, 1 if the data was stored, or nil.
_FILL = LuaScript(f"""
local out = {{}}
for i, key in ipairs(KEYS) do
  local data, left = ARGV[2 * i - 1], ARGV[2 * i]
  local there = redis.pcall('GET', key)
  if type(there) == 'string' then
    out[i] = there
  elseif there or left == '{NOTHING.decode()}'
    or redis.call('EXISTS', ARGV[2 * #KEYS + 1] or key .. '\\31{SEAL[1:].decode()}') == 1
  then
    out[i] = false
  else
    if left == '{FOREVER.decode()}' then
      redis.call('SET', key, data)
    else
      redis.call('SET', key, data, 'PX', left)
    end
    out[i] = 1
  end
end
return out
""")


def fill(
    port: Port, read: Mapping[bytes, Found | None], began: float
) -> Batch[tuple[dict[bytes, bytes], int, list[NodeFailure]]]:
    """Store what the old layout has, with the time that it has left.

    Args:
        read: by key what is there; None for nothing. Such a key is looked at once more: another
            may have moved it meanwhile.
        began: when it was read, or a little earlier, as monotonic().

    Returns what is stored then by key, how many of these values came from the old layout, and
    what failed.
    """
    took = ceil((monotonic() - began) * 1000)
    sha, has_slots = _FILL.sha, port.router.has_slots

    def make_arguments(keys: list[bytes]) -> list[bytes]:
        arguments = [sha, b"%d" % len(keys), *keys]
        for key in keys:
            found = read[key]
            if found is None:
                arguments += (b"", NOTHING)
            elif found[1] < 0:
                arguments += (found[0], FOREVER)
            elif found[1] > took:
                arguments += (found[0], b"%d" % (found[1] - took))
            else:
                arguments += (b"", NOTHING)
        if has_slots:
            arguments += map(seal_of, keys)
        return arguments

    keys = list(read)
    owners = dict(zip(keys, port.router.get_hosts_for_keys(keys), strict=True))
    answers = yield from ask_in_groups(port, owners, b"EVALSHA", make_arguments)
    stored: dict[bytes, bytes] = {}
    warmed = 0
    failures: list[NodeFailure] = []
    for group, replies in answers:
        if isinstance(replies, Exception):
            owner = owners[group[0]]
            failure = NodeFailure(owner, port.get_address(owner), replies, tuple(group))
            failures.append(failure)
            continue
        for key, reply in zip(group, replies, strict=False):
            if reply == 1:
                stored[key] = read[key][0]  # type: ignore[index]  # it was sent
                warmed += 1
            elif reply is not None:
                stored[key] = reply
    return stored, warmed, failures


def seal(port: Port, keys: Sequence[bytes], milliseconds: int) -> Batch[list[NodeFailure]]:
    """Let what the old layout has for keys not count for a while; return what failed."""
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(port.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    exchanges = []
    for owner, share in shares.items():
        commands = [make_seal(port, key, milliseconds) for key in share]
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


def make_seal(port: Port, key: bytes, milliseconds: int) -> Args:
    """Return the command that seals a key, for the node that owns the key."""
    name = seal_of(key) if port.router.has_slots else key + SEAL
    return (b"SET", name, b"", b"PX", milliseconds)
