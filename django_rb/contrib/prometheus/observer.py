"""The observer that counts calls."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from ..watching import made_clusters
from .metrics import Metrics

# The maximum number of different operations of a cluster; your own batches have any names.
_MOST_OPERATIONS = 100
_OTHER = "other"


class Counting(Observer):
    """Counts the calls of a cluster.

    Args:
        alias: the alias of the cluster.
        metrics: the metrics to update.
    """

    def __init__(self, alias: str, metrics: Metrics) -> None:
        self._alias = alias
        self._metrics = metrics
        self._operations: set[str] = set()
        self._invalidations = 0  # that have been counted

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Count a call."""
        if batch.near:
            self._metrics.near.labels(self._alias).inc(batch.near)
        if not exchanges and batch.error is None and not batch.near:  # there was no I/O
            return
        alias, metrics = self._alias, self._metrics
        operation = self._bounded(batch.operation)
        metrics.calls.labels(alias, operation).observe(batch.seconds)
        # Caches raise ValueError if a key does not exist.
        if batch.error is not None and type(batch.error) is not ValueError:
            error = type(batch.error).__name__
            metrics.call_errors.labels(alias, operation, error).inc()
        if batch.hits:
            metrics.hits.labels(alias).inc(batch.hits)
        if batch.warmed:
            metrics.warmed.labels(alias).inc(batch.warmed)
        if batch.misses:
            metrics.misses.labels(alias).inc(batch.misses)
        for exchange in exchanges:
            self._count_exchange(exchange, operation)
        self._count_near()
        self._count_connections({exchange.host_id: exchange.address for exchange in exchanges})

    def _count_exchange(self, exchange: ExchangeEvent, operation: str) -> None:
        metrics = self._metrics
        node = self._alias, str(exchange.host_id), exchange.address
        metrics.nodes.labels(*node, operation).observe(exchange.seconds)
        metrics.sent.labels(*node).inc(exchange.bytes_out)
        metrics.received.labels(*node).inc(exchange.bytes_in)
        if exchange.redirects:
            metrics.redirects.labels(*node).inc()
        if exchange.error is not None:
            metrics.node_errors.labels(*node, type(exchange.error).__name__).inc()

    def _count_near(self) -> None:
        """Set the metrics of near copies, if there are any."""
        cluster = made_clusters().get(self._alias)
        if cluster is None or not cluster.trackings.keepers:
            return
        info = cluster.trackings.info()
        self._metrics.near_bytes.labels(self._alias).set(info.bytes)
        told = max(0, info.invalidations - self._invalidations)
        self._invalidations = info.invalidations
        self._metrics.near_invalidations.labels(self._alias).inc(told)

    def _count_connections(self, addresses: dict[int, str]) -> None:
        """Set the number of connections to the nodes of a call that has ended."""
        cluster = made_clusters().get(self._alias)
        if cluster is None:
            return
        gauge = self._metrics.connections
        for host_id, counted in cluster.connections(addresses).items():
            node = self._alias, str(host_id), addresses[host_id]
            gauge.labels(*node, "idle").set(counted.idle)
            gauge.labels(*node, "used").set(max(0, counted.open - counted.idle))

    def _bounded(self, operation: str) -> str:
        if operation not in self._operations:
            if len(self._operations) >= _MOST_OPERATIONS:
                return _OTHER
            self._operations.add(operation)
        return operation
