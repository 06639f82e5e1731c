"""When the metrics are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry

from ...signals import node_health_changed
from ..watching import Watching
from .metrics import Metrics

if TYPE_CHECKING:
    from ...engine.rounds.observing import Observer


class Exporting:
    """Counts until it is told to stop.

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
        """Count what every cluster does from now on."""
        node_health_changed.connect(self._metrics.on_health_change, weak=False)
        self._watching.start()

    def stop(self) -> None:
        """Count no more."""
        node_health_changed.disconnect(self._metrics.on_health_change)
        self._watching.stop()


def start(registry: CollectorRegistry = REGISTRY) -> Exporting:
    """Count what every cluster in settings.RB_CLUSTERS does from now on.

    Args:
        registry: where the metrics are registered; those of a registry can be there once.
    """
    exporting = Exporting(registry)
    exporting.start()
    return exporting
