"""clusters["default"]: one Cluster per alias and process."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import django_rb
from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import Cluster
from django_rb.engine.rounds.observing import Observer
from django_rb.signals import cluster_made, node_health_changed
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache, wait_until

TWO = {"default": {"HOSTS": ["redis://h"]}, "other": {"HOSTS": ["redis://h"]}}


def test_an_alias_is_one_cluster_per_process() -> None:
    with override_settings(RB_CLUSTERS=TWO):
        assert isinstance(clusters["default"], Cluster)
        assert clusters["default"] is clusters["default"]
        assert clusters["default"] is not clusters["other"]
        assert django_rb.clusters is clusters


@pytest.fixture
def _hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_hurried")
def test_threads_that_ask_at_once_get_the_same_one() -> None:
    for _ in range(6):
        together = threading.Barrier(16)

        def ask(together: threading.Barrier = together) -> Cluster:
            together.wait()
            return clusters["default"]

        with override_settings(RB_CLUSTERS=TWO), ThreadPoolExecutor(16) as threads:
            asked = [thread.result() for thread in [threads.submit(ask) for _ in range(16)]]
        assert len(set(map(id, asked))) == 1


def test_nobody_gets_a_cluster_before_its_receivers_have_seen_it() -> None:
    seen: list[Any] = []
    threads: list[threading.Thread] = []

    def watch(*, alias: str, cluster: Cluster, **_: Any) -> None:
        assert clusters[alias] is cluster
        assert clusters.made() == {alias: cluster}
        other = threading.Thread(target=lambda: seen.append(clusters[alias].observers))
        threads.append(other)
        other.start()
        other.join(0.1)  # it has to wait for what comes now
        cluster.observers = (Observer(),)

    cluster_made.connect(watch)
    try:
        with override_settings(RB_CLUSTERS=TWO):
            cluster = clusters["default"]
            threads[0].join()
            assert seen == [cluster.observers]
    finally:
        cluster_made.disconnect(watch)


def test_what_makes_a_cluster_may_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports modules of the site, which other threads may be importing."""
    make = clusters.make

    def make_slowly(alias: str) -> Cluster:
        if alias == "default":
            other = threading.Thread(target=lambda: clusters["other"], daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive()
        return make(alias)

    monkeypatch.setattr(clusters, "make", make_slowly)
    with override_settings(RB_CLUSTERS=TWO):
        assert clusters["default"] is clusters["default"]
        assert set(clusters.made()) == {"default", "other"}


def test_a_reset_while_receivers_are_told_counts() -> None:
    def reset(**_: Any) -> None:
        clusters.reset()

    cluster_made.connect(reset)
    try:
        with override_settings(RB_CLUSTERS=TWO):
            old = clusters["default"]
    finally:
        cluster_made.disconnect(reset)
    with override_settings(RB_CLUSTERS=TWO):
        assert old.is_retired
        assert clusters["default"] is not old


def test_caches_of_one_alias_share_its_cluster(nodes: LocalNodes) -> None:
    first, second = RBCache("default", {}), RBCache("", {"KEY_PREFIX": "p"})

    assert first.cluster is second.cluster is clusters["default"]


def test_it_is_a_collection_of_aliases() -> None:
    with override_settings(RB_CLUSTERS=TWO):
        assert list(clusters) == ["default", "other"]
        assert len(clusters) == 2
        assert "other" in clusters
        assert "third" not in clusters
        assert 5 not in clusters


def test_overridden_settings_give_a_new_cluster_and_the_old_ones_come_back_new() -> None:
    with override_settings(RB_CLUSTERS=TWO):
        first = clusters["default"]
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": ["redis://new"]}}):
            assert clusters["default"].hosts[0].host == "new"
            with pytest.raises(ImproperlyConfigured, match="no cluster 'other'"):
                clusters["other"]
        assert clusters["default"] is not first
        assert clusters["default"].hosts[0].host == "h"


def test_other_settings_change_nothing() -> None:
    with override_settings(RB_CLUSTERS=TWO):
        first = clusters["default"]
        with override_settings(CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}}):
            assert clusters["default"] is first


def test_reset_closes_connections(nodes: LocalNodes) -> None:
    clusters.reset()
    with Servers({0: nodes.hosts[0]}) as servers:

        def connected() -> int:
            count: int = servers.ask(0, "INFO", "clients")["connected_clients"]
            return count

        before = connected()
        cluster = clusters["default"]
        cluster.call_nodes("PING")
        cluster.get_local_client(0).ping()
        assert connected() == before + 2
        clusters.reset()
        wait_until(lambda: connected() == before)
    assert clusters["default"] is not cluster
    assert cluster.call_nodes("PING", hosts=[0]) == ({0: b"PONG"}, [])  # usable all the same
    cluster.close()


def test_a_cluster_that_nobody_needs_any_more_is_gone(nodes: LocalNodes) -> None:
    cluster = clusters["default"]
    cluster.call_nodes("PING")
    gone = weakref.ref(cluster)
    del cluster
    clusters.reset()
    gc.collect()
    assert gone() is None


def test_a_mistake_is_told_each_time() -> None:
    with override_settings(RB_CLUSTERS={"default": {}}):
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match=r"'HOSTS'.*missing"):
                clusters["default"]


def test_a_change_of_health_is_signalled(caplog: pytest.LogCaptureFixture) -> None:
    received: list[dict[str, Any]] = []

    def receive(**details: Any) -> None:
        received.append(details)

    def fail(**details: Any) -> None:
        raise RuntimeError("a receiver's own trouble")

    node_health_changed.connect(fail)
    node_health_changed.connect(receive)
    dead = {"HOSTS": [{"port": 1}], "HEALTH": {"FAILURES": 2}}
    try:
        with override_settings(RB_CLUSTERS={"default": dead}):
            cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
            assert [cache.get("key") for _ in range(5)] == [None] * 5
    finally:
        node_health_changed.disconnect(fail)
        node_health_changed.disconnect(receive)
    assert [(r["alias"], r["host_id"], r["previous"], r["state"]) for r in received] == [
        ("default", 0, "up", "failing"),
        ("default", 0, "failing", "down"),
    ]
    assert received[0]["sender"] is Cluster
    assert received[0]["address"] == "localhost:1/0"
    assert isinstance(received[1]["error"], redis.ConnectionError)
    assert received[1]["failures"] == 2
