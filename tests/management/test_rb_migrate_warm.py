"""manage.py rb_migrate beside a cache that has WARM_FROM: what is deleted stays deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.cache.companions import seal_of
from django_rb.engine.rounds.observing import add_observer
from django_rb.testing import LocalNodes

from .calls import run_json
from .test_rb_migrate import When

pytestmark = pytest.mark.static

BACKEND = "django_rb.cache.RBCache"
PAGES = {f"page:{n}": f"text {n}" for n in range(100)}


@pytest.fixture(params=["static", "refusing", "redis-cluster"], scope="module")
def new(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The new layout: nodes, nodes that refuse dumps, or a Redis Cluster."""
    if request.param == "redis-cluster":
        with LocalNodes(3, topology=request.param) as nodes:
            yield {"HOSTS": nodes.hosts, "TOPOLOGY": request.param}
        return
    refusal = {"rename-command": ["RESTORE", ""]} if request.param == "refusing" else {}
    with LocalNodes(2, options=refusal) as nodes:
        yield {"HOSTS": nodes.hosts}


@pytest.fixture
def warmed(nodes: LocalNodes, new: dict[str, Any]) -> Iterator[RBCache]:
    """A cache on the new layout that is warmed; the old one has pages that do not expire."""
    config = {
        "before": {"BACKEND": BACKEND, "LOCATION": "old"},
        "default": {"BACKEND": BACKEND, "LOCATION": "new", "OPTIONS": {"WARM_FROM": "old"}},
    }
    clusters_config = {"old": {"HOSTS": nodes.hosts}, "new": new}
    with override_settings(RB_CLUSTERS=clusters_config, CACHES=config):
        with clusters["new"].all() as client:
            client.flushdb()
            client.script_flush()
        caches["before"].set_many(PAGES, timeout=None)
        cache = caches["default"]
        assert isinstance(cache, RBCache)
        yield cache
    clusters.reset()


def stored(key: str) -> object:
    """Return what the new layout has, without what the old one has."""
    with override_settings(CACHES={"new": {"BACKEND": BACKEND, "LOCATION": "new"}}):
        return caches["new"].get(key)


def test_a_key_that_is_deleted_while_it_is_copied(warmed: RBCache) -> None:
    add_observer(clusters["old"], When("DUMP", lambda: warmed.delete("page:1")))
    assert run_json("rb_migrate", "old", "new")["taken_back"] == 1
    assert stored("page:1") is None
    assert stored("page:2") == "text 2"


def test_a_key_that_was_deleted_while_its_old_node_was_down(warmed: RBCache) -> None:
    key = warmed.make_key("page:1").encode()
    client = clusters["new"].get_local_client_for_key(key)
    client.set(seal_of(key), "", px=100_000)
    assert run_json("rb_migrate", "old", "new")["taken_back"] == 1
    assert stored("page:1") is None
    assert stored("page:2") == "text 2"


def test_a_key_that_is_stored_again_while_it_is_copied(warmed: RBCache) -> None:
    def store() -> None:
        warmed.set("page:1", "text 1", timeout=None)

    # A node that does not know the script yet is sent it, and carries it out then.
    add_observer(clusters["new"], When("EVAL", store))
    document = run_json("rb_migrate", "old", "new")
    assert caches["before"].get("page:1") is None
    assert document["taken_back"] == 0
    assert stored("page:1") == "text 1"
