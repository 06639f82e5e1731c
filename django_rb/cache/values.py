"""Which arguments and replies of Redis commands are values of a cache.

The engine's table of commands has the positions of keys. This table has, for commands on
strings, hashes, lists, sets and sorted sets, the positions of values among the other arguments,
and whether replies contain values. Fields of hashes, scores, counts and options are not values.
A command that is not listed here has no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# Name, where its values are, whether values come back. Positions are counted from the name,
# which is 0: "2" is one, "2+" all from there, "2+2" every second from there. "zadd" is ZADD's
# own way. What comes back: "-" nothing to decode; "values" all strings are, but for fields of
# hashes; "named" the same, behind the key that they come from; "fields" those alone.
_TABLE = """
GET        -    values
SET        2    values
SETNX      2    -
SETEX      3    -
PSETEX     3    -
GETSET     2    values
GETDEL     -    values
GETEX      -    values
MGET       -    values
MSET       2+2  -
MSETNX     2+2  -

HSET       3+2  -
HSETNX     3    -
HMSET      3+2  -
HGET       -    values
HMGET      -    values
HGETALL    -    values
HGETDEL    -    values
HVALS      -    values
HKEYS      -    fields
HSCAN      -    values

LPUSH      2+   -
LPUSHX     2+   -
RPUSH      2+   -
RPUSHX     2+   -
LSET       3    -
LREM       3    -
LPOS       2    -
LINSERT    3+   -
LINDEX     -    values
LRANGE     -    values
LPOP       -    values
RPOP       -    values
LMOVE      -    values
RPOPLPUSH  -    values
BLMOVE     -    values
BRPOPLPUSH -    values
BLPOP      -    named
BRPOP      -    named
LMPOP      -    named
BLMPOP     -    named

SADD       2+   -
SREM       2+   -
SISMEMBER  2    -
SMISMEMBER 2+   -
SMOVE      3    -
SMEMBERS   -    values
SPOP       -    values
SRANDMEMBER -   values
SDIFF      -    values
SINTER     -    values
SUNION     -    values
SSCAN      -    values

ZADD       zadd -
ZREM       2+   -
ZSCORE     2    -
ZMSCORE    2+   -
ZINCRBY    3    -
ZRANK      2    -
ZREVRANK   2    -
ZRANGE     -    values
ZREVRANGE  -    values
ZRANGEBYSCORE - values
ZREVRANGEBYSCORE - values
ZPOPMIN    -    values
ZPOPMAX    -    values
ZRANDMEMBER -   values
ZDIFF      -    values
ZINTER     -    values
ZUNION     -    values
ZSCAN      -    values
BZPOPMIN   -    named
BZPOPMAX   -    named
ZMPOP      -    named
BZMPOP     -    named
"""

_ZADD_OPTIONS = frozenset({"NX", "XX", "GT", "LT", "CH", "INCR"})

# Their values are stored under a key of their own, and are signed for it.
STRINGS = frozenset(
    {"GET", "SET", "SETNX", "SETEX", "PSETEX", "GETSET", "GETDEL", "GETEX"}
    | {"MGET", "MSET", "MSETNX"}
)


class Places(NamedTuple):
    """Where a command has values.

    Attributes:
        arguments: as in the table.
        replies: as in the table.
    """

    arguments: str
    replies: str


def _read() -> Iterator[tuple[str, Places]]:
    for line in filter(None, _TABLE.splitlines()):
        name, arguments, replies = line.split()
        yield name, Places(arguments, replies)


PLACES = dict(_read())
NO_VALUES = Places("-", "-")


def positions_of(arguments: str, words: Sequence[Any]) -> range | Sequence[int]:
    """Return the positions of values among the words of a command."""
    if arguments == "-":
        return ()
    if arguments == "zadd":
        first = 2
        while first < len(words) and _word(words[first]) in _ZADD_OPTIONS:
            first += 1
        return range(first + 1, len(words), 2)
    start, plus, step = arguments.partition("+")
    end = len(words) if plus else min(len(words), int(start) + 1)
    return range(int(start), end, int(step or 1))


def _word(argument: Any) -> str:
    if isinstance(argument, bytes):
        return argument.decode("latin-1").upper()
    return argument.upper() if isinstance(argument, str) else ""
