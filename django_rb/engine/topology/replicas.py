"""The replicas of shards, and which of them is read from next.

They have host ids of their own, below 0, and connections of their own: after a failover, the
connections of a replica are not used for the primary.
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

# Seconds between two measurements of the replicas' lag, if MAX_LAG is set.
LAG_PERIOD = 1.0

# How many measurements of a primary are remembered.
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
        """Whether replicas are read from at all."""
        return self.choice != PRIMARY


def read_read_from(choice: object, max_lag: Any) -> ReadFrom:
    """Return READ_FROM and MAX_LAG, checked.

    Raises:
        BadHostSetup: one of them is invalid.
    """
    if choice is None:
        choice = PRIMARY
    if choice not in CHOICES:
        raise BadHostSetup(
            f"{masked(choice)} is not a valid choice. {did_you_mean(choice, CHOICES)}",
            ("READ_FROM",),
        )
    if max_lag is not None and not _is_time(max_lag):
        raise BadHostSetup(
            f"{masked(max_lag)} is not a time in seconds above 0. Use None for no limit.",
            ("MAX_LAG",),
        )
    if max_lag is not None and choice == PRIMARY:
        raise BadHostSetup(
            "It only applies to reads from replicas. Leave it out, or set 'READ_FROM'.",
            ("MAX_LAG",),
        )
    return ReadFrom(str(choice), max_lag)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


@dataclass
class _Written:
    """The replication offsets of a primary, and when it had them."""

    looks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MOST_LOOKS))

    def behind(self, offset: int, now: float) -> float:
        """Return for how many seconds the primary has had more than a replica's offset."""
        return next((now - when for when, written in self.looks if written > offset), 0.0)


class Replicas:
    """The replicas of a cluster's shards.

    Args:
        read_from: where reads go.
        make_node: creates a node.

    Attributes:
        measures_lag: the replicas' lag is measured.
        by_shard: the replicas of each shard, by the shard's host id.
        by_id: all of them, by their own host ids.
        lag: how many seconds each replica was behind at the last measurement; infinite for one
            that has lost its primary and does not know since when. Empty without MAX_LAG.
        times: when the lag is measured.
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
        """Set the replicas of each shard; return whether they have changed."""
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
        # Removed replicas are kept here: running calls to them continue on other nodes.
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

        Replicas take turns. A replica is skipped if it is down, until it is time to probe it;
        if it has just replied that it cannot answer; and if its lag is too large.
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
        """Whether it is time to measure their lag."""
        return self.measures_lag and bool(self.by_id) and self.times.is_due

    def look_if_due(self, primaries: Mapping[int, Node]) -> Batch[None]:
        """Measure the replicas' lag, if it is time and no other caller does."""
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
    """Return the fields of INFO; empty if there is no answer."""
    reply: Any = exchange.replies[0] if exchange.replies else None
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return {
        name: value for name, colon, value in (line.partition(":") for line in lines) if colon
    }


def _lag(fields: Mapping[str, str], written: _Written, now: float) -> float:
    """Return how many seconds a replica is behind, from its INFO."""
    if fields.get("role") != "slave":
        return float("inf")
    if fields.get("master_link_status") != "up":
        seconds = float(fields.get("master_link_down_since_seconds", -1))
        return seconds if seconds >= 0 else float("inf")
    return written.behind(int(fields.get("slave_repl_offset", 0)), now)


def infos_at(likeness: HostInfo, places: Iterable[Address]) -> list[HostInfo]:
    """Return the `HostInfo` of nodes at some addresses, with the options of another node."""
    return [replace(likeness, host=host, port=port) for host, port in places]
