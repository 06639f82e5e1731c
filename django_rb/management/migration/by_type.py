"""Copies values by type, for servers that refuse each other's dumps.

A value is read by one script and created by another. Scripts are atomic, so reads are
consistent, and no key ever exists with a part of its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...engine.protocol.encoding import Arg, Args
from ...engine.protocol.scripts import LuaScript
from .copies import Copy

# Lua can pass only about 8,000 arguments to a command.
_WORDS = 1000

# KEYS: the key. Returns its type and everything that its value consists of.
_READ = LuaScript(f"""
local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
if kind == 'string' then return {{kind, redis.call('GET', key)}} end
if kind == 'list' then return {{kind, redis.call('LRANGE', key, 0, -1)}} end
if kind == 'set' then return {{kind, redis.call('SMEMBERS', key)}} end
if kind == 'zset' then return {{kind, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')}} end
if kind == 'hash' then
    local pairs, fields, times = redis.call('HGETALL', key), {{}}, {{}}
    for at = 1, #pairs, 2 do fields[#fields + 1] = pairs[at] end
    for at = 1, #fields, {_WORDS} do
        local last = math.min(at + {_WORDS - 1}, #fields)
        local found = redis.pcall(
            'HPEXPIRETIME', key, 'FIELDS', last - at + 1, unpack(fields, at, last))
        if found.err then break end  -- a server whose fields do not expire
        for _, time in ipairs(found) do times[#times + 1] = time end
    end
    return {{kind, pairs, times}}
end
if kind == 'stream' then
    local groups = {{}}
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        local facts = {{}}
        for at = 1, #group, 2 do facts[group[at]] = group[at + 1] end
        local pending = {{}}
        if facts.pending > 0 then
            pending = redis.call('XPENDING', key, facts.name, '-', '+', facts.pending)
        end
        groups[#groups + 1] = {{
            group, redis.call('XINFO', 'CONSUMERS', key, facts.name), pending}}
    end
    local entries = redis.call('XRANGE', key, '-', '+')
    return {{kind, entries, redis.call('XINFO', 'STREAM', key), groups}}
end
return {{kind}}
""")

# KEYS: the key. ARGV: "1" to replace an existing value; the key's seal, or ""; and commands
# that create the value, each after the number of its words. Returns 1, 0 if the key exists, or
# -1 if it is sealed.
_MAKE = LuaScript("""
local key, before, expiry = KEYS[1], false, 0
if ARGV[2] ~= '' and redis.call('EXISTS', ARGV[2]) == 1 then return -1 end
if redis.call('EXISTS', key) == 1 then
    if ARGV[1] ~= '1' then return 0 end
    before, expiry = redis.call('DUMP', key), math.max(0, redis.call('PTTL', key))
    redis.call('UNLINK', key)
end
local at = 3
while at <= #ARGV do
    local last = at + tonumber(ARGV[at])
    local reply = redis.pcall(unpack(ARGV, at + 1, last))
    if type(reply) == 'table' and reply.err then
        redis.call('UNLINK', key)
        if before then redis.call('RESTORE', key, expiry, before) end
        return reply
    end
    at = last + 1
end
return 1
""")


class NoSuchTypeError(Exception):
    """Values of this type cannot be read and created with commands."""


def read_command(copy: Copy) -> Args:
    """Return the command that reads a value, in the form that `make_command` takes."""
    return ("EVALSHA", _READ.sha, 1, copy.key)


def make_command(
    key: bytes,
    value: Sequence[Any],
    expiry: int | None,
    *,
    shift: int,
    replace: bool,
    seal: bytes = b"",
) -> Args:
    """Return the command that creates a value.

    Its reply is 1, 0 if the key exists, and -1 if it is sealed.

    Args:
        value: a reply to `read_command`.
        expiry: Unix time in milliseconds on the new node's clock; None for never.
        shift: milliseconds by which that clock is ahead of that of the old node.
        replace: whether an existing value is replaced.
        seal: the key's seal; b"" if keys have none.

    Raises:
        NoSuchTypeError: it is not a string, list, set, zset, hash or stream.
    """
    words: list[Arg] = ["EVALSHA", _MAKE.sha, 1, key, "1" if replace else "0", seal]
    for command in _commands(key, value, shift):
        words += (len(command), *command)
    if expiry is not None:
        words += (3, "PEXPIREAT", key, expiry)
    return tuple(words)


def _commands(key: bytes, value: Sequence[Any], shift: int) -> Iterator[Args]:
    """Yield the commands that create a value."""
    kind, *parts = value
    match kind:
        case b"string":
            yield ("SET", key, parts[0])
        case b"list":
            yield from _in_parts(("RPUSH", key), parts[0])
        case b"set":
            yield from _in_parts(("SADD", key), parts[0])
        case b"zset":
            members, scores = parts[0][::2], parts[0][1::2]
            ordered = [word for pair in zip(scores, members, strict=True) for word in pair]
            yield from _in_parts(("ZADD", key), ordered)
        case b"hash":
            yield from _in_parts(("HSET", key), parts[0])
            for field, time in zip(parts[0][::2], parts[1], strict=False):
                if time > 0:
                    yield ("HPEXPIREAT", key, time + shift, "FIELDS", 1, field)
        case b"stream":
            yield from _stream(key, *parts)
        case _:
            name = kind.decode(errors="backslashreplace")
            raise NoSuchTypeError(f"values of the type {name} can only be copied as dumps")


def _in_parts(start: Args, words: Sequence[Arg]) -> Iterator[Args]:
    for at in range(0, len(words), _WORDS):
        yield (*start, *words[at : at + _WORDS])


def _stream(key: bytes, entries: Any, info: Any, groups: Any) -> Iterator[Args]:
    """Yield the commands that create a stream with its groups and their pending entries.

    https://valkey.io/topics/streams-intro/
    """
    facts = _facts(info)
    if not entries:
        yield ("XGROUP", "CREATE", key, "rb_migrate", "$", "MKSTREAM")
        yield ("XGROUP", "DESTROY", key, "rb_migrate")
    for entry, fields in entries:
        yield ("XADD", key, entry, *fields)
    last: Args = ("XSETID", key, facts[b"last-generated-id"])
    if b"entries-added" in facts:  # Redis 7
        deleted = facts[b"max-deleted-entry-id"]
        last += ("ENTRIESADDED", facts[b"entries-added"], "MAXDELETEDID", deleted)
    yield last
    for group, consumers, pending in groups:
        told = _facts(group)
        name = told[b"name"]
        create: Args = ("XGROUP", "CREATE", key, name, told[b"last-delivered-id"])
        if told.get(b"entries-read") is not None:
            create += ("ENTRIESREAD", told[b"entries-read"])
        yield create
        for consumer in consumers:
            yield ("XGROUP", "CREATECONSUMER", key, name, _facts(consumer)[b"name"])
        for entry, consumer, idle, count in pending:
            claim = ("XCLAIM", key, name, consumer, 0, entry, "IDLE", idle)
            yield (*claim, "RETRYCOUNT", count, "FORCE", "JUSTID")


def are_same(value: Sequence[Any], other: Sequence[Any], shift: int) -> bool:
    """Return whether two replies to `read_command` are equal.

    Args:
        shift: milliseconds by which the clock of the other value's node is ahead.
    """
    return _comparable(value, shift) == _comparable(other, 0)


def _comparable(value: Sequence[Any], shift: int) -> object:
    kind, *parts = value
    match kind:
        case b"set":
            return kind, frozenset(parts[0])
        case b"zset":
            scores = map(float, parts[0][1::2])
            return kind, dict(zip(parts[0][::2], scores, strict=True))
        case b"hash":
            fields = parts[0][::2]
            times = {f: t + shift for f, t in zip(fields, parts[1], strict=False) if t > 0}
            return kind, dict(zip(fields, parts[0][1::2], strict=True)), times
        case b"stream":
            entries, info, groups = parts
            there = {entry for entry, _ in entries}
            told = []
            for group, consumers, pending in groups:
                facts = _facts(group)
                names = sorted(_facts(consumer)[b"name"] for consumer in consumers)
                # Entries that were deleted from the stream cannot be claimed.
                open_ = [(e, who, count) for e, who, _, count in pending if e in there]
                told.append((facts[b"name"], facts[b"last-delivered-id"], names, open_))
            return kind, entries, _facts(info)[b"last-generated-id"], sorted(told)
    return value


def _facts(flat: Sequence[Any]) -> dict[bytes, Any]:
    """Return a dictionary from a flat list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
