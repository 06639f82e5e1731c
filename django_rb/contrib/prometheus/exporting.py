"""Starts and stops the counting of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry

from ...signals import node_health_changed
from ..watching import Watching
from .metrics import Metrics

if TYPE_CHECKING:
    from ...engine.rounds.observing import Observer


class Exporting:
    """Counts until it is stopped.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = Metrics(registry)
        self._watching = Watching(self._make_observer)

    def _make_observer(self, alias: str) -> Observer:
        from .observer import Counting  # noqa: PLC0415 (and with it redis-py)

        return Counting(alias, self._metrics)

    def start(self) -> None:
        """Start counting the calls of every cluster."""
        node_health_changed.connect(self._metrics.on_health_change, weak=False)
        self._watching.start()

    def stop(self) -> None:
        """Stop counting."""
        node_health_changed.disconnect(self._metrics.on_health_change)
        self._watching.stop()


def start(registry: CollectorRegistry = REGISTRY) -> Exporting:
    """Start counting the calls of every cluster in settings.RB_CLUSTERS.

    Args:
        registry: where the metrics are registered, which is possible once per registry.
    """
    exporting = Exporting(registry)
    exporting.start()
    return exporting
