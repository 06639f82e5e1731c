"""Batches: commands grouped by node, run in rounds, put together again. No I/O.

Each function here is a generator that yields the exchanges of a round, to be run side by
side by a transport, and returns an `Outcome`: what the caller asked for, and a list of
`NodeFailure`s. A node that fails takes nothing from the others: their results are in.

Most batches need one round. A second one follows where a node did not know a script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha1
from itertools import chain, groupby, repeat
from operator import call as operator_call
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis.exceptions import NoScriptError

from .encoding import PIECE_SIZE, Arg, Args, encode, encode_large, is_large, pack
from .errors import NodeFailure, at_node
from .exchange import Batch, Buffer, Exchange
from .hashing import encode_key

if TYPE_CHECKING:
    from .routers import BaseRouter

T = TypeVar("T")

Outcome = tuple[T, list[NodeFailure]]


class Cluster(Protocol):
    """What batches need of a cluster."""

    @property
    def router(self) -> BaseRouter:
        """Who owns a key."""

    def get_address(self, host_id: int) -> str:
        """Return where a node is, for errors."""


class Script:
    """A Lua script, sent whole only to nodes that do not know it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str | bytes) -> None:
        self.source = encode_key(source)
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


def _exchange(host_id: int, pieces: Iterator[Buffer], count: int) -> Exchange:
    # The first piece is made at once: what cannot be encoded fails before anything is sent.
    return Exchange(host_id, next(pieces), count, pieces)


def _exchange_of_one(host_id: int, args: Args) -> Exchange:
    if is_large(args):
        return _exchange(host_id, encode_large(args), 1)
    return Exchange(host_id, pack(args))


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


def find(cluster: Cluster, keys: Sequence[bytes]) -> Batch[Outcome[Iterator[bytes | None]]]:
    """Look keys up: one MGET per node that owns some of them.

    Returns the values in the order of the keys, None for keys that do not exist or whose
    node failed. Each value is given up once it was taken.
    """
    owners = cluster.router.get_hosts_for_keys(keys)
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(owners, keys, strict=True):
        shares[owner].append(key)
    exchanges = [Exchange(owner, pack((b"MGET", *share))) for owner, share in shares.items()]
    yield exchanges
    failures: list[NodeFailure] = []
    next_value: dict[int, Callable[..., bytes | None]] = {}
    for exchange in exchanges:
        owner = exchange.host_id
        error = _error_in(cluster, exchange)
        if error is None:
            values = exchange.replies.pop()
            values.reverse()
            next_value[owner] = values.pop
        else:
            failures.append(_failure(cluster, owner, error, shares[owner]))
            next_value[owner] = lambda: None
    # For each key its owner's pop(), called: a loop in C.
    return map(operator_call, map(next_value.__getitem__, owners)), failures


def store(
    cluster: Cluster,
    keys: Sequence[bytes],
    values: Iterable[T],
    encode_value: Callable[[T], bytes | int],
    options: Args = (),
) -> Batch[Outcome[None]]:
    """Store values: one pipeline of SETs with the same options per node.

    Values are encoded as the socket drains. Each failure carries the keys not stored.
    """
    shares: dict[int, list[tuple[bytes, T]]] = defaultdict(list)
    owners = cluster.router.get_hosts_for_keys(keys)
    for owner, key, value in zip(owners, keys, values, strict=True):
        shares[owner].append((key, value))
    exchanges = [
        _exchange(owner, _encode_sets(share, encode_value, options), len(share))
        for owner, share in shares.items()
    ]
    yield exchanges
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        replies, share = exchange.replies, shares[exchange.host_id]
        error = exchange.error
        if error is None:
            if replies.count(b"OK") == len(share):
                continue
            error = _error_in(cluster, exchange)
            assert error is not None
        answers = chain(replies, repeat(None))
        lost = [key for (key, _), reply in zip(share, answers, strict=False) if reply != b"OK"]
        failures.append(_failure(cluster, exchange.host_id, error, lost))
    return None, failures


def _encode_sets(
    share: list[tuple[bytes, T]], encode_value: Callable[[T], bytes | int], options: Args
) -> Iterator[Buffer]:
    """Yield the bytes of many SETs, in pieces of about PIECE_SIZE. A hot loop."""
    piece_size = PIECE_SIZE
    pieces: list[bytes] = []
    size = 0
    for key, value in share:
        data = encode_value(value)
        if type(data) is bytes:
            size += len(data)
            if size >= piece_size:
                if pieces:
                    yield b"".join(pieces)
                    pieces = []
                size = len(data)
                if size >= piece_size:
                    yield from encode_large((b"SET", key, data, *options))
                    size = 0
                    continue
        pieces.append(pack((b"SET", key, data, *options)))
    if pieces:
        yield b"".join(pieces)


def count(cluster: Cluster, name: bytes, keys: Sequence[bytes]) -> Batch[Outcome[int]]:
    """Run a command that takes any number of keys and counts, such as UNLINK or EXISTS.

    Returns the sum over the nodes.
    """
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(cluster.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    exchanges = [Exchange(owner, pack((name, *share))) for owner, share in shares.items()]
    yield exchanges
    replies, failures = _collect(cluster, exchanges, shares)
    return sum(replies.values()), failures


def call(cluster: Cluster, key: bytes, *args: Arg) -> Batch[Outcome[Any]]:
    """Run one command where `key` lives; return its reply, None where it failed."""
    exchange = _exchange_of_one(cluster.router.get_host_for_key(key), args)
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
    exchange = _exchange(host_id, encode(commands), len(commands))
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


class Command:
    """One command for one node, and where its reply goes.

    Attributes:
        args: name and arguments, as they are sent.
        reply: what the node said, or the exception why it said nothing of use.
    """

    __slots__ = ("args", "host_id", "may_merge", "reply")

    def __init__(self, host_id: int, args: Args, *, may_merge: bool = False) -> None:
        self.host_id = host_id
        self.args = args
        self.may_merge = may_merge
        self.reply: Any = None


def run_commands(
    cluster: Cluster,
    commands: Sequence[Command],
    scripts: Mapping[bytes, bytes],
    max_concurrency: int | None = None,
) -> Batch[None]:
    """Run any commands on any nodes; each gets its own reply.

    Args:
        commands: those for one node run in their order; a script that the node did not
            know comes after them.
        scripts: the sources of Lua scripts by their SHA1 digests, for nodes that do not
            know them.
        max_concurrency: how many nodes are asked at a time; None for all.
    """
    while commands:
        shares: dict[int, list[Command]] = defaultdict(list)
        for command in commands:
            shares[command.host_id].append(command)
        hosts = list(shares)
        step = max_concurrency or len(hosts)
        for first in range(0, len(hosts), step):
            yield from _run_shares(
                cluster, {host: shares[host] for host in hosts[first : first + step]}
            )
        commands = _with_sources(commands, scripts)


def _run_shares(
    cluster: Cluster, shares: Mapping[int, list[Command]]
) -> Generator[Sequence[Exchange], None, None]:
    merged = {host_id: list(_merged(share)) for host_id, share in shares.items()}
    exchanges = [
        _exchange(host_id, encode(args for args, _ in share), len(share))
        for host_id, share in merged.items()
    ]
    yield exchanges
    for exchange in exchanges:
        address = cluster.get_address(exchange.host_id)
        answers = chain(exchange.replies, repeat(exchange.error))
        for (args, share), reply in zip(merged[exchange.host_id], answers, strict=False):
            if isinstance(reply, Exception):
                if reply is not exchange.error:
                    reply.args = (at_node(reply, exchange.host_id, address),)
                for command in share:
                    command.reply = reply
            elif len(share) == 1:
                share[0].reply = reply
            elif args[0] == b"MGET":
                for command, value in zip(share, reply, strict=True):
                    command.reply = value
            else:
                for command in share:
                    command.reply = reply


def _merged(commands: Sequence[Command]) -> Iterator[tuple[Args, list[Command]]]:
    """Yield what is sent, and the commands it answers: adjacent GETs as MGET, SETs as MSET."""
    for name, group in groupby(commands, lambda c: c.args[0] if c.may_merge else None):
        share = list(group)
        if name is None or len(share) == 1:
            for command in share:
                yield command.args, [command]
        else:
            args = chain.from_iterable(command.args[1:] for command in share)
            yield (b"MGET" if name == "GET" else b"MSET", *args), share


def _with_sources(commands: Sequence[Command], scripts: Mapping[bytes, bytes]) -> list[Command]:
    """Return the commands whose script the node did not know, to run again.

    The first of them for each node and script brings the source along.
    """
    again: list[Command] = []
    sent: set[tuple[int, bytes]] = set()
    for command in commands:
        if not isinstance(command.reply, NoScriptError):
            continue
        name, sha, *rest = command.args
        sha = encode_key(sha).lower()
        source = scripts.get(sha)
        if source is None:
            continue
        if (command.host_id, sha) not in sent:
            sent.add((command.host_id, sha))
            eval_name = "EVAL_RO" if encode_key(name).upper().endswith(b"_RO") else "EVAL"
            command.args = (eval_name, source, *rest)
        again.append(command)
    return again
