"""The nodes of both clusters, and their replies to commands about keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from time import time
from typing import Any

from redis.exceptions import ResponseError

from ...engine import Cluster
from ...engine.protocol.encoding import Args
from ..scanning import Nodes
from .copies import NEVER, Copy, Tally

# Clocks with at most this difference count as equal, in milliseconds, as measurements are not
# exact.
EQUAL_CLOCKS = 1000


@dataclass(frozen=True)
class Facts:
    """What a node reports about itself.

    Attributes:
        identity: of the server process, if known, and the database.
        ahead: milliseconds by which its clock is ahead of ours.
        knows_times: it has PEXPIRETIME, which was added in Redis 7.
    """

    identity: tuple[object, int]
    ahead: int
    knows_times: bool


class Side:
    """The nodes of one of the two clusters.

    Attributes:
        nodes: records which of them have failed.
        facts: by host id, for nodes that have reported them.
    """

    def __init__(self, alias: str, cluster: Cluster, timeout: float | None) -> None:
        self.alias = alias
        self.cluster = cluster
        # To delete what was copied where another node leads would delete the only copy.
        self.nodes = Nodes({alias: cluster}, timeout, follows_redirects=False)
        self.facts: dict[int, Facts] = {}
        self.meet(host_id for _, host_id in self.nodes.addresses)

    def has_failed(self, host_id: int) -> bool:
        """Return whether a node has failed, and is not asked again."""
        return (self.alias, host_id) in self.nodes.failures

    def meet(self, host_ids: Iterable[int]) -> None:
        """Ask nodes about themselves."""
        names = [(self.alias, host_id) for host_id in host_ids]
        began = time()
        told = self.nodes.run(dict.fromkeys(names, (("INFO", "server"), ("TIME",))))
        now = (began + time()) / 2
        versed = self.nodes.run(
            dict.fromkeys(told, (("COMMAND", "INFO", "PEXPIRETIME"),)), keep_errors=True
        )
        for name, (info, clock) in told.items():
            said = self.cluster.prototype.response_callbacks["INFO"](info)
            (command,) = versed.get(name, [None])
            _, host_id = name
            self.facts[host_id] = Facts(
                (said.get("run_id", name), self.cluster.hosts[host_id].db),
                round((int(clock[0]) + int(clock[1]) / 1e6 - now) * 1000),
                isinstance(command, list | dict) and any(command),
            )

    def ask_time(self, host_id: int, key: bytes) -> Args:
        """Return the command that asks when a key expires; see `read_time`."""
        return (b"PEXPIRETIME" if self.facts[host_id].knows_times else b"PTTL", key)

    def read_time(self, host_id: int, reply: int, asked_at: float) -> int:
        """Return when a key expires, in the form of PEXPIRETIME.

        Args:
            reply: to `ask_time`.
            asked_at: Unix time in seconds on our clock.
        """
        facts = self.facts[host_id]
        if facts.knows_times or reply < 0:
            return reply
        return reply + round(asked_at * 1000) + facts.ahead


class Sides:
    """The cluster that has the keys, and the one to copy them to.

    Attributes:
        tally: also counts keys whose node does not answer.
    """

    def __init__(self, old: Side, new: Side) -> None:
        self.old, self.new = old, new
        self.tally = Tally()

    def are_one(self, source: int, owner: int) -> bool:
        """Return whether an old and a new node are the same server and database.

        One server may have several names and addresses.
        """
        old, new = self.old, self.new
        if owner not in new.facts and not new.has_failed(owner):
            new.meet([owner])  # it has joined a Redis Cluster in the meantime
        if old.cluster.get_address(source) == new.cluster.get_address(owner):
            return True
        here, there = old.facts.get(source), new.facts.get(owner)
        return here is not None and there is not None and here.identity == there.identity

    def shift(self, copy: Copy) -> int:
        """Return by how many milliseconds the new node's clock is ahead of the old one's."""
        ahead = self.new.facts[copy.owner].ahead - self.old.facts[copy.source].ahead
        return ahead if abs(ahead) > EQUAL_CLOCKS else 0

    def new_expiry(self, copy: Copy) -> int | None:
        """Return when a copy expires on the new node's clock; None for never."""
        return None if copy.expiry == NEVER else copy.expiry + self.shift(copy)

    def ask(
        self,
        side: Side,
        copies: Iterable[Copy],
        *commands: Callable[[Copy], Args],
        keep_errors: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield copies with the replies of their nodes on one side to commands.

        Those whose node has failed, or replied with an error, are counted and left out.

        Args:
            keep_errors: whether error replies are yielded like others.
        """
        host_of = attrgetter("source" if side is self.old else "owner")
        shares: dict[int, list[Copy]] = defaultdict(list)
        for copy in copies:
            shares[host_of(copy)].append(copy)
        replies = side.nodes.run(
            {
                (side.alias, host_id): [make(copy) for copy in share for make in commands]
                for host_id, share in shares.items()
                if not side.has_failed(host_id)
            },
            keep_errors=True,
        )
        step = len(commands)
        for host_id, share in shares.items():
            said: Sequence[Any] | None = replies.get((side.alias, host_id))
            if said is None:
                for copy in share:
                    self.tally.of(copy).failed += 1
                continue
            for told in zip(share, *(said[n::step] for n in range(step)), strict=True):
                error = next((r for r in told if isinstance(r, ResponseError)), None)
                if error is None or keep_errors:
                    yield told
                else:
                    self.tally.note(told[0], str(error))
