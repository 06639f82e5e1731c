"""One script for many keys of a node, or for each where nodes place keys by slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from ...engine.protocol.encoding import PIECE_SIZE, Arg, Args, Buffer, encode_keys
from ...engine.protocol.exchange import Batch, Exchange
from ...engine.rounds.port import Port

# Keys of one script: a node does nothing else while it runs.
MOST_KEYS = 200

# Some keys, and what was replied for them; or why there is no reply.
Answer = tuple[list[bytes], list[Any] | Exception]


def ask_in_groups(
    port: Port,
    owners: Mapping[bytes, int],
    name: bytes,
    make_arguments: Callable[[list[bytes]], list[bytes]],
) -> Batch[list[Answer]]:
    """Run a script on keys, all nodes at once: on many together, or on each in a Redis Cluster.

    Args:
        owners: the keys, and the hosts that own them.
        name: EVALSHA or EVALSHA_RO.
        make_arguments: is given some keys. The script replies an array, with an element for
            each of them, or several.
    """
    size = 1 if port.router.has_slots else MOST_KEYS
    shares: dict[int, list[bytes]] = defaultdict(list)
    for key, owner in owners.items():
        shares[owner].append(key)
    exchanges = []
    groups: list[list[list[bytes]]] = []
    for owner, share in shares.items():
        of_node = [share[at : at + size] for at in range(0, len(share), size)]
        groups.append(of_node)
        exchanges.append(_GroupsExchange(owner, name, list(map(make_arguments, of_node))))
    yield exchanges
    answers: list[Answer] = []
    for exchange, of_node in zip(exchanges, groups, strict=True):
        replies = exchange.replies
        if exchange.error is not None:
            replies = [*replies, *repeat(exchange.error, len(of_node) - len(replies))]
        answers += zip(of_node, replies, strict=True)
    return answers


class _GroupsExchange(Exchange):
    """Commands whose arguments are bytes, encoded as the socket drains."""

    def __init__(self, host_id: int, name: bytes, arguments: Sequence[Sequence[bytes]]) -> None:
        self._name = name
        self._arguments = arguments
        pieces = self._encoded()
        super().__init__(host_id, next(pieces), len(arguments), pieces)
        self.answers = (_is_list,)

    def commands(self) -> Sequence[Args]:
        return [(self._name, *arguments) for arguments in self._arguments]

    def names(self) -> Iterable[Arg]:
        return (self._name,)

    def start_over(self) -> None:
        super().start_over()
        self._pieces = self._encoded()
        self.out = next(self._pieces)

    def _encoded(self) -> Iterator[Buffer]:
        pieces: list[bytes] = []
        size = 0
        for arguments in self._arguments:
            pieces.append(encode_keys(self._name, arguments))
            size += len(pieces[-1])
            if size >= PIECE_SIZE:
                yield b"".join(pieces)
                pieces, size = [], 0
        if pieces:
            yield b"".join(pieces)


def _is_list(reply: Any, _kind: int) -> bool:
    return type(reply) is list
