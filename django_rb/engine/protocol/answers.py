"""Checks whether a reply can be the answer to its command.

RESP replies do not name their command. But a string for INCRBY, or an array for GET, shows that
replies and commands are out of step; then no reply on that connection can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from .encoding import Arg, Args

_STATUS = ord("+")
_ELEMENTS = frozenset({bytes, type(None)})


def is_anything(_reply: Any, _kind: int) -> bool:
    """Return True, for commands that may be answered with anything."""
    return True


def is_value(reply: Any, kind: int) -> bool:
    """Return whether this can answer GET: a string, or nil."""
    return (type(reply) is bytes and kind != _STATUS) or reply is None


def are_values(reply: Any, count: int) -> bool:
    """Return whether this can answer MGET for `count` keys: as many strings or nils."""
    return (
        type(reply) is list and len(reply) == count and _ELEMENTS.issuperset(map(type, reply))
    )


def is_string(reply: Any, _kind: int) -> bool:
    """Return whether this is a string."""
    return type(reply) is bytes


def is_counter(reply: Any, _kind: int) -> bool:
    """Return whether this can answer a script that counts: an integer's digits, or nil."""
    return reply is None or (type(reply) is bytes and reply.removeprefix(b"-").isdigit())


def is_number(reply: Any, _kind: int) -> bool:
    """Return whether this can answer INCRBY, UNLINK, PEXPIRE, PTTL: an integer."""
    return type(reply) is int


def is_ok(reply: Any, _kind: int) -> bool:
    """Return whether this can answer a SET without conditions."""
    return bool(reply == b"OK")


def is_ok_or_nil(reply: Any, _kind: int) -> bool:
    """Return whether this can answer a SET with a condition: NX, XX."""
    return reply is None or reply == b"OK"


def is_page(reply: Any, _kind: int) -> bool:
    """Return whether this can answer SCAN: a cursor and an array of keys."""
    return (
        type(reply) is list
        and len(reply) == 2
        and type(reply[0]) is bytes
        and reply[0].isdigit()
        and type(reply[1]) is list
        and all(type(key) is bytes for key in reply[1])
    )


def is_time(reply: Any, _kind: int) -> bool:
    """Return whether this can answer TIME: Unix seconds, and microseconds."""
    return (
        type(reply) is list
        and len(reply) == 2
        and all(type(part) is bytes and part.isdigit() for part in reply)
    )


_BY_NAME: dict[Arg, Callable[[Any, int], bool]] = {
    **dict.fromkeys(["DECRBY", "DEL", "EXISTS", "INCRBY", "TOUCH", "UNLINK"], is_number),
    **dict.fromkeys(["DBSIZE", "PEXPIRETIME", "PTTL", "STRLEN", "TTL"], is_number),
    **dict.fromkeys(["FLUSHALL", "FLUSHDB", "MSET"], is_ok),
    **dict.fromkeys(["GETRANGE", "INFO", "TYPE"], is_string),
    "DUMP": is_value,
    "GET": is_value,
    "SCAN": is_page,
    "TIME": is_time,
}
_BY_NAME.update({str(name).encode(): answer for name, answer in _BY_NAME.items()})


def answer_to(command: Args) -> Callable[[Any, int], bool]:
    """Return the check for replies to a command, which is named in upper case.

    There are checks for the commands that the engine merges, splits or sends most; other
    commands may be answered with anything.
    """
    name = command[0]
    if name == "MGET":
        count = len(command) - 1
        return lambda reply, _kind: are_values(reply, count)
    if name == "SET" and len(command) == 3:  # no option makes it answer otherwise
        return is_ok
    return _BY_NAME.get(name, is_anything)


def answers_to(commands: Sequence[Args]) -> Sequence[Callable[[Any, int], bool]]:
    """Return the checks for some commands: one for all, one for each, or none."""
    is_uniform = len(set(map(len, commands))) == len(set(map(itemgetter(0), commands))) == 1
    answers = [answer_to(commands[0])] if is_uniform else list(map(answer_to, commands))
    return () if answers == [is_anything] else answers
