"""How exchanges fail, in threads as on event loops: errors, and who is to blame."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import redis

from ..errors import CannotOpen, ProtocolError, RefusedEarly
from ..protocol.exchange import Exchange
from .node import Node

# At most this many connections to a node are being opened at the same time, and altogether this
# many in addition to one for each node. Further callers share those that are being opened.
MOST_OPENINGS_PER_NODE = 8
MOST_OPENINGS = 32

# Servers limit the size of requests, but to no less than this: it is the smallest value that
# they accept for proto-max-bulk-len and client-query-buffer-limit.
_LEAST_LIMIT = 2**20  # bytes

# If a wait took longer than planned by this share of it, the thread or event loop was kept from
# running by other threads, processes or tasks. Nodes are not blamed for that.
LATE_PART = 1 / 3

# The system's errors for a process that has used up its file descriptors or memory.
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# What is raised if the process itself lacks something.
_LACKS = (CannotOpen, MemoryError, RecursionError)


def is_own_lack(error: BaseException) -> bool:
    """Return whether a connection could not be opened because this process lacks something."""
    seen: list[BaseException] = []  # errors that were raised again may form a cycle
    reason: BaseException | None = error
    while reason is not None and reason not in seen:
        if isinstance(reason, _LACKS) or getattr(reason, "errno", None) in _USED_UP:
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
    """End an exchange with an error, and count a failure of the node."""
    give_up_all((exchange,), node, error, is_nodes_fault=is_nodes_fault, is_new=is_new)


def give_up_all(
    exchanges: Sequence[Exchange],
    node: Node,
    error: Exception,
    *,
    is_nodes_fault: bool = True,
    is_new: bool = False,
) -> None:
    """End exchanges that failed together; this counts as one failure of the node.

    Args:
        is_new: the connection was opened for them: the node had answered on it just before.
    """
    excess = _excess(exchanges, error, is_new=is_new)
    errors = [to_redis_error(node, error, excess) for _ in exchanges]  # one for each caller
    if is_nodes_fault and (not excess or node.health.is_down):
        node.failed(errors[0])
    else:
        node.health.complained(errors[0])
    for exchange, failed in zip(exchanges, errors, strict=True):
        exchange.fail(failed)


def _excess(exchanges: Sequence[Exchange], error: Exception, *, is_new: bool) -> str:
    """Return a note that the request may have been too large for the node; "" if it was not."""
    if isinstance(error, RefusedEarly):
        return "the request was not yet sent completely"
    if not isinstance(error, OSError) or isinstance(error, TimeoutError):
        return ""
    size = sum(exchange.size for exchange in exchanges)
    if size >= _LEAST_LIMIT:
        return (
            f"the request has {size} bytes, which may exceed the node's proto-max-bulk-len or "
            "client-query-buffer-limit"
        )
    if is_new and not exchanges[0].untouched:
        return "the reply may exceed the node's client-output-buffer-limit"
    return ""


def is_blamed_for_deadline(*, timeout: float | None, silent: float, is_heard: bool) -> bool:
    """Return whether a node that did not answer before a deadline counts as failed.

    It does not if it had begun to answer, or if other nodes or the caller left it little time:
    encoding a million keys takes longer than a node's answer.

    Args:
        timeout: seconds for the whole call; None if this was not its first round.
        silent: seconds for which the node was awaited.
        is_heard: the node had begun to answer.
    """
    return timeout is not None and not is_heard and silent >= timeout * (1 - LATE_PART)


def to_redis_error(node: Node, error: Exception, excess: str = "") -> redis.RedisError:
    """Return the error that is raised to the caller for a failure of a connection.

    Args:
        excess: a note that the request may have been too large.
    """
    failed: redis.RedisError
    if isinstance(error, DeadlineError):
        failed = redis.TimeoutError("Deadline exceeded")
    elif isinstance(error, TimeoutError):
        failed = redis.TimeoutError(str(error) or f"No reply within {node.socket_timeout:g} s")
    elif isinstance(error, OSError):
        failed = redis.ConnectionError(f"Connection lost: {error}")
    else:
        failed = ProtocolError(str(error))
    text = f"{failed}; {excess}" if excess else failed
    failed.args = (node.named(text),)
    # Without the traceback: its frames refer to the exchange, which refers to the error.
    failed.__cause__ = error.with_traceback(None)
    return failed
