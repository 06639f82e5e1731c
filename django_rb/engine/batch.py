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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hiredis import pack_command
from redis.exceptions import NoScriptError

from .errors import NodeFailure, at_node
from .exchange import Batch, Buffer, Exchange
from .hashing import encode_key

if TYPE_CHECKING:
    from .connections import Node
    from .routers import BaseRouter

T = TypeVar("T")
Name = TypeVar("Name")

Arg = bytes | str | int | float
Args = tuple[Arg, ...]
Outcome = tuple[T, list[NodeFailure]]

# Commands are joined into pieces of about this many bytes; larger values are not copied.
PIECE_SIZE = 65536

_nothing = dict[str, None]().get  # called with a key, returns None


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


def encode(commands: Iterable[Args]) -> Iterator[Buffer]:
    """Yield the bytes of commands, in pieces of about PIECE_SIZE and large values uncopied."""
    pieces: list[bytes] = []
    size = 0
    for args in commands:
        if any(isinstance(arg, bytes | str) and len(arg) >= PIECE_SIZE for arg in args):
            pieces.append(b"*%d\r\n" % len(args))
            for arg in args:
                data = encode_key(arg)
                pieces.append(b"$%d\r\n" % len(data))
                if len(data) >= PIECE_SIZE:
                    yield b"".join(pieces)
                    yield data
                    pieces, size = [b"\r\n"], 0
                else:
                    pieces += [data, b"\r\n"]
        else:
            piece = pack_command(args)
            pieces.append(piece)
            size += len(piece)
            if size >= PIECE_SIZE:
                yield b"".join(pieces)
                pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _complete(exchanges: Sequence[Exchange]) -> Generator[Sequence[Exchange], None, None]:
    """Run exchanges until each has its replies, or an error that a second try cannot mend."""
    while exchanges:
        yield exchanges
        exchanges = [exchange for exchange in exchanges if exchange.stale]


def _share_out(cluster: Cluster, keys: Sequence[bytes]) -> dict[int, list[bytes]]:
    """Group keys by the node that owns them."""
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(cluster.router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    return shares


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
            return _named(cluster, exchange.host_id, reply)
    return None


def _named(cluster: Cluster, host_id: int, error: Exception) -> Exception:
    error.args = (at_node(error, host_id, cluster.nodes[host_id].address),)
    return error


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
        Exchange(owner, iter((pack_command((b"MGET", *share)),)), 1)
        for owner, share in shares.items()
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
        replies = exchange.replies
        share = shares[exchange.host_id]
        if replies.count(b"OK") == len(share):
            continue
        error = _error_in(cluster, exchange)
        assert error is not None
        unanswered = [NO_ANSWER] * (len(share) - len(replies))
        lost = [key for (key, _), reply in zip(share, replies + unanswered, strict=True)
                if reply != b"OK"]
        failures.append(_failure(cluster, exchange.host_id, error, lost))
    return None, failures


NO_ANSWER = object()


def _encode_sets(
    share: list[tuple[bytes, T]], encode_value: Callable[[T], bytes | int], options: Args
) -> Iterator[Buffer]:
    return encode((b"SET", key, encode_value(value), *options) for key, value in share)


def count(cluster: Cluster, name: bytes, keys: Sequence[bytes]) -> Batch[Outcome[int]]:
    """Run a command that takes any number of keys and counts, such as UNLINK or EXISTS.

    Returns the sum over the nodes.
    """
    shares = _share_out(cluster, keys)
    exchanges = [
        Exchange(owner, iter((pack_command((name, *share)),)), 1)
        for owner, share in shares.items()
    ]
    yield from _complete(exchanges)
    total = 0
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        error = _error_in(cluster, exchange)
        if error is None:
            total += exchange.replies[0]
        else:
            owner = exchange.host_id
            failures.append(_failure(cluster, owner, error, shares[owner]))
    return total, failures


def call(cluster: Cluster, key: bytes, *commands: Args) -> Batch[Outcome[Any]]:
    """Run commands where `key` lives; return the last one's reply, None where it failed."""
    host_id = cluster.router.get_host_for_key(key)
    exchange = Exchange(host_id, encode(commands), len(commands))
    yield from _complete((exchange,))
    reply = exchange.replies[-1] if exchange.replies else None
    if exchange.error is None and not isinstance(reply, Exception):
        return reply, []
    ...


def call_each(cluster, host_ids, args): ...
