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
from django_rb.engine.rounds.calls import CallObserver
from django_rb.testing import LocalNodes

KEYS = [f"key:{number}" for number in range(1000)]


class Nowhere(SpanExporter):
    """Takes spans, and nothing else."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.last = dict(spans[-1].attributes or {})
        return SpanExportResult.SUCCESS


def least(call: Callable[[], object], count: int, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = thread_time()
        for _ in range(count):
            call()
        times.append(thread_time() - began)
    return min(times) / count * 1e6


def measure(repeats: int) -> None:
    cache, cluster, nowhere = caches["default"], clusters["default"], Nowhere()
    cache.set_many(dict.fromkeys(KEYS, "x" * 100))
    traces, metrics = TracerProvider(), MeterProvider(metric_readers=[InMemoryMetricReader()])
    traces.add_span_processor(SimpleSpanProcessor(nowhere))
    tracer = traces.get_tracer("benchmark")
    RBInstrumentor().instrument(tracer_provider=traces, meter_provider=metrics)
    telemetry = cluster.observers
    kept: dict[str, tuple[Any, Any]] = {}

    class Keeps(CallObserver):
        def call_ended(self, batch: Any, exchanges: Any) -> None:
            kept[batch.operation] = batch, list(exchanges)

    def get() -> object:
        return cache.get(KEYS[0])

    def get_many() -> object:
        return cache.get_many(KEYS)

    cluster.observers = (*telemetry, Keeps())
    get()
    attributes = dict(nowhere.last)
    get_many()

    def two_spans() -> None:
        for _ in range(2):
            tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=attributes).end()

    def get_and_two_spans() -> None:
        get()
        two_spans()

    told: Any = telemetry[0]
    cluster.observers = ()
    print(f"two spans, apart:                {least(two_spans, 40, repeats):7.1f}")
    for operation in ("get", "get_many"):
        seen = kept[operation]
        taken = least(lambda seen=seen: told.call_ended(*seen), 40, repeats)  # type: ignore[misc]
        print(f"telemetry of a {operation + ', apart:':18}{taken:7.1f}")
    off, many_off = least(get, 40, repeats), least(get_many, 3, repeats)
    print(f"get:                             {off:7.1f}")
    spans = least(get_and_two_spans, 40, repeats)
    print(f"two spans, in place:             {spans - off:7.1f}")
    cluster.observers = (CallObserver(),)
    print(f"an observer, in place:           {least(get, 40, repeats) - off:7.1f}")
    cluster.observers = telemetry
    print(f"telemetry of a get, in place:    {least(get, 40, repeats) - off:7.1f}")
    many = least(get_many, 3, repeats)
    print(f"get_many of 1,000:               {many_off:7.0f}")
    print(f"with telemetry:                  {many:7.0f}, {many / many_off:.3f} times as much")


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
