"""The replicas of shards, and which of them is read from next.

They have host ids of their own, below 0, and connections of their own: what is a replica's does
not become a primary's when the parts are swapped.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic
from typing import Any

from ..errors import BadHostSetup
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..protocol.exchange import Batch, Exchange, PipelineExchange
from ..wording import did_you_mean, masked
from .look_times import LookTimes
from .questions import address_of
from .slots_replies import Address

PRIMARY, PREFER_PRIMARY, PREFER_REPLICA = "primary", "prefer-primary", "prefer-replica"

CHOICES = (PRIMARY, PREFER_PRIMARY, PREFER_REPLICA)

_FIRST_ID = -2_000_000

# Seconds between two looks at how far replicas are behind, where MAX_LAG is given.
LAG_PERIOD = 1.0

# So many looks at a primary are remembered.
_MOST_LOOKS = 600


@dataclass(frozen=True)
class ReadFrom:
    """Where reads go.

    Attributes:
        choice: READ_FROM.
        max_lag: MAX_LAG: seconds by which a replica that is read from may be behind; None for
            any.
    """

    choice: str = PRIMARY
    max_lag: float | None = None

    @property
    def reads_replicas(self) -> bool:
        """Whether replicas are of any use."""
        return self.choice != PRIMARY


def read_read_from(choice: object, max_lag: Any) -> ReadFrom:
    """Return what READ_FROM and MAX_LAG say.

    Raises:
        BadHostSetup: one of them cannot be.
    """
    if choice is None:
        choice = PRIMARY
    if choice not in CHOICES:
        raise BadHostSetup(
            f"{masked(choice)} is not a place to read from. {did_you_mean(choice, CHOICES)}",
            ("READ_FROM",),
        )
    if max_lag is not None and not _is_time(max_lag):
        raise BadHostSetup(
            f"{masked(max_lag)} is not a time in seconds above 0. None lets replicas be as far "
            "behind as they are.",
            ("MAX_LAG",),
        )
    if max_lag is not None and choice == PRIMARY:
        raise BadHostSetup(
            "It is for reads from replicas. Leave it out, or set 'READ_FROM'.", ("MAX_LAG",)
        )
    return ReadFrom(str(choice), max_lag)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


@dataclass
class _Written:
    """How far a primary had come, and when."""

    looks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MOST_LOOKS))

    def behind(self, offset: int, now: float) -> float:
        """Return for how many seconds there has been more than a replica has."""
        return next((now - when for when, written in self.looks if written > offset), 0.0)


class Replicas:
    """The replicas of a cluster's shards.

    Args:
        read_from: what they are for.
        make_node: makes a node of what is known of it.

    Attributes:
        measures_lag: it is looked at how far they are behind.
        by_shard: the replicas of each, by the shard's host id.
        by_id: all of them, by host ids of their own.
        lag: by how many seconds each was behind when it was last looked at; infinite for one
            that has lost its primary and does not know since when. Empty without MAX_LAG.
        times: when it is looked at how far they are behind.
    """

    def __init__(self, read_from: ReadFrom, make_node: Callable[[HostInfo], Node]) -> None:
        self.read_from = read_from
        self.measures_lag = read_from.max_lag is not None
        self._make_node = make_node
        self.by_shard: dict[int, list[Node]] = {}
        self.by_id: dict[int, Node] = {}
        self.lag: dict[Node, float] = {}
        self.times = LookTimes(LAG_PERIOD / 2, LAG_PERIOD)
        self._ids = count(_FIRST_ID, -1)
        self._shards: dict[int, int] = {}
        self._addresses: dict[int, str] = {}
        self._written: dict[int, _Written] = {}
        self._turns: dict[int, Iterator[int]] = defaultdict(count)

    def learn(self, told: Mapping[int, Iterable[HostInfo]]) -> bool:
        """Know the replicas of each shard from now on; return whether that is new."""
        if not self.read_from.reads_replicas:
            return False
        known = {
            (shard, address_of(node.info)): node
            for shard, nodes in self.by_shard.items()
            for node in nodes
        }
        by_shard: dict[int, list[Node]] = {}
        for shard, infos in told.items():
            by_shard[shard] = [
                known.get((shard, address_of(info))) or self._make(info) for info in infos
            ]
        if by_shard == self.by_shard:
            return False
        # Of those that are gone as well: calls on their way to them go on elsewhere.
        self._shards |= {node.host_id: s for s, nodes in by_shard.items() for node in nodes}
        self.by_id = {node.host_id: node for nodes in by_shard.values() for node in nodes}
        self._addresses |= {host_id: node.address for host_id, node in self.by_id.items()}
        self.by_shard = by_shard
        return True

    def _make(self, info: HostInfo) -> Node:
        return self._make_node(replace(info, host_id=next(self._ids), replicas=()))

    def get_shard(self, host_id: int) -> int:
        """Return the shard that a host is a replica of; the host itself if it is none."""
        return self._shards.get(host_id, host_id)

    def get_address(self, host_id: int) -> str | None:
        """Return where a replica is, or was; None for a host that is none."""
        return self._addresses.get(host_id)

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them.

        Replicas take turns. One that is down is passed over until it is time to probe it, and
        so are one that has just said that it cannot answer, and one too far behind.
        """
        replicas = self.by_shard.get(shard)
        if not replicas:
            return (shard,)
        start = next(self._turns[shard]) % len(replicas)
        ids = [n.host_id for n in (*replicas[start:], *replicas[:start]) if self._is_usable(n)]
        if self.read_from.choice == PREFER_REPLICA:
            return (*ids, shard)
        return (shard, *ids)

    def _is_usable(self, node: Node) -> bool:
        if not node.health.may_be_asked or node.is_unready:
            return False
        max_lag = self.read_from.max_lag
        return max_lag is None or self.lag.get(node, 0.0) <= max_lag

    # How far they are behind.

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to look how far they are behind."""
        return self.measures_lag and bool(self.by_id) and self.times.is_due

    def look_if_due(self, primaries: Mapping[int, Node]) -> Batch[None]:
        """Ask how far replicas are behind, if it is time and nobody else does."""
        if self.is_look_due and self.times.begin():
            is_cut_short = True
            try:
                yield from self._look(primaries)
                is_cut_short = False
            finally:
                self.times.end()
                self.times.plan(False, is_cut_short=is_cut_short, is_calm=True)

    def _look(self, primaries: Mapping[int, Node]) -> Batch[None]:
        by_shard = self.by_shard
        shards = [shard for shard, nodes in by_shard.items() if nodes and shard in primaries]
        asked = {shard: _ask(primaries[shard]) for shard in shards}
        answers = {node: _ask(node) for shard in shards for node in by_shard[shard]}
        yield [*asked.values(), *answers.values()]
        now = monotonic()
        lag: dict[Node, float] = {}
        for shard in shards:
            said = _fields(asked[shard])
            written = self._written.setdefault(shard, _Written())
            if said.get("role") == "master":
                written.looks.append((now, int(said.get("master_repl_offset", 0))))
            for node in by_shard[shard]:
                fields = _fields(answers[node])
                if fields:
                    lag[node] = _lag(fields, written, now)
        self.lag = lag


def _ask(node: Node) -> Exchange:
    exchange = PipelineExchange(node.host_id, [(b"INFO", b"replication")])
    exchange.is_question = True
    exchange.bound = (0,)
    return exchange


def _fields(exchange: Exchange) -> dict[str, str]:
    """Return what INFO says; nothing where there is no answer."""
    reply: Any = exchange.replies[0] if exchange.replies else None
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return {
        name: value for name, colon, value in (line.partition(":") for line in lines) if colon
    }


def _lag(fields: Mapping[str, str], written: _Written, now: float) -> float:
    """Return by how many seconds a replica is behind, from what it says of itself."""
    if fields.get("role") != "slave":
        return float("inf")
    if fields.get("master_link_status") != "up":
        seconds = float(fields.get("master_link_down_since_seconds", -1))
        return seconds if seconds >= 0 else float("inf")
    return written.behind(int(fields.get("slave_repl_offset", 0)), now)


def infos_at(likeness: HostInfo, places: Iterable[Address]) -> list[HostInfo]:
    """Return what is known of nodes at some places that are spoken to like another one."""
    return [replace(likeness, host=host, port=port) for host, port in places]
