"""Reading and counting keys in a Redis Cluster, where no command takes keys of several slots.

What is one command elsewhere (MGET, UNLINK, EXISTS) is a pipeline here, encoded in one pass: a
command for each key, or for each slot if keys share a hash tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..protocol.answers import are_values, is_number, is_value
from ..protocol.encoding import Arg, Args, encode, encode_each
from ..protocol.exchange import Batch, Exchange
from ..protocol.reader import ReplyReader
from ..routing.routers import BaseRouter
from .port import Layout, Port

# For a key that holds no string, GET returns this error, and MGET nil.
_NO_STRING = "WRONGTYPE"


class SlotsExchange(Exchange):
    """Commands of one name on keys of one node.

    It is encoded when it is sent, while the nodes before it are already working.

    Args:
        name: of the command for one key.
        shared_name: of that for keys of one slot.
        keys: the keys.
        router: knows their slots.
        is_apart: each key has a command of its own, also where some share a hash tag.
    """

    def __init__(
        self,
        host_id: int,
        name: bytes,
        shared_name: bytes,
        keys: Sequence[bytes],
        router: BaseRouter,
        *,
        is_apart: bool = False,
    ) -> None:
        self._shares: list[list[int]] = []  # positions of the keys of each command
        if len(keys) > 1 and not is_apart and router.has_tags(keys):
            self._shares = _by_slot(router.get_places(keys))
        super().__init__(host_id, b"", len(self._shares) or len(keys))
        self.keys = keys
        self._name = name
        self._shared_name = shared_name

    def commands(self) -> Sequence[Args]:  # noqa: D102 (as in Exchange)
        name, keys = self._name, self.keys
        if not self._shares:
            return [(name, key) for key in keys]
        return [
            (self._shared_name, *(keys[position] for position in share))
            if len(share) > 1
            else (name, keys[share[0]])
            for share in self._shares
        ]

    def names(self) -> Sequence[Arg]:  # noqa: D102 (as in Exchange)
        return [command[0] for command in self.commands()]

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:  # noqa: D102 (as in Exchange)
        if self._shares:
            self.out = self._first = b"".join(encode(self.commands()))
        else:
            self.out = self._first = encode_each(self._name, self.keys)
        super().begin(reader, has_pushes)

    @property
    def lost(self) -> list[bytes]:
        """The keys that have no answer but an error, or none at all."""
        answered = [not isinstance(reply, Exception) for reply in self.replies]
        answered += [False] * (self.count - len(answered))
        shares: Iterable[Sequence[int]] = self._shares or ((n,) for n in range(self.count))
        return [
            self.keys[position]
            for share, is_answered in zip(shares, answered, strict=True)
            if not is_answered
            for position in share
        ]


class ValuesExchange(SlotsExchange):
    """GETs, and MGETs for keys that share a hash tag."""

    def __init__(self, host_id: int, keys: Sequence[bytes], router: BaseRouter) -> None:
        super().__init__(host_id, b"GET", b"MGET", keys, router)
        self.answers = (is_value,)
        if self._shares:
            self.answers = [_answer_to_share(len(share)) for share in self._shares]

    def _check_answers(self, kind: int) -> None:
        if self._shares or not are_values(self.replies, self.count):
            super()._check_answers(kind)

    def learn(self) -> None:
        """Update near copies, if there are any, when all is read."""

    def settle(self) -> None:
        """Treat keys that hold no string as missing, as MGET does."""
        for position, reply in enumerate(self.replies):
            if isinstance(reply, ResponseError) and str(reply).startswith(_NO_STRING):
                self.replies[position] = None
        if self.error is None:
            self.has_errors = any(isinstance(reply, Exception) for reply in self.replies)

    def values(self) -> list[Any]:
        """Return what is stored for each key, None for nothing, or the error instead."""
        replies = self.replies
        missing = self.count - len(replies)
        if missing:
            replies = [*replies, *[self.error] * missing]
        if not self._shares:
            return replies
        values: list[Any] = [None] * len(self.keys)
        for share, reply in zip(self._shares, replies, strict=True):
            parts = [reply] * len(share)
            if len(share) > 1 and isinstance(reply, list):
                parts = reply
            for position, value in zip(share, parts, strict=True):
                values[position] = value
        return values


class CountsExchange(SlotsExchange):
    """Commands that count keys, such as UNLINK and EXISTS."""

    answers = (is_number,)

    def __init__(
        self,
        host_id: int,
        name: bytes,
        keys: Sequence[bytes],
        router: BaseRouter,
        *,
        is_apart: bool = False,
    ) -> None:
        super().__init__(host_id, name, name, keys, router, is_apart=is_apart)

    @property
    def total(self) -> int:
        """The sum of what was counted."""
        return sum(reply for reply in self.replies if type(reply) is int)


def _answer_to_share(size: int) -> Any:
    if size == 1:
        return is_value
    return lambda reply, _kind: are_values(reply, size)


def _by_slot(slots: Sequence[int]) -> list[list[int]]:
    """Return the positions of the keys of each slot."""
    shares: dict[int, list[int]] = {}
    for position, slot in enumerate(slots):
        shares.setdefault(slot, []).append(position)
    return list(shares.values())


# Puts what a node replied for some keys into a dictionary of values by name, and returns how
# many of the keys have none. Its arguments: that dictionary, the keys' names, the keys, and for
# each of them what is stored, or None.
Decode = Callable[[dict[Any, Any], list[Any], list[bytes], list[bytes | None]], int]


def decode_replies(
    decode: Decode,
    misses: list[int],
    found: dict[Any, Any],
    names: list[Any],
    keys: list[bytes],
    exchange: Exchange,
) -> None:
    """Decode the replies of a `ValuesExchange`, none of which is an error."""
    assert isinstance(exchange, ValuesExchange)
    if exchange.is_tracked:
        exchange.learn()
    misses.append(decode_values(decode, found, names, keys, exchange.values()))
    exchange.replies.clear()


def decode_values(
    decode: Decode,
    found: dict[Any, Any],
    names: list[Any],
    keys: list[bytes],
    values: list[bytes | None],
) -> int:
    """Do what `decode` does, without a look at each value if there is none."""
    if values and values[0] is None and values.count(None) == len(values):
        return len(values)
    return decode(found, names, keys, values)


def decode_some(
    exchange: ValuesExchange,
    decode: Decode,
    misses: list[int],
    found: dict[Any, Any],
    names: list[Any],
    keys: list[bytes],
) -> tuple[Exception | None, list[bytes]]:
    """Decode the replies that are no errors; return the first error, and the unread keys."""
    exchange.settle()
    values = exchange.values()
    answered = [n for n, value in enumerate(values) if not isinstance(value, Exception)]
    misses.append(
        decode(
            found,
            [names[n] for n in answered],
            [keys[n] for n in answered],
            [values[n] for n in answered],
        )
    )
    error = exchange.error or next(filter(_is_error, exchange.replies), None)
    return error, exchange.lost


def _is_error(reply: Any) -> bool:
    return isinstance(reply, Exception)


def owned(
    port: Port, layout: Layout, pages: Mapping[int, list[bytes]]
) -> Batch[dict[int, list[bytes]]]:
    """Return pages of keys without those whose slot another host owns.

    While a slot moves from one node to another, both may have keys of it. Before keys are left
    out, the nodes are asked for the current owners.
    """
    kept = _owned(port.router, pages)
    if kept != pages:
        layout.want_look()
        yield from layout.look_if_due()
        kept = _owned(port.router, pages)
    return kept


def _owned(router: BaseRouter, pages: Mapping[int, list[bytes]]) -> dict[int, list[bytes]]:
    return {
        host_id: [
            key
            for key, owner in zip(keys, router.get_hosts_for_keys(keys), strict=True)
            if owner == host_id
        ]
        for host_id, keys in pages.items()
    }
