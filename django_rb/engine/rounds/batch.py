"""Batches: commands grouped by node and run in rounds, with combined results. No I/O.

Each function here is a generator that yields the exchanges of a round, which a transport runs
in parallel, and returns an `Outcome`: the result, and a list of `NodeFailure`s. If a node
fails, the results of the others are still returned.

Most batches need one round. What is sent again after it is decided in `again`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, Final, TypeVar, cast

from ..errors import NodeFailure
from ..near.copies import Copies
from ..protocol.answers import answer_to, is_number, is_ok
from ..protocol.encoding import (
    PIECE_SIZE,
    Arg,
    Args,
    Buffer,
    encode_large,
    headers,
    make_set_frame,
)
from ..protocol.exchange import (
    Batch,
    CommandExchange,
    Exchange,
    IsAnswer,
    KeysExchange,
    PipelineExchange,
)
from .by_slot import (
    CountsExchange,
    Decode,
    ValuesExchange,
    decode_replies,
    decode_some,
    decode_values,
)
from .outcomes import Outcome, collected, error_in, failure_at
from .port import Port
from .tracked import MgetExchange, Reading, Tracked, TrackedMget, TrackedSlotValues

T = TypeVar("T")

_ABSENT: Final = object()  # the value of a name in `found` until one is read


def keep_found(
    found: dict[Any, Any], names: list[Any], keys: list[bytes], replies: list[bytes | None]
) -> int:
    """Put stored values into `found` unchanged; return how many keys have none."""
    misses = 0
    for name, data in zip(names, replies, strict=True):
        if data is None:
            misses += 1
        else:
            found[name] = data
    return misses


def find(
    port: Port,
    keys: Sequence[bytes],
    names: Collection[Any] | None = None,
    decode: Decode = keep_found,
    copies: Copies | None = None,
    owners: Sequence[int] | None = None,
) -> Batch[Outcome[dict[Any, Any]]]:
    """Read keys: one MGET per node that owns some of them.

    In a Redis Cluster, it is one pipeline per node.

    Args:
        names: the keys' names in the result; the keys themselves if not given.
        decode: a function like `keep_found`, for one node's keys; called while other nodes
            are still awaited.
        copies: the near copies in which what is read is kept; None for none.
        owners: the hosts that own the keys, if the caller knows them.

    Returns ``{name: value}`` for the keys that exist, in the order of the keys.
    """
    if names is None:
        names = keys
    found = dict.fromkeys(names, _ABSENT)  # fixes the order of the result
    if len(found) != len(keys):  # names may be equal though their keys differ: 1 and True
        distinct = list(dict.fromkeys(keys))
        values, failures = yield from find(port, distinct, None, decode, copies)
        named = zip(names, keys, strict=True)
        return {name: values[key] for name, key in named if key in values}, failures
    shares: dict[int, tuple[list[Any], list[bytes]]] = defaultdict(lambda: ([], []))
    owners = port.router.get_hosts_for_keys(keys) if owners is None else owners
    for owner, name, key in zip(owners, found, keys, strict=True):
        share = shares[owner]
        share[0].append(name)
        share[1].append(key)
    exchanges: list[Exchange] = []
    misses: list[int] = []
    reading = None if copies is None else Reading(copies, keys)
    for owner, share in shares.items():
        exchange = _look_up(port, owner, share[1], reading)
        is_in_parts = isinstance(exchange, ValuesExchange)
        decode_share = decode_replies if is_in_parts else _decode_reply
        exchange.on_done = partial(decode_share, decode, misses, found, *share)
        exchanges.append(exchange)
    if reading is None:
        yield exchanges
    else:
        yield from reading.run(exchanges)
    failures = []
    for exchange in exchanges:
        error = error_in(exchange)
        if error is not None:
            if isinstance(exchange, Tracked):
                exchange.learn()
            names, lost = shares[exchange.host_id]
            if isinstance(exchange, ValuesExchange):
                error, lost = decode_some(exchange, decode, misses, found, names, lost)
                if error is None:
                    continue
            misses.append(len(lost))
            failures.append(failure_at(port, exchange.host_id, error, lost))
    if any(misses):
        found = {name: value for name, value in found.items() if value is not _ABSENT}
    return found, failures


def _look_up(
    port: Port, owner: int, keys: Sequence[bytes], reading: Reading | None
) -> Exchange:
    router = port.router
    if reading is None:
        if router.has_slots:
            return ValuesExchange(owner, keys, router)
        return MgetExchange(owner, keys)
    if router.has_slots:
        return TrackedSlotValues(owner, keys, router, reading)
    return TrackedMget(owner, keys, reading)


def _decode_reply(
    decode: Decode,
    misses: list[int],
    found: dict[Any, Any],
    names: list[Any],
    keys: list[bytes],
    exchange: Exchange,
) -> None:
    if exchange.is_tracked:
        cast(Tracked, exchange).learn()
    misses.append(decode_values(decode, found, names, keys, exchange.replies[0]))
    exchange.replies.clear()


def store(
    port: Port,
    keys: Sequence[bytes],
    values: Iterable[T],
    encode_value: Callable[[T], bytes],
    options: Args = (),
) -> Batch[Outcome[None]]:
    """Store values: one pipeline of SETs with the same options per node.

    Values are encoded as they are sent. Each failure has the keys that were not stored.
    """
    shares: dict[int, tuple[list[bytes], list[T]]] = defaultdict(lambda: ([], []))
    owners = port.router.get_hosts_for_keys(keys)
    for owner, key, value in zip(owners, keys, values, strict=True):
        share = shares[owner]
        share[0].append(key)
        share[1].append(value)
    exchanges = [
        _SetsExchange(owner, *share, encode_value, options) for owner, share in shares.items()
    ]
    yield exchanges
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        error = error_in(exchange)
        if error is not None:
            answers = chain(exchange.replies, repeat(None))
            lost = [
                key
                for key, reply in zip(exchange.keys, answers, strict=False)
                if reply != b"OK"
            ]
            failures.append(failure_at(port, exchange.host_id, error, lost))
    return None, failures


class _SetsExchange(Exchange):
    """SETs with the same options."""

    answers = (is_ok,)

    def __init__(
        self,
        host_id: int,
        keys: list[bytes],
        values: list[Any],
        encode_value: Callable[[Any], bytes],
        options: Args,
    ) -> None:
        pieces = _encode_sets(keys, values, encode_value, options)
        # The first piece is encoded at once, so that errors there are raised before anything
        # is sent.
        super().__init__(host_id, next(pieces), len(keys), pieces)
        self.keys = keys
        self._values = values
        self._encode_value = encode_value
        self._options = options

    def commands(self) -> Sequence[Args]:
        pairs = zip(self.keys, map(self._encode_value, self._values), strict=True)
        return [(b"SET", key, data, *self._options) for key, data in pairs]

    @property
    def only_reads(self) -> bool:
        return False

    def start_over(self) -> None:
        super().start_over()
        self._pieces = _encode_sets(self.keys, self._values, self._encode_value, self._options)
        self.out = next(self._pieces)

    def _check_answers(self, kind: int) -> None:
        if self.replies.count(b"OK") != len(self.keys):
            super()._check_answers(kind)


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


def count(
    port: Port,
    name: bytes,
    keys: Sequence[bytes],
    companion_of: Callable[[bytes], bytes] | None = None,
) -> Batch[Outcome[int]]:
    """Run a command that takes any number of keys and counts, such as UNLINK or EXISTS.

    Args:
        companion_of: returns a key that belongs to each key, on the same node; companions come
            before their keys.

    Returns the sum over the nodes.
    """
    router = port.router
    shares: dict[int, list[bytes]] = defaultdict(list)
    for owner, key in zip(router.get_hosts_for_keys(keys), keys, strict=True):
        shares[owner].append(key)
    sent = shares
    if companion_of is not None:
        sent = {owner: [*map(companion_of, share), *share] for owner, share in shares.items()}
    if router.has_slots:
        # While a slot moves, a command on both a key and its companion would get TRYAGAIN.
        is_apart = companion_of is not None
        counts = [
            CountsExchange(owner, name, share, router, is_apart=is_apart)
            for owner, share in sent.items()
        ]
        yield counts
        again: list[CountsExchange] = []
        if is_apart and any(exchange.went_on for exchange in counts):
            # And then a companion may have been redirected, and run after its key.
            again = [
                CountsExchange(one.host_id, name, shares[one.host_id], router, is_apart=True)
                for one in counts
                if one.went_on
            ]
            yield again
        failures = []
        for share_sent in (*counts, *again):
            error = error_in(share_sent)
            if error is not None:
                lost, owner = set(share_sent.lost), share_sent.host_id
                lost_keys = [key for key in shares[owner] if key in lost]
                failures.append(failure_at(port, owner, error, lost_keys))
        return sum(exchange.total for exchange in counts), failures
    exchanges = [KeysExchange(owner, name, share) for owner, share in sent.items()]
    for exchange in exchanges:
        exchange.answers = (is_number,)
    yield exchanges
    replies, failures = collected(port, exchanges, shares)
    return sum(replies.values()), failures


def call(
    port: Port,
    key: bytes,
    *args: Arg,
    answer: IsAnswer | None = None,
    for_primary: bool = False,
) -> Batch[Outcome[Any]]:
    """Run one command on the node that owns `key`; return its reply, None if it failed.

    Args:
        answer: checks whether a reply can be the answer; by default any can.
        for_primary: a replica must not run it, though it only reads.
    """
    exchange = CommandExchange(port.router.get_host_for_key(key), args)
    if for_primary:
        exchange.is_for_primary = True
    exchange.may_join = exchange.is_whole
    if answer is not None:
        exchange.answers = (answer,)
    yield (exchange,)
    if exchange.error is None and not exchange.has_errors:
        return exchange.replies[0], []
    error = cast(Exception, error_in(exchange))
    return None, [failure_at(port, exchange.host_id, error, (key,))]


def pipeline(
    port: Port,
    key: bytes,
    *commands: Args,
    answers: Sequence[IsAnswer] = (),
    for_primary: bool = False,
    ends_again: bool = False,
) -> Batch[Outcome[list[Any]]]:
    """Run commands as a pipeline on the node that owns `key`.

    Args:
        answers: for each command, checks whether a reply can be its answer.
        for_primary: a replica must not run them, though they only read.
        ends_again: the last one, which returns a number, is run once more if others may have
            run after it, as may happen while a slot moves.

    Returns their replies; all are None if one of them failed.
    """
    exchange = PipelineExchange(port.router.get_host_for_key(key), commands)
    exchange.answers = answers
    exchange.is_for_primary = for_primary
    yield (exchange,)
    error = error_in(exchange)
    if error is None and ends_again and exchange.went_on:
        number, failures = yield from call(port, key, *commands[-1], answer=is_number)
        exchange.replies[-1] += number or 0
        return exchange.replies, failures
    if error is None:
        return exchange.replies, []
    return [None] * len(commands), [failure_at(port, exchange.host_id, error, (key,))]


def call_each(
    port: Port, commands: Mapping[int, Args], answer: IsAnswer | None = None
) -> Batch[Outcome[dict[int, Any]]]:
    """Run one command per node, given as ``{host id: command}``, without redirects.

    Args:
        answer: checks whether a reply can be the answer; by default that of `answer_to`.

    Returns ``{host id: reply}`` for the nodes that answered.
    """
    exchanges = [CommandExchange(host_id, args) for host_id, args in commands.items()]
    for exchange, args in zip(exchanges, commands.values(), strict=True):
        exchange.answers = (answer or answer_to(args),)
        exchange.bound = (0,)
    yield exchanges
    return collected(port, exchanges, {})


def call_nodes(
    port: Port, command: Args, hosts: Iterable[int] | None = None
) -> Batch[Outcome[dict[int, Any]]]:
    """Run one command on some hosts, by default on all; see `call_each`."""
    targets = port.nodes if hosts is None else hosts
    return (yield from call_each(port, dict.fromkeys(targets, command)))
