"""Batches: commands grouped by node, run in rounds, put together again. No I/O.

Each function here is a generator that yields the exchanges of a round, to be run side by
side by a transport, and returns an `Outcome`: what the caller asked for, and a list of
`NodeFailure`s. A node that fails takes nothing from the others: their results are in.

Most batches need one round. A second one follows where a node did not know a script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from hashlib import sha1
from itertools import chain, groupby, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from redis.exceptions import NoScriptError

from .encoding import (
    PIECE_SIZE,
    Arg,
    Args,
    Buffer,
    encode,
    encode_keys,
    encode_large,
    encode_words,
    headers,
    is_large,
    make_set_frame,
    pack,
)
from .errors import NodeFailure, ProtocolError, at_node
from .exchange import NO_REPLY, Batch, Exchange
from .hashing import encode_key

if TYPE_CHECKING:
    from hiredis import Reader

    from .routers import BaseRouter

T = TypeVar("T")

Outcome = tuple[T, list[NodeFailure]]


class Cluster(Protocol):
    """What batches need of a cluster."""

    @property
    def router(self) -> BaseRouter:
        """Who owns a key."""

    @property
    def scripts(self) -> Mapping[bytes, bytes]:
        """The sources of Lua scripts by SHA1 digest, for nodes that do not know them."""

    def get_address(self, host_id: int) -> str:
        """Return where a node is, for errors."""


class Script:
    """A Lua script, sent whole only to nodes that do not know it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str | bytes) -> None:
        self.source = encode_key(source)
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


class KeyScript(Script):
    """A Lua script on one key with always as many arguments.

    Its commands are formatted here, which takes a third of the time that hiredis takes.

    Attributes:
        evalsha, eval: formats, for the length of the key, the key, and the arguments as
            `encode_words` makes them.
    """

    __slots__ = ("eval", "evalsha")

    def __init__(self, source: str | bytes, arguments: int) -> None:
        super().__init__(source)
        self.evalsha, self.eval = (
            b"*%d\r\n%b$%%d\r\n%%b\r\n%%b"
            % (arguments + 4, encode_words((name, script, 1)).replace(b"%", b"%%"))
            for name, script in ((b"EVALSHA", self.sha), (b"EVAL", self.source))
        )


def _exchange(host_id: int, pieces: Iterator[Buffer], count: int) -> Exchange:
    # The first piece is made at once: what cannot be encoded fails before anything is sent.
    return Exchange(host_id, next(pieces), count, pieces)


def _exchange_of(host_id: int, commands: Sequence[Args]) -> Exchange:
    exchange = _exchange(host_id, encode(commands), len(commands))
    exchange.commands = commands
    return exchange


def _exchange_of_one(host_id: int, args: Args) -> Exchange:
    if is_large(args):
        exchange = _exchange(host_id, encode_large(args), 1)
    else:
        exchange = Exchange(host_id, pack(args))
    exchange.commands = (args,)
    return exchange


class _KeysExchange(Exchange):
    """One command whose arguments are keys.

    It is encoded as it is sent: by then the nodes before it are at work.
    """

    def __init__(self, host_id: int, name: bytes, keys: Sequence[bytes]) -> None:
        super().__init__(host_id, b"")
        self.commands = ((name, keys[0]),)  # enough to tell what it does
        self._name = name
        self._keys = keys

    def begin(self, reader: Reader, has_pushes: bool) -> None:
        super().begin(reader, has_pushes)
        self.out = self._first = encode_keys(self._name, self._keys)


def _failure(
    cluster: Cluster, host_id: int, error: Exception, keys: Sequence[bytes] = ()
) -> NodeFailure:
    return NodeFailure(host_id, cluster.get_address(host_id), error, tuple(keys))


def _error_in(cluster: Cluster, exchange: Exchange) -> Exception | None:
    """Return why an exchange failed, or its first error reply, which then names the node."""
    if exchange.error is not None:
        return exchange.error
    for reply in exchange.replies:
        if isinstance(reply, Exception):
            address = cluster.get_address(exchange.host_id)
            reply.args = (at_node(reply, exchange.host_id, address),)
            return reply
    return None


# Puts what a node replied for some keys into a dictionary of values by name, and returns how
# many of the keys have none. Its arguments: that dictionary, the keys' names, the keys, and for
# each of them what is stored, or None.
Decode = Callable[[dict[Any, Any], list[Any], list[bytes], list[bytes | None]], int]

_ABSENT: Final = object()  # what a name has in that dictionary until a value is put there


def keep_found(
    found: dict[Any, Any], names: list[Any], keys: list[bytes], replies: list[bytes | None]
) -> int:
    """Put what is stored into `found` as it is; return how many keys have nothing."""
    misses = 0
    for name, data in zip(names, replies, strict=True):
        if data is None:
            misses += 1
        else:
            found[name] = data
    return misses


def find(
    cluster: Cluster,
    keys: Sequence[bytes],
    names: Collection[Any] | None = None,
    decode: Decode = keep_found,
) -> Batch[Outcome[dict[Any, Any]]]:
    """Look keys up: one MGET per node that owns some of them.

    Args:
        names: what the caller knows the keys by; themselves if not given.
        decode: does what `keep_found` does, for one node's keys; called while other nodes
            are still awaited.

    Returns ``{name: value}`` for the keys that exist, in the order of the keys.
    """
    if names is None:
        names = keys
    found = dict.fromkeys(names, _ABSENT)  # it has their order from the beginning
    if len(found) != len(keys):  # equal names may be those of different keys, as 1 and True
        distinct = list(dict.fromkeys(keys))
        values, failures = yield from find(cluster, distinct, None, decode)
        named = zip(names, keys, strict=True)
        return {name: values[key] for name, key in named if key in values}, failures
    shares: dict[int, tuple[list[Any], list[bytes]]] = defaultdict(lambda: ([], []))
    owners = cluster.router.get_hosts_for_keys(keys)
    for owner, name, key in zip(owners, found, keys, strict=True):
        share = shares[owner]
        share[0].append(name)
        share[1].append(key)
    exchanges = []
    misses: list[int] = []
    for owner, share in shares.items():
        exchange = _KeysExchange(owner, b"MGET", share[1])
        exchange.on_done = partial(_decode_reply, decode, misses, found, *share)
        exchanges.append(exchange)
    yield exchanges
    failures = []
    for exchange in exchanges:
        error = _error_in(cluster, exchange)
        if error is not None:
            lost = shares[exchange.host_id][1]
            misses.append(len(lost))
            failures.append(_failure(cluster, exchange.host_id, error, lost))
    if any(misses):
        found = {name: value for name, value in found.items() if value is not _ABSENT}
    return found, failures


def _decode_reply(
    decode: Decode,
    misses: list[int],
    found: dict[Any, Any],
    names: list[Any],
    keys: list[bytes],
    exchange: Exchange,
) -> None:
    (reply,) = exchange.replies
    if type(reply) is list:
        misses.append(decode(found, names, keys, reply))
        exchange.replies.clear()
    elif not isinstance(reply, Exception):
        exchange.fail(ProtocolError("The node answered MGET with no array"))


def store(
    cluster: Cluster,
    keys: Sequence[bytes],
    values: Iterable[T],
    encode_value: Callable[[T], bytes],
    options: Args = (),
) -> Batch[Outcome[None]]:
    """Store values: one pipeline of SETs with the same options per node.

    Values are encoded as the socket drains. Each failure carries the keys not stored.
    """
    shares: dict[int, tuple[list[bytes], list[T]]] = defaultdict(lambda: ([], []))
    owners = cluster.router.get_hosts_for_keys(keys)
    for owner, key, value in zip(owners, keys, values, strict=True):
        share = shares[owner]
        share[0].append(key)
        share[1].append(value)
    exchanges = [
        _exchange(owner, _encode_sets(*share, encode_value, options), len(share[0]))
        for owner, share in shares.items()
    ]
    yield exchanges
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        replies, sent = exchange.replies, shares[exchange.host_id][0]
        error = exchange.error
        if error is None:
            if replies.count(b"OK") == len(sent):
                continue
            error = _error_in(cluster, exchange)
            assert error is not None
        answers = chain(replies, repeat(None))
        lost = [key for key, reply in zip(sent, answers, strict=False) if reply != b"OK"]
        failures.append(_failure(cluster, exchange.host_id, error, lost))
    return None, failures


def _encode_sets(
    keys: list[bytes], values: list[T], encode_value: Callable[[T], bytes], options: Args
) -> Iterator[Buffer]:
    """Yield the bytes of many SETs, in pieces of about PIECE_SIZE. A hot loop."""
    head, tail = make_set_frame(options)
    between, piece_size, get_header = tail + head, PIECE_SIZE, headers.__getitem__
    parts: list[bytes] = []
    size, before = 0, head
    for key, value in zip(keys, values, strict=True):
        data = encode_value(value)
        length = len(data)
        size += length
        if size >= piece_size:
            if parts:
                yield b"".join((*parts, tail))
                parts = []
            size, before = length, head
            if length >= piece_size:
                yield from encode_large((b"SET", key, data, *options))
                size = 0
                continue
        parts += (before, get_header(len(key)), key, get_header(length), data)
        before = between
    if parts:
        yield b"".join((*parts, tail))


def count(cluster: Cluster, name: bytes, keys: Sequence[bytes]) -> Batch[Outcome[int]]:
    """Run a command that takes any number of keys and counts, such as UNLINK or EXISTS.

    Returns the sum over the nodes.
    """
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(cluster.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    exchanges = [_KeysExchange(owner, name, share) for owner, share in shares.items()]
    yield exchanges
    replies, failures = _collect(cluster, exchanges, shares)
    return sum(replies.values()), failures


def call(cluster: Cluster, key: bytes, *args: Arg) -> Batch[Outcome[Any]]:
    """Run one command where `key` lives; return its reply, None where it failed."""
    exchange = _exchange_of_one(cluster.router.get_host_for_key(key), args)
    exchange.may_join = exchange.is_whole
    yield (exchange,)
    error = _error_in(cluster, exchange)
    if error is None:
        return exchange.replies[0], []
    return None, [_failure(cluster, exchange.host_id, error, (key,))]


def pipeline(cluster: Cluster, key: bytes, *commands: Args) -> Batch[Outcome[list[Any]]]:
    """Run commands where `key` lives, in one go.

    Returns their replies; all are None where one of them failed.
    """
    host_id = cluster.router.get_host_for_key(key)
    exchange = _exchange_of(host_id, commands)
    yield (exchange,)
    error = _error_in(cluster, exchange)
    if error is None:
        return exchange.replies, []
    return [None] * len(commands), [_failure(cluster, exchange.host_id, error, (key,))]


def run_script(cluster: Cluster, key: bytes, script: Script, *args: Arg) -> Batch[Outcome[Any]]:
    """Run a script on one key where it lives; return its reply, None where it failed."""
    outcome = yield from call(cluster, key, b"EVALSHA", script.sha, 1, key, *args)
    _, failures = outcome
    if failures and isinstance(failures[0].error, NoScriptError):
        outcome = yield from call(cluster, key, b"EVAL", script.source, 1, key, *args)
    return outcome


# A script, the key it runs on, and its arguments as `encode_words` makes them.
ScriptCall = tuple[bytes, KeyScript, bytes]


def encode_scripts(calls: Iterable[ScriptCall]) -> list[bytes]:
    """Return the commands that run scripts which their nodes know."""
    return [script.evalsha % (len(key), key, arguments) for key, script, arguments in calls]


def run_scripts(
    cluster: Cluster, calls: Sequence[ScriptCall], replies: Sequence[Any] | None = None
) -> Batch[list[Any]]:
    """Run scripts, each on one key where that lives.

    Args:
        calls: ``(key, script, arguments)``.
        replies: what `try_calls` or `ask` has said to `encode_scripts(calls)`; only the rest
            is done.

    Returns what they replied, in the order of the calls; an exception where a node said
    nothing of use.
    """
    said = [NO_REPLY] * len(calls) if replies is None else list(replies)
    unasked = [n for n, reply in enumerate(said) if reply is NO_REPLY]
    if unasked:
        asked = [calls[n] for n in unasked]
        keys = [key for key, _, _ in asked]
        answers = yield from ask(cluster, keys, encode_scripts(asked))
        for n, reply in zip(unasked, answers, strict=True):
            said[n] = reply
    unknown = [n for n, reply in enumerate(said) if isinstance(reply, NoScriptError)]
    if unknown:
        asked = [calls[n] for n in unknown]
        commands = [
            script.eval % (len(key), key, arguments) for key, script, arguments in asked
        ]
        answers = yield from ask(cluster, [key for key, _, _ in asked], commands)
        for n, reply in zip(unknown, answers, strict=True):
            said[n] = reply
    return said


def ask(cluster: Cluster, keys: Sequence[bytes], commands: Sequence[bytes]) -> Batch[list[Any]]:
    """Send encoded commands, each where its key lives; return replies and errors."""
    owners = cluster.router.get_hosts_for_keys(keys)
    exchanges: dict[int, Exchange] = {}
    for owner, command in zip(owners, commands, strict=True):
        exchange = exchanges.get(owner)
        if exchange is None:
            exchanges[owner] = Exchange(owner, command)
        else:
            exchange.add(command)
    yield tuple(exchanges.values())
    replies: list[Any] = []
    for owner in owners:
        exchange = exchanges[owner]
        if not exchange.replies:
            replies.append(exchange.error)
            continue
        reply = exchange.replies.pop(0)
        if isinstance(reply, Exception):
            reply.args = (at_node(reply, owner, cluster.get_address(owner)),)
        replies.append(reply)
    return replies


def call_nodes(
    cluster: Cluster, commands: Mapping[int, Args]
) -> Batch[Outcome[dict[int, Any]]]:
    """Run one command per node, given as ``{host id: command}``.

    Returns ``{host id: reply}`` for the nodes that answered.
    """
    exchanges = [_exchange_of_one(host_id, args) for host_id, args in commands.items()]
    yield exchanges
    return _collect(cluster, exchanges, {})


def _collect(
    cluster: Cluster, exchanges: Sequence[Exchange], shares: Mapping[int, Sequence[bytes]]
) -> Outcome[dict[int, Any]]:
    """Return the only reply of each exchange by host id, and what failed."""
    replies: dict[int, Any] = {}
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        host_id = exchange.host_id
        error = _error_in(cluster, exchange)
        if error is None:
            replies[host_id] = exchange.replies[0]
        else:
            failures.append(_failure(cluster, host_id, error, shares.get(host_id, ())))
    return replies, failures


# Commands of exactly so many words merge with their neighbours: more would be options.
_MERGED = {"GET": (2, "MGET"), "SET": (3, "MSET")}


def run_commands(
    cluster: Cluster,
    owners: Sequence[int],
    commands: Sequence[Args],
    *,
    merge: bool = False,
    max_concurrency: int | None = None,
) -> Batch[list[Any]]:
    """Run any commands, each on the node that `owners` has in its place.

    Returns what the nodes said, in the order of the commands; an exception where a node
    said nothing of use. Commands for one node run in their order, but one whose script
    the node did not know follows when the others are done.

    Args:
        owners: host ids.
        commands: what is sent, names in upper case as str.
        merge: send adjacent GETs to a node as MGET, and SETs without options as MSET.
        max_concurrency: how many nodes are asked at a time; None for all.
    """
    replies: list[Any] = [None] * len(commands)
    waiting: Iterable[int] = range(len(commands))
    while waiting:
        shares: dict[int, list[int]] = defaultdict(list)
        for position in waiting:
            shares[owners[position]].append(position)
        hosts = list(shares)
        step = max_concurrency or len(hosts)
        for first in range(0, len(hosts), step):
            now = {host_id: shares[host_id] for host_id in hosts[first : first + step]}
            yield from _run_shares(cluster, now, commands, replies, merge=merge)
        waiting, commands = _with_sources(cluster, owners, commands, replies)
    return replies


def _run_shares(
    cluster: Cluster,
    shares: Mapping[int, list[int]],
    commands: Sequence[Args],
    replies: list[Any],
    *,
    merge: bool,
) -> Generator[Sequence[Exchange], None, None]:
    """Ask each node for its share, given as positions in `commands`, and fill `replies`."""
    exchanges: list[Exchange] = []
    merged: list[Sequence[int]] = []
    for host_id, share in shares.items():
        sent = [commands[position] for position in share]
        counts: Sequence[int] = ()
        if merge:
            sent, counts = _merged(sent)
        exchanges.append(_exchange_of(host_id, sent))
        merged.append(counts)
    yield exchanges
    for exchange, counts in zip(exchanges, merged, strict=True):
        said: Iterable[Any] = exchange.replies
        for reply in exchange.replies:
            if isinstance(reply, Exception):
                address = cluster.get_address(exchange.host_id)
                reply.args = (at_node(reply, exchange.host_id, address),)
        if exchange.error is not None:
            said = chain(said, repeat(exchange.error))
        if counts:
            said = _apart(said, counts)
        for position, reply in zip(shares[exchange.host_id], said, strict=False):
            replies[position] = reply


def _merged(commands: Iterable[Args]) -> tuple[list[Args], list[int]]:
    """Return what is sent, and how many of the commands each of it stands for."""
    sent: list[Args] = []
    counts: list[int] = []
    for name, named in groupby(commands, _get_name):
        mergeable, merged_name = _MERGED.get(name, (0, ""))
        for size, group in groupby(named, len):
            if size == mergeable:
                args = tuple(chain.from_iterable(map(_get_arguments, group)))
                count = len(args) // (size - 1)
                sent.append((name if count == 1 else merged_name, *args))
                counts.append(count)
            else:
                sent += group
                counts += repeat(1, len(sent) - len(counts))
    return sent, counts


_get_name = itemgetter(0)
_get_arguments = itemgetter(slice(1, None))


def _apart(said: Iterable[Any], counts: Iterable[int]) -> Iterator[Any]:
    """Yield a reply for each of the commands, of which some were sent as one."""
    for reply, count in zip(said, counts, strict=False):
        if count > 1 and isinstance(reply, list):
            yield from reply  # MGET
        else:
            yield from repeat(reply, count)


def _with_sources(
    cluster: Cluster, owners: Sequence[int], commands: Sequence[Args], replies: Sequence[Any]
) -> tuple[list[int], Sequence[Args]]:
    """Return the positions of commands whose script the node did not know, to run again.

    The first of them for each node and script brings the source along.
    """
    again: list[int] = []
    if not cluster.scripts:
        return again, commands
    sent: set[tuple[int, bytes]] = set()
    for position, reply in enumerate(replies):
        if not isinstance(reply, NoScriptError):
            continue
        name, sha, *rest = commands[position]
        sha = encode_key(sha).lower()
        source = cluster.scripts.get(sha)
        if source is None:
            continue
        if not again:
            commands = list(commands)
        if (owners[position], sha) not in sent:
            sent.add((owners[position], sha))
            eval_name = "EVAL_RO" if encode_key(name).upper().endswith(b"_RO") else "EVAL"
            commands[position] = (eval_name, source, *rest)  # type: ignore[index]
        again.append(position)
    return again, commands
