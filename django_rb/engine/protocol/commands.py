"""What is known about commands: their keys, what may be repeated, split, or not shared.

The facts come from servers themselves: command_table.py is generated from their COMMAND
replies. This module reads it, adds what a key specification cannot say, and answers
questions about one command at a time, given as redis-py sends it: ``("GET", "key")``,
``("OBJECT FREQ", "key")`` or ``("OBJECT", "FREQ", "key")``, names in any case, as str or
bytes.

Source: "Command key specifications" in the servers' documentation,
https://redis.io/docs/latest/develop/reference/key-specs/ and
https://valkey.io/topics/key-specs/.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple, TypeAlias

from ..errors import UnroutableCommand
from .command_table import TABLE
from .encoding import Arg

KeyFinder: TypeAlias = Callable[[Sequence[Arg]], Sequence[int]]
"""Takes a command's arguments, the words of its name apart; returns the keys' positions."""


class MalformedCommand(UnroutableCommand):
    """A known command whose arguments do not say which of them are keys."""


# --- Questions -----------------------------------------------------------------------


def keys_of(args: Sequence[Arg]) -> list[Arg]:
    """Return the keys among a command's arguments, in order and as given; [] for none.

        keys_of(("MGET", "a", "b"))                       # ["a", "b"]
        keys_of(("EVAL", "return 1", 1, b"key", "arg"))   # [b"key"]

    The channels of SPUBLISH, SSUBSCRIBE and SUNSUBSCRIBE count as keys: servers route
    them as if they were. Keys that a server makes up itself (SORT's BY and GET, what a
    script composes) are seen by nobody but that server.

    UnroutableCommand: nobody described this command. MalformedCommand, a kind of it: the
    keys cannot be told from these arguments.
    """
    try:
        # Most commands end here: one key, and it comes first.
        if args[0] in _ONE_KEY:
            return [args[1]]
    except (IndexError, TypeError):
        pass  # the long way says what is wrong
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
            raise _MistakeError("has no keys")
        if words is not args:  # "OBJECT FREQ" was one word of args, and is two of words
            shift = len(words) - len(args)
            if min(positions, default=len(words)) <= shift:
                raise _MistakeError("has a key in its name; pass each argument by itself")
            positions = [position - shift for position in positions]
    except _MistakeError as mistake:
        raise MalformedCommand(f"{command.name} {mistake}") from None
    return positions


def name_of(args: Sequence[Arg]) -> str:
    """Return a command's name in upper case, of two words with a space: "OBJECT FREQ".

    Looks up in SPLITTABLE, and reads well in messages. UnroutableCommand: see keys_of().
    """
    return _find(args)[0].name


def is_read_only(args: Sequence[Arg]) -> bool:
    """Tell whether a command may be sent twice without anybody seeing a difference.

    True for what servers flag as read-only (EVAL_RO and FCALL_RO included) and for
    questions about the server itself (PING, INFO, CONFIG GET). False for the rest, for
    EVAL, whatever its script does, and for commands that nobody described.
    """
    try:
        return _find(args)[0].read_only
    except UnroutableCommand:
        return False


def refusal(args: Sequence[Arg]) -> str | None:
    """Return why a client over many nodes cannot run a command and which can; else None.

        refusal(("WATCH", "key"))   # "WATCH belongs to a transaction on one connection; …"

    These commands change their connection or what comes back on it, and clients over
    many nodes share connections out to one batch at a time.
    """
    try:
        return _REFUSALS.get(_find(args)[0].name)
    except UnroutableCommand:
        return None


def patterns_of(args: Sequence[Arg]) -> list[Arg]:
    """Return the patterns by which SORT and SORT_RO name further keys; [] for the rest.

    patterns_of(("SORT", "ids", "BY", "weight_*", "GET", "#"))   # ["weight_*"]
    """
    command, words = _find(args)
    if command.name not in {"SORT", "SORT_RO"}:
        return []
    found: list[Arg] = []
    at = 2
    while at < len(words):
        word = _word(words[at])
        if word in {"BY", "GET"}:
            # One without an asterisk names no key: "#" is the element, others are nothing.
            found += [arg for arg in words[at + 1 : at + 2] if "*" in _word(arg)]
        at += {"BY": 2, "GET": 2, "LIMIT": 3, "STORE": 2}.get(word, 1)
    return found


# --- Commands that are split over nodes ----------------------------------------------


class Split(NamedTuple):
    """How a command's arguments go to several nodes, and their replies become one.

    After the name, each `step` arguments are a key and what belongs to it. Replies:
    "order", each node's list gives the values of its keys, in the order of the whole
    command; "ok", every node says OK; "sum", each node counts.
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

    first_key, last_key, step: every step-th argument from the first to the last is a key.
    Counted as in COMMAND INFO: 0 is the command, and where its name has two words, 1 is
    the second. Default: the argument after the name. last_key=-1 is the last argument,
    first_key=0 says that there are no keys.
    read_only: it may be sent twice without anybody seeing a difference.
    keys: for keys that move, in place of the three. Takes the command's arguments (the
    words of its name apart, types as the caller gave them) and returns the indexes of the
    keys; what it raises goes to the caller of the command.

    The last description of a name counts, and counts for the process.

    TypeError, ValueError: the description makes no sense; the message says why.
    """
    if not isinstance(name, str):
        raise TypeError(f"A command's name is a str, not {type(name).__name__}")
    words = name.upper().split()
    if len(words) not in {1, 2} or not name.isascii():
        raise ValueError(f"A command's name is one or two words of ASCII, not {name!r}")
    if not isinstance(read_only, bool):
        raise TypeError(f"read_only is True or False, not {read_only!r}")
    if keys is not None:
        if (first_key, last_key, step) != (None, None, 1):
            raise ValueError("Give either keys or first_key, last_key and step, not both")
        if not callable(keys):
            raise TypeError(f"keys is a function of the arguments, not {keys!r}")
        finders: tuple[KeyFinder, ...] = (_checked(keys),)
    else:
        finders = _described_range(len(words), first_key, last_key, step)
    _add(_Command(" ".join(words), read_only, finders, keys is not None))


def _described_range(
    words: int, first: int | None, last: int | None, step: int
) -> tuple[KeyFinder, ...]:
    first = words if first is None else first
    last = first if last is None else last
    for option, value in (("first_key", first), ("last_key", last), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{option} is an int, not {value!r}")
    if first == 0:
        if last != 0 or step != 1:
            raise ValueError("first_key=0 means no keys, and goes with no last_key or step")
        return ()
    if first < words:
        raise ValueError(f"first_key is 0, or at least {words} (after the name), not {first}")
    if 0 <= last < first:
        raise ValueError(f"last_key is negative, or at least first_key={first}, not {last}")
    if step < 1:
        raise ValueError(f"step is at least 1, not {step}")
    return (_range(first, last, step),)


def _checked(find: KeyFinder) -> KeyFinder:
    def checked(args: Sequence[Arg]) -> Sequence[int]:
        positions = list(find(args))
        for position in positions:
            if not 0 < position < len(args):
                raise _MistakeError(
                    f"has {len(args) - 1} arguments, and the function registered for it "
                    f"says that number {position!r} is a key"
                )
        return positions

    return checked


# --- Finding keys --------------------------------------------------------------------


class _MistakeError(Exception):
    """What is wrong with a command, to be said after its name."""


@cache  # so that the same description is the same function, see _add()
def _range(first: int, last: int, step: int = 1) -> KeyFinder:
    """Every step-th argument from first to last is a key; last < 0 counts from the end."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        end = last if last >= 0 else last + len(args)
        if last < 0 and (end + 1 - first) % step:
            raise _MistakeError(f"takes {step} arguments for each key")
        if end >= len(args):
            raise _MistakeError("lacks a key")
        return range(first, end + 1, step)

    return find


def _counted(at: int, step: int, *, may_be_none: bool) -> KeyFinder:
    """Argument `at` tells how many keys follow it, each with step - 1 further arguments."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        if at >= len(args):
            raise _MistakeError("lacks its number of keys")
        number, room = _integer(args[at]), (len(args) - at - 1) // step
        if number is None or number < (0 if may_be_none else 1):
            raise _MistakeError(f"needs a number of keys, not {reprlib.repr(args[at])}")
        if number > room:
            raise _MistakeError(f"names {number} keys, and is followed by {room}")
        return range(at + 1, at + 1 + number * step, step)

    return find


def _after(word: str, start: int, parts: int) -> KeyFinder:
    """After a word comes a list to the end, of which one part in `parts` are keys."""

    def find(args: Sequence[Arg]) -> Sequence[int]:
        for position in range(start, len(args)):
            if _word(args[position]) == word:
                number, over = divmod(len(args) - position - 1, parts)
                if over or not number:
                    raise _MistakeError(f"needs {parts} lists of one length after {word}")
                return range(position + 1, position + 1 + number)
        raise _MistakeError(f"lacks the word {word}, which its keys follow")

    return find


def _integer(arg: Arg) -> int | None:
    if isinstance(arg, float | bool):
        return None
    try:
        return int(arg)
    except ValueError:
        return None


def _word(arg: Arg) -> str:
    """Return an argument in upper case; "" for one that is no word."""
    if isinstance(arg, str):
        return arg.upper()
    return arg.decode("latin-1").upper() if isinstance(arg, bytes) else ""


# --- What key specifications cannot say ----------------------------------------------


def _keys_of_sort(args: Sequence[Arg]) -> Sequence[int]:
    """SORT key [BY …] [LIMIT offset count] [GET …]… [ASC|DESC] [ALPHA] [STORE key]."""
    return [*_range(1, 1)(args), *_stored(args, 2, {"STORE"}, {"BY": 1, "GET": 1, "LIMIT": 2})]


def _keys_of_georadius(args: Sequence[Arg]) -> Sequence[int]:
    """GEORADIUS key longitude latitude radius unit … [STORE key|STOREDIST key]."""
    return [*_range(1, 1)(args), *_stored(args, 6, {"STORE", "STOREDIST"}, {})]


def _keys_of_georadiusbymember(args: Sequence[Arg]) -> Sequence[int]:
    """GEORADIUSBYMEMBER key member radius unit … [STORE key|STOREDIST key]."""
    return [*_range(1, 1)(args), *_stored(args, 5, {"STORE", "STOREDIST"}, {})]


def _keys_of_migrate(args: Sequence[Arg]) -> Sequence[int]:
    """MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH …] [KEYS key …]."""
    one = _range(3, 3)(args)
    at = 6
    while at < len(args):
        match _word(args[at]):
            case "KEYS":
                if args[3] not in {"", b""}:
                    raise _MistakeError("takes an empty key where the word KEYS follows")
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

    values: options whose so many values are skipped, as they may look like words.
    """
    found: list[int] = []
    at = start
    while at < len(args):
        word = _word(args[at])
        if word in words:
            at += 1
            if at == len(args):
                raise _MistakeError(f"lacks the key after {word}")
            found = [at]  # servers let the last one count
        at += 1 + values.get(word, 0)
    return found


_BY_HAND: dict[str, tuple[KeyFinder, ...]] = {
    "GEORADIUS": (_keys_of_georadius,),
    "GEORADIUSBYMEMBER": (_keys_of_georadiusbymember,),
    "MIGRATE": (_keys_of_migrate,),
    "SORT": (_keys_of_sort,),
    "SORT_RO": (_range(1, 1),),  # only its BY and GET are beyond specification
}

# What the servers in the table did not list, in the table's format: commands of newer
# Redis, which no wheel brings, as redis-py 8.1 sends them; and DEBUG's one with a key.
LATER = """\
ARCOUNT       read   1      newer
ARDEL         write  1      newer
ARDELRANGE    write  1      newer
ARGET         read   1      newer
ARGETRANGE    read   1      newer
ARGREP        read   1      newer
ARINFO        read   1      newer
ARINSERT      write  1      newer
ARLASTITEMS   read   1      newer
ARLEN         read   1      newer
ARMGET        read   1      newer
ARMSET        write  1      newer
ARNEXT        read   1      newer
AROP          read   1      newer
ARRING        write  1      newer
ARSCAN        read   1      newer
ARSEEK        write  1      newer
ARSET         write  1      newer
BLMOVEM       write  1,2    newer
DEBUG|OBJECT  other  2      all
DELEX         write  1      newer
DIGEST        read   1      newer
HOTKEYS|GET   other  -      newer
HOTKEYS|RESET other  -      newer
HOTKEYS|START other  -      newer
HOTKEYS|STOP  other  -      newer
INCREX        write  1      newer
LMOVEM        write  1,2    newer
SDIFFCARD     read   1#     newer
SUNIONCARD    read   1#     newer
XCFGSET       write  1      newer
XNACK         write  1      newer
"""

# Servers flag as read-only what reads keys; these only ask the server something.
_QUESTIONS = """
ACL|CAT ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|HELP ACL|LIST ACL|USERS ACL|WHOAMI
CLIENT|GETNAME CLIENT|GETREDIR CLIENT|HELP CLIENT|ID CLIENT|INFO CLIENT|LIST
CLIENT|TRACKINGINFO
CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT
CLUSTER|GETSLOTMIGRATIONS CLUSTER|HELP CLUSTER|INFO CLUSTER|KEYSLOT CLUSTER|LINKS
CLUSTER|MYID CLUSTER|MYSHARDID CLUSTER|NODES CLUSTER|REPLICAS CLUSTER|SHARDS
CLUSTER|SLAVES CLUSTER|SLOT-STATS CLUSTER|SLOTS
COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS COMMAND|HELP
COMMAND|INFO COMMAND|LIST COMMANDLOG|GET COMMANDLOG|HELP COMMANDLOG|LEN
CONFIG|GET CONFIG|HELP DEBUG|OBJECT ECHO
FUNCTION|DUMP FUNCTION|HELP FUNCTION|LIST FUNCTION|STATS HOTKEYS|GET INFO LASTSAVE
LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HELP LATENCY|HISTOGRAM LATENCY|HISTORY
LATENCY|LATEST MEMORY|DOCTOR MEMORY|HELP MEMORY|MALLOC-STATS MEMORY|STATS
MODULE|HELP MODULE|LIST OBJECT|HELP PING
PUBSUB|CHANNELS PUBSUB|HELP PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS
PUBSUB|SHARDNUMSUB ROLE SCRIPT|EXISTS SCRIPT|HELP SCRIPT|SHOW
SLOWLOG|GET SLOWLOG|HELP SLOWLOG|LEN TIME XGROUP|HELP XINFO|HELP
"""

_PUBSUB = "listens on one connection; use cluster.get_local_client(host_id).pubsub()"
_SHARDED_PUBSUB = (
    "listens on one connection; use cluster.get_local_client_for_key(channel).pubsub()"
)
_TRANSACTION = (
    "belongs to a transaction on one connection; use "
    "cluster.get_local_client_for_key(key).pipeline()"
)
_CONNECTION = (
    "changes the one connection it is sent on, which the next call need not get; use "
    "cluster.get_local_client(host_id).client(), which keeps its connection"
)
_LOGIN = (
    "changes the one connection it is sent on, which the next call need not get; set "
    "{} in the cluster's HOSTS, or use cluster.get_local_client(host_id).client()"
)
_REPLICATION = (
    "turns its connection into a replication link; no client of the cluster reads one"
)

# By name: why clients over many nodes refuse a command, to be said after the name.
_REASONS = {
    "ASKING": _CONNECTION,
    "AUTH": _LOGIN.format('"username" and "password"'),
    "CLIENT CACHING": _CONNECTION,
    "CLIENT CAPA": _CONNECTION,
    "CLIENT IMPORT-SOURCE": _CONNECTION,
    "CLIENT NO-EVICT": _CONNECTION,
    "CLIENT NO-TOUCH": _CONNECTION,
    "CLIENT REPLY": _CONNECTION,
    "CLIENT SETINFO": _CONNECTION,
    "CLIENT SETNAME": _LOGIN.format('"client_name"'),
    "CLIENT TRACKING": _CONNECTION,
    "DISCARD": _TRANSACTION,
    "EXEC": _TRANSACTION,
    "HELLO": _LOGIN.format('"protocol", "username" and "password"'),
    "MONITOR": "streams on one connection; use cluster.get_local_client(host_id).monitor()",
    "MULTI": _TRANSACTION,
    "PSUBSCRIBE": _PUBSUB,
    "PSYNC": _REPLICATION,
    "PUNSUBSCRIBE": _PUBSUB,
    "QUIT": "closes a connection that the cluster still uses; use cluster.close()",
    "READONLY": _CONNECTION,
    "READWRITE": _CONNECTION,
    "REPLCONF": _REPLICATION,
    "RESET": _CONNECTION,
    "SCRIPT DEBUG": _CONNECTION,
    "SELECT": _LOGIN.format('"db"'),
    # A node that obeys closes the connection and says nothing: to a batch, a dead node.
    "SHUTDOWN": "is never answered; use cluster.get_local_client(host_id).shutdown()",
    "SSUBSCRIBE": _SHARDED_PUBSUB,
    "SUBSCRIBE": _PUBSUB,
    "SUNSUBSCRIBE": _SHARDED_PUBSUB,
    "SYNC": _REPLICATION,
    "UNSUBSCRIBE": _PUBSUB,
    "UNWATCH": _TRANSACTION,
    "WATCH": _TRANSACTION,
}
_REFUSALS = {name: f"{name} {reason}" for name, reason in _REASONS.items()}


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

# Names, in every spelling that keys_of() takes the short way for, of commands whose only
# key is the argument after the name.
_ONE_KEY: set[Arg] = set()

SIMPLE: set[Arg] = set()
"""Names, as redis-py sends them, of commands that need no further look: of one word, with
one key, which comes right after the name; neither split nor refused."""


def _find(args: Sequence[Arg]) -> tuple[_Command, Sequence[Arg]]:
    """Return a command, and args with the words of its name apart."""
    name = args[0] if args else ""
    if isinstance(name, str) and (command := _COMMANDS.get(name)):
        return command, args
    if not isinstance(name, str | bytes):
        raise MalformedCommand(f"A command's name is a str or bytes, not {type(name).__name__}")
    parts = (name if isinstance(name, str) else name.decode("latin-1")).split()
    if not parts:
        raise MalformedCommand("An empty command was given")
    words = args if len(parts) == 1 else (*parts, *args[1:])
    first = parts[0].upper()
    if first in _CONTAINERS:
        commands = _CONTAINERS[first]
        second = _word(words[1]) if len(words) > 1 else ""
        found = commands.get(second) or commands.get("")
        if found is None and not second:
            raise MalformedCommand(f"{first} needs one of {', '.join(sorted(commands))}")
        first = f"{first} {second}"
    else:
        found = _COMMANDS.get(first)
    if found is None:
        shown = f"{first!r:.100}"
        raise UnroutableCommand(
            f"Unknown command {shown}: say where its keys are, "
            f"with django_rb.engine.commands.register_command({shown}, …)"
        )
    return found, words


def _add(command: _Command) -> None:
    first, _, second = command.name.partition(" ")
    if second and first not in _CONTAINERS:
        _CONTAINERS[first] = {"": _COMMANDS[first]} if first in _COMMANDS else {}
        _COMMANDS.pop(first, None)
        _ONE_KEY.discard(first)
        SIMPLE.discard(first)
    one_word = first not in _CONTAINERS
    if one_word:
        _COMMANDS[first] = command
    else:
        _CONTAINERS[first][second] = command
    name = command.name
    if command.finders == _finders("2" if second else "1") and (second or one_word):
        _ONE_KEY.add(name)
    else:
        _ONE_KEY.discard(name)
    if name in _ONE_KEY and not second and name not in {*_REFUSALS, *SPLITTABLE, "SORT_RO"}:
        SIMPLE.add(name)
    else:
        SIMPLE.discard(name)


def _read(table: str) -> Iterator[_Command]:
    questions = frozenset(_QUESTIONS.split())
    for line in table.splitlines():
        name, access, keys, _ = line.split()
        spaced = name.replace("|", " ")
        finders = _BY_HAND[spaced] if keys == "*" else _finders(keys)
        read_only = access == "read" or name in questions
        yield _Command(spaced, read_only, finders, "?" in keys)


@cache  # most commands share a few notations
def _finders(keys: str) -> tuple[KeyFinder, ...]:
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
    return _range(first, *rest) if rest else _range(first, first)


for _table in (TABLE, LATER):
    for _command in _read(_table):
        _add(_command)
