"""Observers that want to know of whole calls, once they have ended."""

from __future__ import annotations

from collections.abc import Sequence

from .observing import BatchEvent, ExchangeEvent, Observer


class CallObserver(Observer):
    """Is told of each call once, by its own thread or task: what it was, and all its exchanges.

    class Loud(CallObserver):
        def call_ended(self, batch, exchanges):
            print(batch.operation, batch.seconds, [exchange.address for exchange in exchanges])
    """

    def __init__(self) -> None:
        self._under_way: dict[BatchEvent, list[ExchangeEvent]] = {}

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Keep it until its batch has ended."""
        self._under_way.setdefault(exchange.batch, []).append(exchange)

    def batch_ended(self, batch: BatchEvent) -> None:
        """Tell of the call."""
        self.call_ended(batch, self._under_way.pop(batch, ()))

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """A call has ended.

        Args:
            exchanges: in the order in which they were told; empty where nothing was to be sent.
        """
