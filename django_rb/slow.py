"""Logs slow calls: a line for each in the logger `django_rb.slow`."""

from __future__ import annotations

from collections.abc import Sequence

from .callers import find_caller
from .engine.errors import BadHostSetup
from .engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from .engine.wording import get_logger, masked, number_of

logger = get_logger("django_rb.slow")

# The maximum number of exchanges, and of command names of an exchange, in a line.
_MOST_EXCHANGES = 8
_MOST_NAMES = 3


def check_slow(slow: object) -> float | None:
    """Return SLOW: the seconds above which a call is logged, None for never.

    Raises:
        BadHostSetup: with the value and what to do.
    """
    seconds = number_of(slow)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise BadHostSetup(
            f"{masked(slow)} is not a time in seconds above 0. Use None to log no calls.",
            ("SLOW",),
        )
    return float(seconds)


class SlowCalls(Observer):
    """Logs the calls of a cluster that take longer than `seconds`.

    Args:
        alias: the alias of the cluster.
        seconds: the longest time that is not slow.
    """

    def __init__(self, alias: str, seconds: float) -> None:
        self._alias = alias
        self._seconds = seconds

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Log a call if it was slow."""
        if batch.seconds <= self._seconds:
            return
        logger.warning(
            "%s on %r took %.3f s: %s. Called at %s",
            batch.operation,
            self._alias,
            batch.seconds,
            _described(exchanges),
            find_caller() or "an unknown place (it was the first call of a task)",
        )


def _described(exchanges: Sequence[ExchangeEvent]) -> str:
    """Return the nodes and their times, the slowest first."""
    slowest = sorted(exchanges, key=lambda exchange: -exchange.seconds)
    parts = [_described_one(exchange) for exchange in slowest[:_MOST_EXCHANGES]]
    if len(slowest) > _MOST_EXCHANGES:
        parts.append(f"{len(slowest) - _MOST_EXCHANGES} more")
    return ", ".join(parts) or "nothing was sent"


def _described_one(exchange: ExchangeEvent) -> str:
    names = exchange.names
    asked = " ".join(names[:_MOST_NAMES]) + " …" * (len(names) > _MOST_NAMES)
    if exchange.round > 1:
        asked += f", round {exchange.round}"
    if exchange.error is not None:
        asked += f", {type(exchange.error).__name__}"
    node = f"node {exchange.host_id} at {exchange.address}"
    return f"{node} {exchange.seconds:.3f} s ({asked})"
