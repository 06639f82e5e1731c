"""Asking a node for the layout of its Redis Cluster."""

from __future__ import annotations

import redis
from redis.exceptions import NoPermissionError, ResponseError

from ..errors import at_node
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..protocol.encoding import Args
from ..protocol.exchange import Batch, Exchange, PipelineExchange
from ..rounds.port import Rounds
from ..wording import clause
from .slots_replies import Address, Shard, read_epoch, read_shards, read_slots

_TRIES = 2  # the second on a new connection

_SHARDS: Args = (b"CLUSTER", b"SHARDS")
_SLOTS: Args = (b"CLUSTER", b"SLOTS")
_INFO: Args = (b"CLUSTER", b"INFO")


class Unusable(Exception):
    """The answer is not about this cluster."""


class Answer:
    """The answer of a node.

    Attributes:
        shards: those that own slots.
        epoch: the cluster's current epoch, as far as the node knows; None if unknown.
    """

    def __init__(self, shards: list[Shard], epoch: int | None) -> None:
        self.shards = shards
        self.epoch = epoch


def ask(node: Node) -> Batch[Answer | Exception]:
    """Ask a node for the layout."""
    asked = address_of(node.info)
    for question in (_SHARDS, _SLOTS):
        exchange = PipelineExchange(node.host_id, (question, _INFO))
        exchange.is_question = True
        exchange.bound = range(2)
        yield from _run(exchange)
        if exchange.error is not None:
            return exchange.error
        reply, info = exchange.replies
        if isinstance(reply, ResponseError):
            if "cluster support disabled" in str(reply):
                text = "It is not a node of a cluster (cluster-enabled no)"
                return Unusable(at_node(text, -1, node.address))
            if question is _SHARDS:
                continue
            if isinstance(reply, NoPermissionError):
                reply.args = (f"{reply} Allow +cluster|shards and +cluster|info for the user.",)
            reply.args = (at_node(reply, -1, node.address),)
            return reply
        try:
            if question is _SHARDS:
                shards = read_shards(reply, asked, is_tls=node.info.ssl)
            else:
                shards = read_slots(reply, asked)
        except ValueError as error:
            return Unusable(at_node(error, -1, node.address))
        return Answer(shards, read_epoch(info))
    raise AssertionError  # the second question has an answer


def _run(exchange: Exchange) -> Rounds:
    for _ in range(_TRIES):
        yield (exchange,)
        if not exchange.is_stale:
            return
        exchange.start_over()


def address_of(info: HostInfo) -> Address:
    """Return the address of a server, which identifies it."""
    return info.host.lower(), info.port


def failure_of(reasons: list[Exception]) -> Exception:
    """Return the error if no node has answered about the cluster."""
    are_late = all(isinstance(reason, redis.TimeoutError) for reason in reasons)
    kind: type[Exception] = redis.TimeoutError if are_late else redis.ConnectionError
    said = "; ".join(dict.fromkeys(map(clause, reasons)))
    return kind(f"No node reports the slots of the Redis Cluster. {said}")
