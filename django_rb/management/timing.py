"""The response times of nodes, as measured by the engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine import Cluster
from ..engine.rounds.observing import (
    BatchEvent,
    ExchangeEvent,
    Observer,
    add_observer,
    remove_observer,
)


class Times(Observer):
    """Records the duration of batches.

    Attributes:
        by_node: the seconds of each exchange that a node answered, by host id.
        whole: the seconds of each batch.
    """

    def __init__(self) -> None:
        self.by_node: dict[int, list[float]] = defaultdict(list)
        self.whole: list[float] = []

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Record the time of a node."""
        if exchange.error is None:
            self.by_node[exchange.host_id].append(exchange.seconds)

    def batch_ended(self, batch: BatchEvent) -> None:
        """Record the time of a batch."""
        self.whole.append(batch.seconds)


@contextmanager
def timed(cluster: Cluster) -> Iterator[Times]:
    """Time the batches of a cluster."""
    times = Times()
    add_observer(cluster, times)
    try:
        yield times
    finally:
        remove_observer(cluster, times)
