"""How an exchange ends that does not get its replies, whatever transport moves its bytes."""

from __future__ import annotations

import redis

from .connections import Node
from .errors import ProtocolError, at_node
from .exchange import Exchange


class DeadlineError(TimeoutError):
    """The time for the whole call is over."""


def may_go_again(exchange: Exchange, error: Exception) -> bool:
    """Tell whether an exchange may be sent again, as the node had closed its connection.

    Nothing came back on it.
    """
    is_closed = isinstance(error, OSError) and not isinstance(error, TimeoutError)
    return is_closed and (exchange.untouched or exchange.only_reads)


def give_up(
    exchange: Exchange, node: Node, error: Exception, *, is_nodes_fault: bool = True
) -> None:
    """End an exchange, and let the node's health know."""
    failed = to_redis_error(node, error)
    if is_nodes_fault:
        node.failed(failed)
    else:
        node.health.complained(failed)
    exchange.fail(failed)


def to_redis_error(node: Node, error: Exception) -> redis.RedisError:
    """Return the error that a caller sees for what went wrong on the way to a node."""
    failed: redis.RedisError
    if isinstance(error, DeadlineError):
        failed = redis.TimeoutError("Deadline exceeded")
    elif isinstance(error, TimeoutError):
        failed = redis.TimeoutError(str(error) or f"No answer within {node.socket_timeout:g} s")
    elif isinstance(error, OSError):
        failed = redis.ConnectionError(f"Connection lost: {error}")
    else:
        failed = ProtocolError(str(error))
    failed.args = (at_node(failed, node.host_id, node.address),)
    # Its frames refer to the exchange, and that to the error: a cycle.
    failed.__cause__ = error.with_traceback(None)
    return failed
