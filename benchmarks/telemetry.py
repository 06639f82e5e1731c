"""What OpenTelemetry adds to a call, beside what its SDK takes for two spans.

    taskset -c 1 python -m benchmarks.telemetry [--repeats 1000]

CPU time of the thread, in µs, measured in turns: each figure is the median of what was added in
each turn, so that other programs on the machine disturb little. It is measured in calls that go
to nodes. Between two of these, caches are colder than in a loop of spans, and so each of the
rows below takes longer than by itself.

    one span            tracer.start_as_current_span() with the attributes that are recorded
    two spans           two of these, one after the other
    its SDK's part      a span by tracer.start_span(), and a measurement of a histogram: what
                        telemetry cannot do without
    an observer         of django-rb, that does nothing
    spans               telemetry without metrics
    spans and metrics   telemetry
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from time import thread_time
from typing import Any

import django
from django.conf import settings
from django.core.cache import caches
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from django_rb import clusters
from django_rb.contrib.opentelemetry import RBInstrumentor
from django_rb.engine.rounds.observing import Observer
from django_rb.testing import LocalNodes

KEYS = [f"key:{number}" for number in range(1000)]
# Attributes of the measurement; a span has more.
MEASURED = (
    *("db.system.name", "db.operation.name", "django_rb.cluster", "django_rb.operation"),
    *("server.address", "server.port"),
)


class Nowhere(SpanExporter):
    """Takes spans, and nothing else."""

    def __init__(self) -> None:
        self.last: ReadableSpan | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.last = spans[-1]
        return SpanExportResult.SUCCESS


class Hears(Observer):
    """Is told, and makes nothing of it."""

    def call_ended(self, batch: Any, exchanges: Any) -> None:
        pass


Rows = dict[str, tuple[Sequence[Observer], Callable[[], object]]]


def measure(rows: Rows, count: int, repeats: int) -> dict[str, list[float]]:
    """Return the time of each call, with these observers, in each turn."""
    cluster = clusters["default"]
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, (observers, call) in rows.items():
            cluster.observers = observers
            call()
            began = thread_time()
            for _ in range(count):
                call()
            times[name].append((thread_time() - began) / count * 1e6)
    cluster.observers = ()
    return times


def show(title: str, times: dict[str, list[float]]) -> None:
    """Print what each row adds to the first, and how many times as much that is."""
    off = times["off"]
    adds = {
        name: median(a - b for a, b in zip(own, off, strict=True))
        for name, own in times.items()
    }
    print(f"{title}: {median(off):.1f} µs")
    print(f"  {'':20}{'adds':>8}{'times':>8}{'of two spans':>14}")
    for name, own in times.items():
        if name != "off":
            ratio = median(a / b for a, b in zip(own, off, strict=True))
            part = adds[name] / adds["two spans"]
            print(f"  {name:20}{adds[name]:+8.1f}{ratio:8.3f}{part:14.2f}")


def instrumented(**providers: Any) -> Sequence[Observer]:
    """Return the observers of a cluster under telemetry, which is then switched off."""
    RBInstrumentor().instrument(**providers)
    observers = clusters["default"].observers
    RBInstrumentor().uninstrument()
    return observers


def run(repeats: int) -> None:
    cache, nowhere = caches["default"], Nowhere()
    cache.set_many(dict.fromkeys(KEYS, "x" * 100))
    traces, metrics = TracerProvider(), MeterProvider(metric_readers=[InMemoryMetricReader()])
    traces.add_span_processor(SimpleSpanProcessor(nowhere))
    tracer = traces.get_tracer("benchmark")
    seconds = metrics.get_meter("benchmark").create_histogram("seconds", unit="s")
    telemetry = instrumented(tracer_provider=traces, meter_provider=metrics)
    spans = instrumented(tracer_provider=traces, meter_provider=NoOpMeterProvider())

    def rows(call: Callable[[], object]) -> Rows:
        clusters["default"].observers = telemetry
        call()
        assert nowhere.last is not None
        recorded = dict(nowhere.last.attributes or {})
        measured = {name: recorded[name] for name in MEASURED if name in recorded}
        name = nowhere.last.name

        def span() -> None:
            with tracer.start_as_current_span(name, None, SpanKind.CLIENT, recorded):
                pass

        def one_span() -> None:
            call()
            span()

        def two_spans() -> None:
            call()
            span()
            span()

        def sdk() -> None:
            call()
            seconds.record(0.0002, measured)
            tracer.start_span(name, None, SpanKind.CLIENT, recorded).end()

        return {
            "off": ((), call),
            "one span": ((), one_span),
            "two spans": ((), two_spans),
            "its SDK's part": ((), sdk),
            "an observer": ((Hears(),), call),
            "spans": (spans, call),
            "spans and metrics": (telemetry, call),
        }

    show("get", measure(rows(lambda: cache.get(KEYS[0])), 20, repeats))
    show("get_many of 1,000", measure(rows(lambda: cache.get_many(KEYS)), 1, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=1000)
    options = parser.parse_args()
    with LocalNodes(8) as nodes:
        settings.configure(
            INSTALLED_APPS=["django_rb"],
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
            CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
        )
        django.setup()
        run(options.repeats)


if __name__ == "__main__":
    main()
