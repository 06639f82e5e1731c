"""Compares values on both sides, and deletes those on the old nodes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from time import time
from typing import Any

from ...engine.protocol.encoding import Args
from ...engine.protocol.scripts import LuaScript
from .by_type import are_same, read_command
from .copies import NEVER, Copy
from .sides import Sides

# A dump ends with the version of its format and a checksum, which differ between servers.
# https://rdb.fnordig.de/file_format.html
DUMP_TAIL = 10

# Times with at most this difference count as equal, in milliseconds: before Redis 7, servers
# report only the remaining time.
EQUAL_TIMES = 1000

# KEYS: the key. ARGV: the SHA1 digest of a dump without its tail; when it expires, or "" to
# ignore that; a key that must exist, or "". Deletes the key if it still has that value. Returns
# 1 if it was deleted, 0 if it does not exist, -1 if it has changed.
_DELETE_UNCHANGED = LuaScript(f"""
if ARGV[3] ~= '' and redis.call('EXISTS', ARGV[3]) == 0 then return -1 end
local dump = redis.call('DUMP', KEYS[1])
if not dump then return 0 end
if redis.sha1hex(string.sub(dump, 1, -{DUMP_TAIL + 1})) ~= ARGV[1] then return -1 end
if ARGV[2] ~= '' and redis.call('PEXPIRETIME', KEYS[1]) ~= tonumber(ARGV[2]) then return -1 end
return redis.call('UNLINK', KEYS[1])
""")


def delete_unchanged(copy: Copy, expiry: int | None, seal: bytes = b"") -> Args:
    """Return the command that deletes a key if its value has not changed since it was read.

    Its reply is 1, 0 if the key does not exist, and -1 if it has changed.

    Args:
        expiry: as in a reply to PEXPIRETIME; None to ignore it.
        seal: another key that must exist.
    """
    digest = sha1(copy.dump[:-DUMP_TAIL], usedforsecurity=False).hexdigest()
    time_of_key = "" if expiry is None else expiry
    return ("EVALSHA", _DELETE_UNCHANGED.sha, 1, copy.key, digest, time_of_key, seal)


def same(sides: Sides, copies: Sequence[Copy]) -> list[Copy]:
    """Return those with the same value and expiry on the new node; count the others."""
    new = sides.new
    equal: list[Copy] = []
    unsure: list[Copy] = []
    began = time()
    asked = sides.ask(
        new,
        copies,
        lambda copy: (b"DUMP", copy.key),
        lambda copy: new.ask_time(copy.owner, copy.key),
    )
    for copy, dump, told in asked:
        expiry = new.read_time(copy.owner, told, began)
        wanted = sides.new_expiry(copy)
        if dump is None:
            clock = began * 1000 + new.facts[copy.owner].ahead
            if wanted is None or wanted > clock + EQUAL_TIMES:  # it has not expired
                sides.tally.note_different(copy)
        elif abs(expiry - (NEVER if wanted is None else wanted)) > EQUAL_TIMES:
            sides.tally.note_different(copy)
        elif dump[:-DUMP_TAIL] == copy.dump[:-DUMP_TAIL]:
            equal.append(copy)
        else:
            unsure.append(copy)
    if unsure:
        equal += _same_by_type(sides, unsure)
    return equal


def _same_by_type(sides: Sides, copies: Sequence[Copy]) -> list[Copy]:
    """Return those whose values are equal although their dumps differ; count the others."""
    values: dict[Copy, Any] = dict(sides.ask(sides.new, copies, read_command))
    equal = []
    for copy, value in sides.ask(sides.old, values, read_command):
        if are_same(value, values[copy], sides.shift(copy)):
            equal.append(copy)
        else:
            sides.tally.note_different(copy)
    return equal


def delete(sides: Sides, copies: Sequence[Copy]) -> list[Copy]:
    """Delete unchanged keys from the old nodes; return those that have changed."""
    changed = []
    old = sides.old

    def command(copy: Copy) -> Args:
        knows_times = old.facts[copy.source].knows_times
        return delete_unchanged(copy, copy.expiry if knows_times else None)

    for copy, reply in sides.ask(old, copies, command):
        if reply == 1:
            sides.tally.of(copy).deleted += 1
        elif reply == -1:
            changed.append(copy)
    return changed
