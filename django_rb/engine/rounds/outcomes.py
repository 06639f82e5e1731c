"""What batches return: what the caller asked for, and what failed on which node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..errors import NodeFailure
from ..protocol.exchange import Exchange
from .port import Port

T = TypeVar("T")

Outcome = tuple[T, list[NodeFailure]]


def failure_at(
    port: Port, host_id: int, error: Exception, keys: Sequence[bytes] = ()
) -> NodeFailure:
    """Return the failure of a node, with the keys it failed for."""
    return NodeFailure(host_id, port.get_address(host_id), error, tuple(keys))


def error_in(exchange: Exchange) -> Exception | None:
    """Return why an exchange failed, or its first error reply."""
    if exchange.error is not None or not exchange.has_errors:
        return exchange.error
    return next((reply for reply in exchange.replies if isinstance(reply, Exception)), None)


def collected(
    port: Port, exchanges: Sequence[Exchange], shares: Mapping[int, Sequence[bytes]]
) -> Outcome[dict[int, Any]]:
    """Return the only reply of each exchange by host id, and what failed.

    Args:
        shares: the keys of each exchange, by host id.
    """
    replies: dict[int, Any] = {}
    failures: list[NodeFailure] = []
    for exchange in exchanges:
        host_id = exchange.host_id
        error = error_in(exchange)
        if error is None:
            replies[host_id] = exchange.replies[0]
        else:
            failures.append(failure_at(port, host_id, error, shares.get(host_id, ())))
    return replies, failures
