"""Asking Sentinels, and checking their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import redis
from redis.exceptions import NoPermissionError

from ..errors import at_node
from ..nodes.node import Node
from ..protocol.encoding import Args
from ..protocol.exchange import Exchange, PipelineExchange
from ..protocol.interludes import Race
from ..rounds.port import Rounds
from ..wording import clause
from .sentinel_replies import read_address, read_role
from .slots_replies import Address


@dataclass
class Claim:
    """The primary that a Sentinel reports for a shard, and whether it is accepted.

    Attributes:
        sentinel: the Sentinel.
        address: where its primary is.
        epoch: of the last failover of the shard that the Sentinel knows.
        node: the node at that address; None if it is the known primary.
        refusal: why it is not accepted; None if it is.
        is_outdated: a newer failover is known.
    """

    sentinel: Node
    address: Address
    epoch: int = 0
    node: Node | None = None
    refusal: str | None = None
    is_outdated: bool = False

    def judge(self, asked: Exchange, known_epoch: int) -> None:
        """Set `refusal` if it is not acceptable.

        Args:
            asked: the question to the node for its role.
            known_epoch: of the last failover that is known.
        """
        node = cast(Node, self.node)
        error = error_in(node, asked)
        if error is not None:
            self.refusal = clause(error)
        elif (role := read_role(asked.replies[0])) != "master":
            self.refusal = at_node(f"Its role is {role!r}, not 'master'", -1, node.address)
        elif self.epoch < known_epoch:
            self.is_outdated = True
            text = (
                f"It reports {node.address}, but knows only {self.epoch} of {known_epoch} "
                "failovers"
            )
            self.refusal = at_node(text, -1, self.sentinel.address)


def find_newer(claims: Sequence[Claim], sentinels: int) -> Claim | None:
    """Return the claim that most Sentinels make of a shard, if what is known is outdated.

    Sentinels that were set up again count failovers from the beginning.

    Args:
        claims: their claims about the shard.
        sentinels: how many there are.
    """
    outdated = [claim for claim in claims if claim.is_outdated]
    for claim in outdated:
        agreeing = [other for other in outdated if other.address == claim.address]
        if len(agreeing) > sentinels / 2:
            return claim
    return None


def ask(node: Node, commands: Sequence[Args]) -> Exchange:
    """Return an exchange that asks a node about the topology."""
    exchange = PipelineExchange(node.host_id, commands)
    exchange.is_question = True
    exchange.bound = range(len(commands))
    return exchange


def run(exchanges: Sequence[Exchange]) -> Rounds:
    """Yield a round of questions, and another one of those whose connections were closed."""
    yield exchanges
    stale = [exchange for exchange in exchanges if exchange.is_stale]
    if stale:
        for exchange in stale:
            exchange.start_over()
        yield stale


def race(exchanges: Sequence[Exchange], is_good: Callable[[Exchange], bool]) -> Rounds:
    """Yield a race, and if none decided it, another one of those with closed connections."""
    first = Race(exchanges, is_good)
    yield first
    stale = [exchange for exchange in exchanges if exchange.is_stale]
    if stale and not any(map(first.is_decided_by, exchanges)):
        for exchange in stale:
            exchange.start_over()
        yield Race(stale, is_good)


def tells_all(exchange: Exchange, count: int) -> bool:
    """Return whether a Sentinel's replies have the addresses of all `count` primaries."""
    is_whole = len(exchange.replies) == exchange.count
    return is_whole and all(map(read_address, exchange.replies[:count]))


def error_in(node: Node, exchange: Exchange) -> Exception | None:
    """Return why a node does not answer, or its first error reply, naming it."""
    if exchange.error is not None:
        return exchange.error
    for reply in exchange.replies:
        if isinstance(reply, Exception):
            if isinstance(reply, NoPermissionError):
                reply.args = (f"{reply} Give the user the permissions in docs/sentinel.md.",)
            reply.args = (at_node(reply, -1, node.address),)
            return reply
    if not exchange.replies:  # its connection was closed, as another one has answered
        return redis.ConnectionError(at_node("The connection was closed", -1, node.address))
    return None
