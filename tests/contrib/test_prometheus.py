"""Metrics, as prometheus_client shows them to who scrapes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import redis
from django.test import override_settings
from prometheus_client import CollectorRegistry, multiprocess

from django_rb import clusters
from django_rb.contrib.prometheus import start
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.rounds.batch import call_each
from django_rb.testing import LocalNodes
from tests.helpers import make_cache

ROOT = Path(__file__).parents[2]

Value = float | None


class Scraped:
    """What a scrape would say of a registry, when it is asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, **labels: Any) -> Value:
        labels = {name: str(value) for name, value in {"cluster": "default", **labels}.items()}
        return self.registry.get_sample_value(f"django_rb_{name}", labels)

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric by its labels' values, without the cluster."""
        return {
            tuple(value for label, value in sample.labels.items() if label != "cluster"): value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == f"django_rb_{name}"
            for value in [sample.value]
        }


@pytest.fixture
def scraped(nodes: LocalNodes) -> Iterator[Scraped]:
    scraped = Scraped()
    exporting = start(scraped.registry)
    yield scraped
    exporting.stop()


def test_calls_hits_and_nodes(nodes: LocalNodes, scraped: Scraped) -> None:
    cache = make_cache()
    cache.set("key", "value")
    for _ in range(3):
        cache.get("key")
    cache.get("none")
    cache.get_many([])
    assert scraped.samples("call_seconds_count") == {("set",): 1, ("get",): 4}
    assert 0 < (scraped("call_seconds_sum", operation="get") or 0) < 4
    assert (scraped("cache_hits_total"), scraped("cache_misses_total")) == (3, 1)
    assert scraped.samples("call_errors_total") == {}
    owner = clusters["default"].get_host_for_key(":1:key")
    node = {"node": owner, "address": f"127.0.0.1:{nodes.hosts[owner]['port']}/0"}
    assert (scraped("node_seconds_count", **node, operation="get") or 0) >= 3
    assert (scraped("node_sent_bytes_total", **node) or 0) > 4 * len(":1:key")
    assert (scraped("node_received_bytes_total", **node) or 0) > 3 * len("value")
    assert scraped("connections", **node, state="idle") == 1
    assert scraped("connections", **node, state="used") == 0


def test_threads_and_tasks(scraped: Scraped) -> None:
    cache = make_cache()

    def read() -> None:
        for _ in range(20):
            cache.get_many(["a", "b"])

    async def aread() -> None:
        await asyncio.gather(*(cache.aget_many(["a", "b"]) for _ in range(20)))

    threads = [Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(aread())
    for thread in threads:
        thread.join()
    assert scraped("call_seconds_count", operation="get_many") == 80
    assert scraped("cache_misses_total") == 160


def test_errors_health_and_redirects(nodes: LocalNodes, scraped: Scraped) -> None:
    hosts = {0: nodes.hosts[0], 1: {"port": 1}}
    health = {"FAILURES": 1, "PAUSE": 60.0}
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts, "HEALTH": health}}):
        cluster = clusters["default"]
        cluster.call_nodes("SCRIPT", "FLUSH")
        cache = make_cache()
        keys = [f"key:{n}" for n in range(20)]
        with pytest.raises(redis.ConnectionError):
            cache.get_many(keys)
        here = next(key for key in keys if cluster.get_host_for_key(f":1:{key}") == 0)
        with pytest.raises(ValueError, match="not found"):
            cache.incr(here)
    assert scraped("call_errors_total", operation="get_many", error="NodeDown") == 1
    assert scraped("call_errors_total", operation="incr", error="ValueError") is None
    down = {"node": 1, "address": "localhost:1/0"}
    assert scraped("node_errors_total", **down, error="ConnectionError") == 1
    assert scraped("node_health_changes_total", **down, state="down") == 1
    redirects = scraped.samples("node_redirects_total")
    assert [(words[0], value) for words, value in redirects.items()] == [("0", 1)]


def test_labels_are_bounded(scraped: Scraped) -> None:
    cluster = clusters["default"]

    def make_batch(number: int) -> Batch[Any]:
        batch: Any = call_each(cluster, {0: ("PING",)})
        batch.__name__ = f"batch{number}"  # as a function of that name would give
        return cast(Batch[Any], batch)

    for number in range(120):
        cluster.run(make_batch(number))
    counts = scraped.samples("call_seconds_count")
    assert len(counts) == 101
    assert counts["other",] == 20


def test_it_stops(nodes: LocalNodes) -> None:
    scraped = Scraped()
    exporting = start(scraped.registry)
    cluster = clusters["default"]
    assert len(cluster.observers) == 1
    exporting.stop()
    assert cluster.observers == ()


SITE = """
import os, sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_rb", "django_rb.contrib.prometheus"],
    RB_CLUSTERS={{"default": {{"HOSTS": {hosts!r}}}}},
    CACHES={{"default": {{"BACKEND": "django_rb.cache.RBCache"}}}},
)
django.setup()
assert "django_rb.engine" not in sys.modules, "the engine is imported before it is needed"
from django.core.cache import cache
cache.set("key", 1)
for _ in range(2):
    os.fork()
cache.get("key")
cache.get("none")
os._exit(0)
"""


def test_several_processes(
    nodes: LocalNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", SITE.format(hosts=nodes.hosts)],
        stdout=subprocess.PIPE,
        env=os.environ.copy(),
    )
    output, _ = process.communicate()  # it ends when no process has the pipe any more
    assert (process.returncode, output) == (0, b"")
    scraped = Scraped()
    multiprocess.MultiProcessCollector(scraped.registry)  # type: ignore[no-untyped-call]
    assert scraped.samples("call_seconds_count") == {("set",): 1, ("get",): 8}
    assert (scraped("cache_hits_total"), scraped("cache_misses_total")) == (4, 4)


def test_the_dashboard_uses_metrics_that_there_are(scraped: Scraped) -> None:
    cache = make_cache()
    cache.get("key")
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    metrics = list(scraped.registry.collect())
    names = set().union(*(_names_of(metric) for metric in metrics))
    used = set().union(*(re.findall(r"django_rb_\w+", query) for query in queries))
    assert used <= names
    shown = {metric.name for metric in metrics}
    assert {name for name in shown if not any(word.startswith(name) for word in used)} == set()
    labels = {"cluster", "node", "address", "operation", "error", "state", "le"}
    grouped = set().union(*(re.findall(r"by \(([^)]*)\)", query) for query in queries))
    assert {word for words in grouped for word in words.split(", ")} <= labels


def _names_of(metric: Any) -> set[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
    return {metric.name + ending for ending in endings[metric.type]}
