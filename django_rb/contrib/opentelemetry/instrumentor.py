"""The instrumentor, which `opentelemetry-instrument` finds: it starts and stops telemetry."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from ...version import __version__
from ..watching import Watching
from .metrics import Metrics

if TYPE_CHECKING:
    from ...engine.rounds.observing import Observer

NAME = "django_rb"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.34.0"

SLOW_SECONDS = 0.1


class RBInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # it has no types
    """Reports every call of every cluster in settings.RB_CLUSTERS to OpenTelemetry.

    RBInstrumentor().instrument()

    `opentelemetry-instrument` does the same. `uninstrument()` stops it.

    `instrument()` takes:
        tracer_provider, meter_provider: by default those of the process.
        slow_seconds: a node that takes longer gets its own span (0.1).
        record_commands: True records the commands, including keys and values, as
            `db.query.text`.
    """

    _watching: Watching | None = None
    _metrics: Metrics | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing, as this package itself is instrumented."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider: TracerProvider | None = kwargs.get("tracer_provider")
        meter_provider: MeterProvider | None = kwargs.get("meter_provider")
        slow_seconds = float(kwargs.get("slow_seconds", SLOW_SECONDS))
        record_commands = bool(kwargs.get("record_commands", False))
        tracer = get_tracer(NAME, __version__, tracer_provider, SCHEMA_URL)
        metrics = Metrics(get_meter(NAME, __version__, meter_provider, SCHEMA_URL))

        def make_observer(alias: str) -> Observer:
            from .observer import Telemetry  # noqa: PLC0415 (and with it redis-py)

            return Telemetry(
                alias,
                tracer,
                metrics,
                slow_seconds=slow_seconds,
                record_commands=record_commands,
            )

        self._metrics = metrics
        metrics.start()
        self._watching = Watching(make_observer)
        self._watching.start()

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._watching is not None and self._metrics is not None:
            self._watching.stop()
            self._metrics.stop()
        self._watching = self._metrics = None
