"""How an exchange ends that does not get its replies, whatever transport moves its bytes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import redis

from ..errors import ProtocolError, RefusedEarly
from ..protocol.exchange import Exchange
from .node import Node

# At most so many connections to a node are being opened at a time, and so many beyond one for
# each node. Who wants more shares those that are under way.
MOST_OPENINGS_PER_NODE = 8
MOST_OPENINGS = 32

# Nodes limit what one caller may send, but to no less than this: servers take no less for
# proto-max-bulk-len and client-query-buffer-limit.
_LEAST_LIMIT = 2**20  # bytes

# Whose wait was longer than it was to be by this part of it was kept from running, by other
# threads or processes, or by what else its event loop had to do.
LATE_PART = 1 / 3

# What the system says to a process that has used up what it may have.
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class CannotOpen(redis.exceptions.ConnectionError):
    """This process lacks what it takes to open a connection; the node is not to blame."""


def is_own_lack(error: BaseException) -> bool:
    """Return whether a connection was not opened for want of something of this process's."""
    seen: list[BaseException] = []  # errors that were raised again may form a circle
    reason: BaseException | None = error
    while reason is not None and reason not in seen:
        if isinstance(reason, CannotOpen) or getattr(reason, "errno", None) in _USED_UP:
            return True
        seen.append(reason)
        reason = reason.__cause__ or reason.__context__
    return False


class DeadlineError(TimeoutError):
    """The time for the whole call is over."""


def give_up(
    exchange: Exchange,
    node: Node,
    error: Exception,
    *,
    is_nodes_fault: bool = True,
    is_new: bool = False,
) -> None:
    """End an exchange, and let the node's health know."""
    give_up_all((exchange,), node, error, is_nodes_fault=is_nodes_fault, is_new=is_new)


def give_up_all(
    exchanges: Sequence[Exchange],
    node: Node,
    error: Exception,
    *,
    is_nodes_fault: bool = True,
    is_new: bool = False,
) -> None:
    """End exchanges that failed together; for the node's health that is one failure.

    Args:
        is_new: the connection was opened for them: the node had answered on it just before.
    """
    excess = _excess(exchanges, error, is_new=is_new)
    errors = [to_redis_error(node, error, excess) for _ in exchanges]  # each caller has its own
    if is_nodes_fault and (not excess or node.health.is_down):
        node.failed(errors[0])
    else:
        node.health.complained(errors[0])
    for exchange, failed in zip(exchanges, errors, strict=True):
        exchange.fail(failed)


def _excess(exchanges: Sequence[Exchange], error: Exception, *, is_new: bool) -> str:
    """Return what was perhaps too much for a node that closed a connection; "" if nothing."""
    if isinstance(error, RefusedEarly):
        return "not all of it was sent yet"
    if not isinstance(error, OSError) or isinstance(error, TimeoutError):
        return ""
    size = sum(exchange.size for exchange in exchanges)
    if size >= _LEAST_LIMIT:
        return (
            f"{size} bytes were to be sent, which may be more than the node's "
            "proto-max-bulk-len or client-query-buffer-limit"
        )
    if is_new and not exchanges[0].untouched:
        return "the answer may be larger than the node's client-output-buffer-limit"
    return ""


def is_blamed_for_deadline(*, is_first: bool, is_heard: bool) -> bool:
    """Tell whether a node has failed that did not answer before the deadline of a call.

    One that was speaking has not, nor one that others had left little time.

    Args:
        is_first: it was asked in the first of the call's rounds.
        is_heard: it said something.
    """
    return is_first and not is_heard


def to_redis_error(node: Node, error: Exception, excess: str = "") -> redis.RedisError:
    """Return the error that a caller sees for what went wrong on the way to a node.

    Args:
        excess: what may have been too much for it.
    """
    failed: redis.RedisError
    if isinstance(error, DeadlineError):
        failed = redis.TimeoutError("Deadline exceeded")
    elif isinstance(error, TimeoutError):
        failed = redis.TimeoutError(str(error) or f"No answer within {node.socket_timeout:g} s")
    elif isinstance(error, OSError):
        failed = redis.ConnectionError(f"Connection lost: {error}")
    else:
        failed = ProtocolError(str(error))
    text = f"{failed}; {excess}" if excess else failed
    failed.args = (node.named(text),)
    # Its frames refer to the exchange, and that to the error: a cycle.
    failed.__cause__ = error.with_traceback(None)
    return failed
