"""Where a command's keys are among its arguments: one function for each way to say it.

Source: "Command key specifications" in the servers' documentation,
https://redis.io/docs/latest/develop/reference/key-specs/ and
https://valkey.io/topics/key-specs/.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

from .encoding import Arg

KeyFinder: TypeAlias = Callable[[Sequence[Arg]], Sequence[int]]
"""Takes a command's arguments, the words of its name apart; returns the keys' positions."""


class MistakeError(Exception):
    """What is wrong with a command; the text follows its name."""


@cache  # so that the same description is the same function, see _add()
def every(first: int, last: int, step: int = 1) -> KeyFinder:
    """Every step-th argument from first to last is a key; last < 0 counts from the end."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        end = last if last >= 0 else last + len(args)
        if last < 0 and (end + 1 - first) % step:
            raise MistakeError(f"takes {step} arguments for each key")
        if end >= len(args):
            raise MistakeError("is missing a key")
        return range(first, end + 1, step)

    return find


def _counted(at: int, step: int, *, may_be_none: bool) -> KeyFinder:
    """Argument `at` is the number of keys after it, each with step - 1 further arguments."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        if at >= len(args):
            raise MistakeError("is missing its number of keys")
        number, room = _integer(args[at]), (len(args) - at - 1) // step
        if number is None or number < (0 if may_be_none else 1):
            raise MistakeError(f"requires a number of keys, not {reprlib.repr(args[at])}")
        if number > room:
            raise MistakeError(f"declares {number} keys, but only {room} follow")
        return range(at + 1, at + 1 + number * step, step)

    return find


def _after(word: str, start: int, parts: int) -> KeyFinder:
    """After a word, the rest is `parts` lists of the same length; the first has the keys."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        for position in range(start, len(args)):
            if word_of(args[position]) == word:
                number, over = divmod(len(args) - position - 1, parts)
                if over or not number:
                    raise MistakeError(
                        f"requires {parts} lists of the same length after {word}"
                    )
                return range(position + 1, position + 1 + number)
        raise MistakeError(f"is missing the word {word} before its keys")

    return find


def _integer(arg: Arg) -> int | None:
    if isinstance(arg, float | bool):
        return None
    try:
        return int(arg)
    except ValueError:
        return None


def word_of(arg: Arg) -> str:
    """Return an argument in upper case; "" if it is not text."""
    if isinstance(arg, str):
        return arg.upper()
    return arg.decode("latin-1").upper() if isinstance(arg, bytes) else ""


@cache  # most commands share a few notations
def finders_of(keys: str) -> tuple[KeyFinder, ...]:
    """Return the functions that find the keys, for the notation of the command table."""
    return () if keys == "-" else tuple(map(_finder, keys.split(",")))


def _finder(key: str) -> KeyFinder:
    if "@" in key:
        word, _, where = key.partition("@")
        start, _, parts = where.partition("/")
        return _after(word, int(start), int(parts))
    if "#" in key:
        at, _, how = key.partition("#")
        step = how.partition(":")[2]
        return _counted(int(at), int(step or 1), may_be_none="?" in how)
    first, *rest = map(int, key.split(":"))
    return every(first, *rest) if rest else every(first, first)


# --- What key specifications cannot say ----------------------------------------------


def _keys_of_sort(args: Sequence[Arg]) -> Sequence[int]:
    """SORT key [BY …] [LIMIT offset count] [GET …]… [ASC|DESC] [ALPHA] [STORE key]."""
    return [*every(1, 1)(args), *_stored(args, 2, {"STORE"}, {"BY": 1, "GET": 1, "LIMIT": 2})]


def _keys_of_georadius(args: Sequence[Arg]) -> Sequence[int]:
    """GEORADIUS key longitude latitude radius unit … [STORE key|STOREDIST key]."""
    return [*every(1, 1)(args), *_stored(args, 6, {"STORE", "STOREDIST"}, {})]


def _keys_of_georadiusbymember(args: Sequence[Arg]) -> Sequence[int]:
    """GEORADIUSBYMEMBER key member radius unit … [STORE key|STOREDIST key]."""
    return [*every(1, 1)(args), *_stored(args, 5, {"STORE", "STOREDIST"}, {})]


def _keys_of_migrate(args: Sequence[Arg]) -> Sequence[int]:
    """MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH …] [KEYS key …]."""
    one = every(3, 3)(args)
    at = 6
    while at < len(args):
        match word_of(args[at]):
            case "KEYS":
                if args[3] not in {"", b""}:
                    raise MistakeError("requires an empty key if the word KEYS follows")
                return range(at + 1, len(args))
            case "AUTH":
                at += 1
            case "AUTH2":
                at += 2
        at += 1
    return one


def _stored(
    args: Sequence[Arg], start: int, words: set[str], values: dict[str, int]
) -> Sequence[int]:
    """Return the position after the last of words, if there is one.

    values: how many values of which options are skipped, as they may look like words.
    """
    found: list[int] = []
    at = start
    while at < len(args):
        word = word_of(args[at])
        if word in words:
            at += 1
            if at == len(args):
                raise MistakeError(f"is missing the key after {word}")
            found = [at]  # servers use the last one
        at += 1 + values.get(word, 0)
    return found


BY_HAND: dict[str, tuple[KeyFinder, ...]] = {
    "GEORADIUS": (_keys_of_georadius,),
    "GEORADIUSBYMEMBER": (_keys_of_georadiusbymember,),
    "MIGRATE": (_keys_of_migrate,),
    "SORT": (_keys_of_sort,),
    "SORT_RO": (every(1, 1),),  # only its BY and GET have no key specification
}
