"""How long nodes take, as the engine measures it."""

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
    """Keeps how long batches take.

    Attributes:
        by_node: seconds of each exchange that a node answered, by host id.
        whole: seconds of each batch.
    """

    def __init__(self) -> None:
        self.by_node: dict[int, list[float]] = defaultdict(list)
        self.whole: list[float] = []

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Keep a node's time."""
        if exchange.error is None:
            self.by_node[exchange.host_id].append(exchange.seconds)

    def batch_ended(self, batch: BatchEvent) -> None:
        """Keep the time of all."""
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
