"""Which arguments of commands are keys, and what may be repeated, split, or not shared.

The facts come from servers themselves: command_table.py is generated from their COMMAND
replies. This module reads it, adds what a key specification cannot say, and answers
questions about one command at a time, given as redis-py sends it: ``("GET", "key")``,
``("OBJECT FREQ", "key")`` or ``("OBJECT", "FREQ", "key")``, names in any case, as str or
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Literal, NamedTuple

from ..errors import UnroutableCommand
from .command_table import TABLE
from .encoding import Arg
from .further_commands import LATER, QUESTIONS
from .key_finders import BY_HAND, KeyFinder, MistakeError, every, finders_of, word_of
from .refusals import REFUSALS


class MalformedCommand(UnroutableCommand):
    """A known command whose arguments do not say which of them are keys."""


# --- Questions -----------------------------------------------------------------------


def keys_of(args: Sequence[Arg]) -> list[Arg]:
    """Return the keys among a command's arguments, in order and as given; [] for none.

        keys_of(("MGET", "a", "b"))                       # ["a", "b"]
        keys_of(("EVAL", "return 1", 1, b"key", "arg"))   # [b"key"]

    The channels of SPUBLISH, SSUBSCRIBE and SUNSUBSCRIBE count as keys: servers route
    them as if they were. Keys that a server composes itself (SORT's BY and GET, keys that a
    script composes) are not found.

    UnroutableCommand: the command is unknown. MalformedCommand, a subclass of it: the keys
    cannot be found in these arguments.
    """
    try:
        # Most commands end here: one key, and it comes first.
        if args[0] in _ONE_KEY:
            return [args[1]]
    except (IndexError, TypeError):
        pass  # the slow path raises the right error
    return [args[position] for position in key_positions(args)]


def key_positions(args: Sequence[Arg]) -> list[int]:
    """Return the indexes into args of a command's keys, in order; see keys_of()."""
    command, words = _find(args)
    if not command.finders:
        return []
    try:
        positions: list[int] = []
        for finder in command.finders:
            positions += finder(words)
        if not positions and not command.keys_may_lack:
            raise MistakeError("has no keys")
        if words is not args:  # "OBJECT FREQ" was one word of args, and is two of words
            shift = len(words) - len(args)
            if min(positions, default=len(words)) <= shift:
                raise MistakeError("contains a key in its name; pass each argument separately")
            positions = [position - shift for position in positions]
    except MistakeError as mistake:
        raise MalformedCommand(f"{command.name} {mistake}") from None
    return positions


def name_of(args: Sequence[Arg]) -> str:
    """Return a command's name in upper case, of two words with a space: "OBJECT FREQ".

    It is the key of SPLITTABLE, and the name in messages. UnroutableCommand: see keys_of().
    """
    return _find(args)[0].name


def is_read_only(args: Sequence[Arg]) -> bool:
    """Return whether a command is read-only, so that sending it twice is safe.

    True for what servers flag as read-only (EVAL_RO and FCALL_RO included) and for
    questions about the server itself (PING, INFO, CONFIG GET). False for the rest, for
    EVAL, whatever its script does, and for unknown commands.
    """
    try:
        return _find(args)[0].read_only
    except UnroutableCommand:
        return False


def reads_keys(args: Sequence[Arg]) -> bool:
    """Return whether a command only reads keys, so that a replica can run it.

    False for questions about the server itself or about all keys (INFO, DBSIZE, SCAN).
    """
    try:
        command = _find(args)[0]
    except UnroutableCommand:
        return False
    return command.read_only and bool(command.finders)


def refusal(args: Sequence[Arg]) -> str | None:
    """Return why clients over many nodes cannot run a command, and what can; else None.

        refusal(("WATCH", "key"))   # "WATCH belongs to a transaction on one connection; …"

    These commands change their connection or its replies. With clients over many nodes, the
    next batch may get another connection, and another batch this one.
    """
    try:
        return REFUSALS.get(_find(args)[0].name)
    except UnroutableCommand:
        return None


def check_shareable(args: Sequence[Arg]) -> None:
    """Raise UnroutableCommand for a command that changes its connection; see `refusal`.

    HARMLESS has the names of most commands that need no check.
    """
    name: object = args[0] if args else b""
    if isinstance(name, bytearray | memoryview):  # both can be sent as a name
        name = bytes(name)
        args = (name, *args[1:])
    if not name:
        raise MalformedCommand("The command is empty")
    why_not = refusal(args)
    if why_not is not None:
        raise UnroutableCommand(why_not)


def check_all_shareable(commands: Sequence[Sequence[Arg]]) -> None:
    """Raise UnroutableCommand if one of many commands changes its connection."""
    try:
        if HARMLESS.issuperset(map(itemgetter(0), commands)):
            return
    except (IndexError, TypeError):  # one has no name, or has it in a buffer
        pass
    for args in commands:
        check_shareable(args)


def patterns_of(args: Sequence[Arg]) -> list[Arg]:
    """Return the patterns with which SORT and SORT_RO name further keys; [] for the rest.

    patterns_of(("SORT", "ids", "BY", "weight_*", "GET", "#"))   # ["weight_*"]
    """
    command, words = _find(args)
    if command.name not in {"SORT", "SORT_RO"}:
        return []
    found: list[Arg] = []
    at = 2
    while at < len(words):
        word = word_of(words[at])
        if word in {"BY", "GET"}:
            # Patterns without an asterisk name no keys; "#" is the element itself.
            found += [arg for arg in words[at + 1 : at + 2] if "*" in word_of(arg)]
        at += {"BY": 2, "GET": 2, "LIMIT": 3, "STORE": 2}.get(word, 1)
    return found


# --- Commands that are split over nodes ----------------------------------------------


class Split(NamedTuple):
    """How a command is split by node, and how the replies are combined.

    After the name, each `step` arguments are a key and what belongs to it. Replies:
    "order", each node's list has the values of its keys, which are put in the order of the
    whole command; "ok", every node replies OK; "sum", the nodes' numbers are added.
    """

    step: int
    replies: Literal["order", "ok", "sum"]


SPLITTABLE = {
    "MGET": Split(1, "order"),
    "MSET": Split(2, "ok"),
    "DEL": Split(1, "sum"),
    "UNLINK": Split(1, "sum"),
    "EXISTS": Split(1, "sum"),
    "TOUCH": Split(1, "sum"),
}
"""By name_of(). MSETNX is not here: it sets all keys or none, on one node."""


# --- Descriptions by callers ---------------------------------------------------------


def register_command(
    name: str,
    *,
    first_key: int | None = None,
    last_key: int | None = None,
    step: int = 1,
    read_only: bool = False,
    keys: KeyFinder | None = None,
) -> None:
    """Describe a command that the table does not know, such as a module's.

    register_command("JSON.GET", read_only=True)          # one key, comes first
    register_command("JSON.DEBUG MEMORY", read_only=True)
    register_command("JSON.MSET", last_key=-1, step=3)    # key path value …
    register_command("FT.SEARCH", first_key=0)            # no key
    register_command("BULK.READ", keys=lambda args: range(2, 2 + int(args[1])))

    Args:
        name: one or two words.
        first_key: the position of the first key, counted as in COMMAND INFO: 0 is the command,
            and where its name has two words, 1 is the second. By default the argument after
            the name; 0 says that there are no keys.
        last_key: the position of the last key, by default `first_key`; -1 is the last argument.
        step: every `step`-th argument from the first to the last is a key.
        read_only: the command changes nothing, so that sending it twice is safe.
        keys: instead of the three positions, a function that finds the keys. It is called with
            the command's arguments (the name split into words, types as the caller gave them)
            and returns the indexes of the keys. Its exceptions are raised to the caller of the
            command.

    It applies to the whole process. A later description of the same name replaces it.

    Raises:
        TypeError, ValueError: the description makes no sense; the message says why.
    """
    if not isinstance(name, str):
        raise TypeError(f"A command's name must be a str, not {type(name).__name__}")
    words = name.upper().split()
    if len(words) not in {1, 2} or not name.isascii():
        raise ValueError(f"A command's name must be one or two words of ASCII, not {name!r}")
    if not isinstance(read_only, bool):
        raise TypeError(f"read_only must be True or False, not {read_only!r}")
    if keys is not None:
        if (first_key, last_key, step) != (None, None, 1):
            raise ValueError("Give either keys or first_key, last_key and step, not both")
        if not callable(keys):
            raise TypeError(f"keys must be a function of the arguments, not {keys!r}")
        finders: tuple[KeyFinder, ...] = (_checked(keys),)
    else:
        finders = _described_every(len(words), first_key, last_key, step)
    _add(_Command(" ".join(words), read_only, finders, keys is not None))


def _described_every(
    words: int, first: int | None, last: int | None, step: int
) -> tuple[KeyFinder, ...]:
    first = words if first is None else first
    last = first if last is None else last
    for option, value in (("first_key", first), ("last_key", last), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{option} must be an int, not {value!r}")
    if first == 0:
        if last != 0 or step != 1:
            raise ValueError(
                "first_key=0 means no keys, and cannot be combined with last_key or step"
            )
        return ()
    if first < words:
        raise ValueError(
            f"first_key must be 0, or at least {words} (after the name), not {first}"
        )
    if 0 <= last < first:
        raise ValueError(
            f"last_key must be negative, or at least first_key={first}, not {last}"
        )
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}")
    return (every(first, last, step),)


def _checked(find: KeyFinder) -> KeyFinder:
    def checked(args: Sequence[Arg]) -> Sequence[int]:
        positions = list(find(args))
        for position in positions:
            if not 0 < position < len(args):
                raise MistakeError(
                    f"has {len(args) - 1} arguments, but the function registered for it "
                    f"returned {position!r} as the position of a key"
                )
        return positions

    return checked


# --- The commands, by name -----------------------------------------------------------


class _Command(NamedTuple):
    name: str  # upper case, one space between two words
    read_only: bool
    finders: tuple[KeyFinder, ...]
    keys_may_lack: bool


# Commands of one word; of two words, {"OBJECT": {"FREQ": …}}, with the command that
# stands for the first word by itself, if there is one, as {"COMMAND": {"": …}}.
_COMMANDS: dict[str, _Command] = {}
_CONTAINERS: dict[str, dict[str, _Command]] = {}

# Commands whose only key is the argument after the name, in every spelling for which keys_of()
# has a fast path.
_ONE_KEY: set[Arg] = set()

SIMPLE: set[Arg] = set()
"""Names, as redis-py sends them, of commands that need no further look: of one word, with
one key, which comes right after the name; neither split nor refused."""

HARMLESS: set[Arg] = set()
"""First words of names, in upper case as str and as bytes, that begin no refused command."""

_REFUSED = {name.partition(" ")[0] for name in REFUSALS}


def _find(args: Sequence[Arg]) -> tuple[_Command, Sequence[Arg]]:
    """Return a command, and args with its name split into words."""
    name = args[0] if args else ""
    if isinstance(name, str) and (command := _COMMANDS.get(name)):
        return command, args
    if not isinstance(name, str | bytes):
        raise MalformedCommand(
            f"A command's name must be a str or bytes, not {type(name).__name__}"
        )
    parts = (name if isinstance(name, str) else name.decode("latin-1")).split()
    if not parts:
        raise MalformedCommand("The command is empty")
    words = args if len(parts) == 1 else (*parts, *args[1:])
    first = parts[0].upper()
    if first in _CONTAINERS:
        commands = _CONTAINERS[first]
        second = word_of(words[1]) if len(words) > 1 else ""
        found = commands.get(second) or commands.get("")
        if found is None and not second:
            raise MalformedCommand(f"{first} requires one of {', '.join(sorted(commands))}")
        first = f"{first} {second}"
    else:
        found = _COMMANDS.get(first)
    if found is None:
        shown = f"{first!r:.100}"
        raise UnroutableCommand(
            f"Unknown command {shown}: describe where its keys are with "
            f"django_rb.engine.register_command({shown}, …)"
        )
    return found, words


def _add(command: _Command) -> None:
    first, _, second = command.name.partition(" ")
    if second and first not in _CONTAINERS:
        _CONTAINERS[first] = {"": _COMMANDS[first]} if first in _COMMANDS else {}
        _COMMANDS.pop(first, None)
        _ONE_KEY.discard(first)
        SIMPLE.discard(first)
    if first not in _REFUSED:
        HARMLESS.update((first, first.encode()))
    one_word = first not in _CONTAINERS
    if one_word:
        _COMMANDS[first] = command
    else:
        _CONTAINERS[first][second] = command
    name = command.name
    if command.finders == finders_of("2" if second else "1") and (second or one_word):
        _ONE_KEY.add(name)
    else:
        _ONE_KEY.discard(name)
    if name in _ONE_KEY and not second and name not in {*REFUSALS, *SPLITTABLE, "SORT_RO"}:
        SIMPLE.add(name)
    else:
        SIMPLE.discard(name)


def _read(table: str) -> Iterator[_Command]:
    questions = frozenset(QUESTIONS.split())
    for line in table.splitlines():
        name, access, keys, _ = line.split()
        spaced = name.replace("|", " ")
        finders = BY_HAND[spaced] if keys == "*" else finders_of(keys)
        read_only = access == "read" or name in questions
        yield _Command(spaced, read_only, finders, "?" in keys)


for _table in (TABLE, LATER):
    for _command in _read(_table):
        _add(_command)
