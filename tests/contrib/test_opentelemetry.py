"""Spans and metrics, as OpenTelemetry's own SDK collects them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from django.test import override_settings
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from django_rb import clusters
from django_rb.contrib.opentelemetry import RBInstrumentor
from django_rb.testing import LocalNodes
from tests.helpers import make_cache

KEYS = [f"page:{n}" for n in range(50)]

Attributes = Mapping[str, Any]


class Collected:
    """What the SDK was told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])

    def instrument(self, **options: Any) -> None:
        RBInstrumentor().instrument(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    def clear(self) -> None:
        self._exporter.clear()

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    @property
    def calls(self) -> list[ReadableSpan]:
        """The spans of calls, in the order in which they began."""
        calls = [span for span in self.spans if "django_rb.operation" in attributes_of(span)]
        return sorted(calls, key=lambda span: span.start_time or 0)

    def nodes_of(self, call: ReadableSpan) -> list[ReadableSpan]:
        """The spans of nodes below that of a call."""
        return [
            span
            for span in self.spans
            if span.parent and span.parent == call.get_span_context()
        ]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def attributes_of(span: ReadableSpan) -> Attributes:
    return span.attributes or {}


@pytest.fixture
def off(nodes: LocalNodes) -> Iterator[Collected]:
    collected = Collected()
    yield collected
    if RBInstrumentor().is_instrumented_by_opentelemetry:
        RBInstrumentor().uninstrument()


@pytest.fixture
def collected(off: Collected) -> Collected:
    off.instrument()
    return off


def test_a_get(nodes: LocalNodes, collected: Collected) -> None:
    cache = make_cache()
    cache.set("key", "value")
    cache.get("key")
    cache.get("other")
    stored, found, missed = collected.calls
    assert [span.name for span in collected.spans] == ["SET", "GET", "GET"]
    assert found.kind is SpanKind.CLIENT
    assert found.status.status_code is StatusCode.UNSET
    owner = clusters["default"].get_host_for_key(":1:key")
    assert attributes_of(found) == {
        "db.system.name": "redis",
        "db.operation.name": "GET",
        "db.namespace": "0",
        "server.address": "127.0.0.1",
        "server.port": nodes.hosts[owner]["port"],
        "django_rb.cluster": "default",
        "django_rb.operation": "get",
        "django_rb.hits": 1,
        "django_rb.misses": 0,
    }
    assert attributes_of(missed)["django_rb.misses"] == 1
    assert "django_rb.hits" not in attributes_of(stored)
    times = [
        moment or 0 for span in (stored, found) for moment in (span.start_time, span.end_time)
    ]
    assert times == sorted(times, key=lambda moment: moment or 0)


def test_calls_to_many_nodes(collected: Collected) -> None:
    cache = make_cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    cache.get_many([*KEYS, "none"])
    with clusters["default"].map() as client:
        client.incr("a")
        client.get("a")
    clusters["default"].call_nodes("DBSIZE")
    stored, found, mapped, sizes = map(attributes_of, collected.calls)
    assert collected.nodes_of(collected.calls[0]) == []  # all was well
    assert [span.name for span in collected.calls] == [
        "PIPELINE SET",
        "MGET",
        "PIPELINE",
        "DBSIZE",
    ]
    assert stored["db.operation.batch.size"] == 50
    assert mapped["db.operation.batch.size"] == 2
    assert "server.address" not in stored
    assert "server.address" in mapped
    assert (found["django_rb.nodes"], found["db.namespace"]) == (4, "0")
    assert (found["django_rb.hits"], found["django_rb.misses"]) == (50, 1)
    assert "db.operation.batch.size" not in found  # each node was asked once
    assert (sizes["django_rb.operation"], sizes["django_rb.nodes"]) == ("call_nodes", 4)


def test_the_context_is_kept(collected: Collected) -> None:
    tracer = collected.tracer_provider.get_tracer("site")
    cache = make_cache()

    def read(name: str) -> None:
        with tracer.start_as_current_span(name):
            cache.get(name)

    async def aread(name: str) -> None:
        with tracer.start_as_current_span(name):
            await asyncio.gather(cache.aget(name), cache.aget_many([name, *KEYS]))

    async def main() -> None:
        await asyncio.gather(*(aread(f"task-{n}") for n in range(5)))

    threads = [Thread(target=read, args=(f"thread-{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(main())
    contexts = [(span.get_span_context(), span.name) for span in collected.spans]
    parents = {context.span_id: name for context, name in contexts if context}
    below = sorted(
        (parents[span.parent.span_id], span.name) for span in collected.calls if span.parent
    )
    assert below == sorted(
        [(f"thread-{n}", "GET") for n in range(5)]
        + [(f"task-{n}", name) for n in range(5) for name in ("GET", "MGET")]
    )


def test_a_node_that_fails_has_a_span(nodes: LocalNodes, collected: Collected) -> None:
    hosts = [*list(nodes.hosts.values())[:2], {"port": 1}]
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
        cache = make_cache("default", OPTIONS={"ON_NODE_ERROR": "miss"})
        cache.get_many(KEYS)
        (call,) = collected.calls
        (node,) = collected.nodes_of(call)
    for span in (call, node):
        assert span.status.status_code is StatusCode.ERROR
        assert "[node 2, " in (span.status.description or "")
        assert attributes_of(span)["error.type"] == "redis.exceptions.ConnectionError"
    assert node.name.startswith("MGET ")
    assert attributes_of(node)["server.port"] == 1
    assert attributes_of(node)["django_rb.node"] == 2
    assert (call.start_time or 0) <= (node.start_time or 0)
    assert (node.end_time or 0) <= (call.end_time or 0)


def test_what_is_sent_once_more_has_a_span(collected: Collected) -> None:
    clusters["default"].call_nodes("SCRIPT", "FLUSH")
    cache = make_cache()
    cache.set("key", 1)
    collected.clear()
    cache.incr("key")
    (call,) = collected.calls
    first, second = collected.nodes_of(call)
    assert (call.name, call.status.status_code) == ("EVALSHA", StatusCode.UNSET)
    assert attributes_of(first)["error.type"] == "NOSCRIPT"
    assert attributes_of(second)["db.operation.name"] == "EVAL"
    assert attributes_of(second)["django_rb.redirects"] == 1
    assert attributes_of(second)["django_rb.round"] == 2
    (point,) = collected.points("django_rb.node.redirects")
    assert point.value == 1


def test_slow_nodes_have_a_span(off: Collected) -> None:
    collected = off
    collected.instrument(slow_seconds=0.0)
    make_cache().get_many(KEYS)
    (call,) = collected.calls
    assert len(collected.nodes_of(call)) == 4


def test_error_replies(collected: Collected) -> None:
    client = clusters["default"].get_routing_client()
    client.lpush("list", "x")
    collected.clear()
    with pytest.raises(redis.ResponseError):
        client.get("list")
    with pytest.raises(ValueError, match="not found"):
        make_cache().incr("none")
    wrong, missing = collected.calls
    assert attributes_of(wrong)["db.response.status_code"] == "WRONGTYPE"
    assert attributes_of(wrong)["error.type"] == "WRONGTYPE"
    assert wrong.status.status_code is StatusCode.ERROR
    assert missing.status.status_code is StatusCode.UNSET  # it is how caches say so
    assert "error.type" not in attributes_of(missing)


def test_keys_and_values_are_recorded_only_if_asked_for(off: Collected) -> None:
    collected = off

    def use() -> str:
        cache, client = make_cache(), clusters["default"].get_routing_client()
        cache.set("hidden-key", "hidden-value")
        cache.set_many({f"hidden-{n}": "hidden-value" for n in range(30)})
        with pytest.raises(ValueError, match="hidden-key"):
            cache.incr("hidden-key")
        with pytest.raises(redis.ResponseError, match="hidden-key"):
            client.eval("return redis.error_reply('ERR no ' .. KEYS[1])", 1, "hidden-key")
        return "\n".join(span.to_json() for span in collected.spans)

    collected.instrument()
    assert "hidden" not in use()
    RBInstrumentor().uninstrument()
    collected.clear()
    collected.instrument(record_commands=True)
    recorded = use()
    assert '"db.query.text": "SET :1:hidden-key' in recorded
    assert "more)" in recorded


def test_metrics(nodes: LocalNodes, collected: Collected) -> None:
    cache = make_cache()
    cache.set("key", "value")
    for _ in range(3):
        cache.get("key")
    cache.get_many(["key", "none", "other"])
    owner = clusters["default"].get_host_for_key(":1:key")
    calls = {
        (point.attributes["db.operation.name"], point.attributes["django_rb.operation"]): point
        for point in collected.points("db.client.operation.duration")
        if point.attributes["django_rb.operation"] != "get_many"
    }
    assert {name: point.count for name, point in calls.items()} == {
        ("SET", "set"): 1,
        ("GET", "get"): 3,
    }
    assert 0 < calls["GET", "get"].sum < 3
    nodes_asked = {
        point.attributes["django_rb.node"]
        for point in collected.points("django_rb.node.time")
        if point.attributes["django_rb.operation"] == "get_many"
    }
    assert owner in nodes_asked
    exchanges = {
        point.attributes["django_rb.operation"]: point.value
        for point in collected.points("django_rb.node.exchanges")
        if point.attributes["django_rb.node"] == owner
    }
    assert exchanges == {"set": 1, "get": 3, "get_many": 1}
    found = {
        point.attributes["django_rb.cache.hit"]: point.value
        for point in collected.points("django_rb.cache.lookups")
    }
    assert found == {True: 4, False: 2}
    sent = {
        point.attributes["network.io.direction"]: point
        for point in collected.points("django_rb.node.io")
        if point.attributes["django_rb.node"] == owner
    }
    assert sent["receive"].value > 4 * len("value")
    assert sent["transmit"].value > 5 * len(":1:key")
    assert sent["transmit"].attributes["server.port"] == nodes.hosts[owner]["port"]
    open_ = {
        (
            point.attributes["db.client.connection.pool.name"],
            point.attributes["db.client.connection.state"],
        ): point.value
        for point in collected.points("db.client.connection.count")
    }
    assert open_[f"default/{owner}", "idle"] == 1
    assert open_[f"default/{owner}", "used"] == 0


def test_changes_of_health_are_counted(collected: Collected) -> None:
    health = {"FAILURES": 1, "PAUSE": 60.0}
    setting = {"default": {"HOSTS": [{"port": 1}], "HEALTH": health}}
    with override_settings(RB_CLUSTERS=setting), pytest.raises(redis.ConnectionError):
        make_cache().get("key")
    (error,) = collected.points("django_rb.node.errors")
    assert error.attributes["error.type"] == "redis.exceptions.ConnectionError"
    (point,) = collected.points("django_rb.node.health_changes")
    assert point.attributes["django_rb.node.state"] == "down"
    assert point.value == 1


def test_clusters_made_before_and_after(off: Collected) -> None:
    cluster = clusters["default"]
    collected = off
    assert cluster.observers == ()
    collected.instrument()
    cluster.call_nodes("PING")
    clusters.reset()
    clusters["default"].call_nodes("PING")
    assert len(collected.calls) == 2
    with suppress_instrumentation():
        clusters["default"].call_nodes("PING")
    make_cache().get_many([])  # asks nobody
    assert len(collected.calls) == 2
    RBInstrumentor().uninstrument()
    assert clusters["default"].observers == ()
    clusters.reset()
    assert clusters["default"].observers == ()
    assert collected.points("db.client.connection.count") == []


def test_calls_that_are_cancelled(collected: Collected) -> None:
    async def cancel() -> None:
        cluster = clusters["default"]
        waiting: Any = asyncio.ensure_future(cluster.aio.blpop("list", timeout=1.5))
        while not any(counted.open for counted in cluster.connections().values()):
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(cancel())
    (call,) = collected.calls
    assert attributes_of(call)["error.type"] == "asyncio.exceptions.CancelledError"


def test_the_sdk_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "import django_rb.contrib.opentelemetry.observer\n"
        "from django_rb.contrib.opentelemetry import RBInstrumentor\n"
        "RBInstrumentor().instrument()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SITE = """
import sys
assert "django_rb.engine" not in sys.modules, "the engine is imported before it is needed"
from django.conf import settings
settings.configure(
    RB_CLUSTERS={{"default": {{"HOSTS": {hosts!r}}}}},
    CACHES={{"default": {{"BACKEND": "django_rb.cache.RBCache"}}}},
)
from django.core.cache import cache
cache.get_many(["a", "b", "c"])
"""


def test_opentelemetry_instrument(nodes: LocalNodes, tmp_path: Path) -> None:
    site = tmp_path / "site.py"
    site.write_text(SITE.format(hosts=nodes.hosts))
    done = subprocess.run(
        [
            Path(sys.executable).parent / "opentelemetry-instrument",
            "--traces_exporter=console",
            "--metrics_exporter=none",
            "--logs_exporter=none",
            sys.executable,
            site,
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OTEL_SERVICE_NAME": "shop"},
    )
    span = json.loads(done.stdout)
    assert span["name"] == "MGET"
    assert span["attributes"]["django_rb.operation"] == "get_many"
    assert span["resource"]["attributes"]["service.name"] == "shop"
