"""One script for many keys of a node, or for each key in a Redis Cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from ...engine.protocol.encoding import Arg, Args, Buffer, encode_keys, in_pieces
from ...engine.protocol.exchange import Batch, Exchange
from ...engine.rounds.port import Port

# The maximum number of keys of one script, because it blocks the node while it runs: about
# a millisecond for so many.
MOST_KEYS = 400

# Keys, and the replies for them; or why there are none.
Answer = tuple[list[bytes], list[Any] | Exception]


class Script:
    """A script on any number of keys, whose reply is an array."""

    name: bytes  # EVALSHA or EVALSHA_RO

    def arguments(self, keys: list[bytes]) -> list[bytes]:
        """Return the arguments of the command for these keys."""
        raise NotImplementedError

    def encode(self, keys: list[bytes]) -> bytes:
        """Return the encoded command for these keys."""
        return encode_keys(self.name, self.arguments(keys))


def ask_in_groups(
    port: Port,
    script: Script,
    keys: Iterable[bytes],
    owners: Iterable[int],
    most_keys: int = MOST_KEYS,
) -> Batch[list[Answer]]:
    """Run a script on keys of all nodes in parallel: on groups, or each key in a Redis Cluster.

    Args:
        owners: the hosts that own the keys.
        most_keys: the maximum number of keys of one command.
    """
    size = 1 if port.router.has_slots else most_keys
    shares: dict[int, list[bytes]] = defaultdict(list)
    for key, owner in zip(keys, owners, strict=True):
        shares[owner].append(key)
    exchanges = []
    groups: list[list[list[bytes]]] = []
    for owner, share in shares.items():
        of_node = [share[at : at + size] for at in range(0, len(share), size)]
        groups.append(of_node)
        exchanges.append(_GroupsExchange(owner, script, of_node))
    yield exchanges
    answers: list[Answer] = []
    for exchange, of_node in zip(exchanges, groups, strict=True):
        replies = exchange.replies
        if exchange.error is not None:
            replies = [*replies, *repeat(exchange.error, len(of_node) - len(replies))]
        answers += zip(of_node, replies, strict=True)
    return answers


class _GroupsExchange(Exchange):
    """A script on groups of keys, encoded as the socket drains."""

    is_for_primary = True  # a replica may still have what was deleted

    def __init__(self, host_id: int, script: Script, groups: Sequence[list[bytes]]) -> None:
        self._script = script
        self._groups = groups
        pieces = self._encoded()
        super().__init__(host_id, next(pieces), len(groups), pieces)
        self.answers = (_is_list,)

    def commands(self) -> Sequence[Args]:
        script = self._script
        return [(script.name, *script.arguments(group)) for group in self._groups]

    def names(self) -> Sequence[Arg]:
        return (self._script.name,)

    def start_over(self) -> None:
        super().start_over()
        self._pieces = self._encoded()
        self.out = next(self._pieces)

    def _check_answers(self, kind: int) -> None:
        if set(map(type, self.replies)) != {list}:
            super()._check_answers(kind)

    def _encoded(self) -> Iterator[Buffer]:
        return in_pieces(map(self._script.encode, self._groups))


def _is_list(reply: Any, _kind: int) -> bool:
    return type(reply) is list
