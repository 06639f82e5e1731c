"""What OpenTelemetry adds to a call, beside two spans of its own.

    python -m benchmarks.telemetry [--repeats 300]

CPU time of the thread in µs, the least of many short series, so that other programs on the
machine disturb little. "apart" is each part in a loop of its own, "in place" what is added to a
call that goes to a node: there, caches are colder, and so they are for the two spans.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any

import django
from django.conf import settings
from django.core.cache import caches
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


def least(
    calls: dict[str, tuple[Sequence[Any], Callable[[], object]]], count: int, repeats: int
) -> dict[str, float]:
    """Return the least time of each call, with these observers; in turns."""
    cluster = clusters["default"]
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, (observers, call) in calls.items():
            cluster.observers = observers
            call()
            began = thread_time()
            for _ in range(count):
                call()
            times[name] = min(times[name], (thread_time() - began) / count * 1e6)
    cluster.observers = ()
    return times


def measure(repeats: int) -> None:
    cache, cluster, nowhere = caches["default"], clusters["default"], Nowhere()
    cache.set_many(dict.fromkeys(KEYS, "x" * 100))
    traces, metrics = TracerProvider(), MeterProvider(metric_readers=[InMemoryMetricReader()])
    traces.add_span_processor(SimpleSpanProcessor(nowhere))
    tracer = traces.get_tracer("benchmark")
    RBInstrumentor().instrument(tracer_provider=traces, meter_provider=metrics)
    telemetry = cluster.observers
    kept: dict[str, tuple[Any, Any]] = {}

    class Keeps(Observer):
        def call_ended(self, batch: Any, exchanges: Any) -> None:
            kept[batch.operation] = batch, list(exchanges)

    def get() -> object:
        return cache.get(KEYS[0])

    def get_many() -> object:
        return cache.get_many(KEYS)

    cluster.observers = (*telemetry, Keeps())
    get()
    assert nowhere.last is not None
    attributes = dict(nowhere.last.attributes or {})
    get_many()

    def two_spans() -> None:
        for _ in range(2):
            tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=attributes).end()

    def get_and_two_spans() -> None:
        get()
        two_spans()

    told: Any = telemetry[0]
    apart = least(
        {
            "two spans": ((), two_spans),
            "get": ((), lambda: told.call_ended(*kept["get"])),
            "get_many": ((), lambda: told.call_ended(*kept["get_many"])),
        },
        40,
        repeats,
    )
    single = least(
        {
            "off": ((), get),
            "two spans": ((), get_and_two_spans),
            "an observer": ((Hears(),), get),
            "on": (telemetry, get),
        },
        40,
        repeats,
    )
    many = least(
        {
            "off": ((), get_many),
            "an observer": ((Hears(),), get_many),
            "on": (telemetry, get_many),
        },
        2,
        repeats,
    )
    print("apart:")
    print(f"  two spans                 {apart['two spans']:8.1f}")
    print(f"  span and metrics of a get {apart['get']:8.1f}")
    print(f"  those of a get_many       {apart['get_many']:8.1f}")
    print("in place:")
    print(f"  get                       {single['off']:8.1f}")
    print(f"  two spans                 {single['two spans'] - single['off']:+8.1f}")
    print(f"  an observer               {single['an observer'] - single['off']:+8.1f}")
    print(f"  telemetry                 {single['on'] - single['off']:+8.1f}")
    print(f"  get_many of 1,000         {many['off']:8.1f}")
    for name, key in (("an observer", "an observer"), ("telemetry", "on")):
        added, ratio = many[key] - many["off"], many[key] / many["off"]
        print(f"  {name:25} {added:+8.1f}  {ratio:.3f} times as much")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    with LocalNodes(8) as nodes:
        settings.configure(
            INSTALLED_APPS=["django_rb"],
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
            CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
        )
        django.setup()
        measure(options.repeats)


if __name__ == "__main__":
    main()
