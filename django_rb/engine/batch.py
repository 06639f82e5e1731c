"""Batches: commands grouped by node, run in rounds, put together again. No I/O.

Each function here is a generator that yields the exchanges of a round, to be run side by
side by a transport, and returns an `Outcome`: what the caller asked for, and a list of
`NodeFailure`s. A node that fails takes nothing from the others: their results are in.

Most batches need one round. A second one follows where a connection turned out to be
stale before anything was written, and where a node did not know a script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha1
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis.exceptions import NoScriptError

from .encoding import PIECE_SIZE, Arg, Args, encode, encode_large, pack
from .errors import NodeFailure, at_node
from .exchange import Batch, Buffer, Exchange

if TYPE_CHECKING:
    from .connections import Node
    from .routers import BaseRouter

T = TypeVar("T")
Name = TypeVar("Name")

Outcome = tuple[T, list[NodeFailure]]


class Cluster(Protocol):
    """What batches need of a cluster."""

    @property
    def router(self) -> BaseRouter:
        """Who owns a key."""

    @property
    def nodes(self) -> Mapping[int, Node]:
        """The nodes by host id."""


class Script:
    """A Lua script, sent whole only to nodes that do not know it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()


def _complete(exchanges: Sequence[Exchange]) -> Generator[Sequence[Exchange], None, None]:
    """Run exchanges until each has its replies, or an error that a second try cannot mend."""
    while exchanges:
        yield exchanges
        exchanges = [exchange for exchange in exchanges if exchange.stale]


def _failure(
    cluster: Cluster, host_id: int, error: Exception, keys: Sequence[bytes] = ()
) -> NodeFailure:
    return NodeFailure(host_id, cluster.nodes[host_id].address, error, tuple(keys))


def _error_in(cluster: Cluster, exchange: Exchange) -> Exception | None:
    """Return why an exchange failed, or its first error reply, which then names the node."""
    if exchange.error is not None:
        return exchange.error
    for reply in exchange.replies:
        if isinstance(reply, Exception):
            address = cluster.nodes[exchange.host_id].address
            reply.args = (at_node(reply, exchange.host_id, address),)
            return reply
    return None


def find(
    cluster: Cluster,
    keys: Sequence[bytes],
    names: Iterable[Name],
    decode: Callable[[bytes], T],
) -> Batch[Outcome[dict[Name, T]]]:
    """Look keys up: one MGET per node that owns some of them.

    Returns ``{name: decode(value)}`` for the keys that exist, in the order of the keys.
    """
    owners = cluster.router.get_hosts_for_keys(keys)
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(owners, keys, strict=True):
        shares[owner].append(key)
    exchanges = [
        Exchange(owner, iter((pack((b"MGET", *share)),)), 1) for owner, share in shares.items()
    ]
    yield from _complete(exchanges)
    failures: list[NodeFailure] = []
    next_value: dict[int, Callable[..., bytes | None]] = {}
    for exchange in exchanges:
        owner = exchange.host_id
        error = _error_in(cluster, exchange)
        if error is None:
            values = exchange.replies.pop()
            values.reverse()
            next_value[owner] = values.pop  # gives each value up once it was decoded
        else:
            failures.append(_failure(cluster, owner, error, shares[owner]))
            next_value[owner] = lambda: None
    found = {
        name: decode(value)
        for owner, name in zip(owners, names, strict=True)
        if (value := next_value[owner]()) is not None
    }
    return found, failures


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
        Exchange(owner, _encode_sets(share, encode_value, options), len(share))
        for owner, share in shares.items()
    ]
    yield from _complete(exchanges)
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
    exchanges = [
        Exchange(owner, iter((pack((name, *share)),)), 1) for owner, share in shares.items()
    ]
    yield from _complete(exchanges)
    replies, failures = _collect(cluster, exchanges, shares)
    return sum(replies.values()), failures


def call(cluster: Cluster, key: bytes, *args: Arg) -> Batch[Outcome[Any]]:
    """Run one command where `key` lives; return its reply, None where it failed."""
    replies, failures = yield from pipeline(cluster, key, args)
    return replies[0], failures


def pipeline(cluster: Cluster, key: bytes, *commands: Args) -> Batch[Outcome[list[Any]]]:
    """Run commands where `key` lives, in one go.

    Returns their replies; all are None where one of them failed.
    """
    exchange = Exchange(cluster.router.get_host_for_key(key), encode(*commands), len(commands))
    yield from _complete((exchange,))
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
    exchanges = [Exchange(host_id, encode(args), 1) for host_id, args in commands.items()]
    yield from _complete(exchanges)
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
