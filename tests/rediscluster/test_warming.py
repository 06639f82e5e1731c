"""A cache moves from independent nodes to a Redis Cluster, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.cache.warming.conftest import make_caches
from tests.helpers import make_cache
from tests.rediscluster.admin import Admin, slot_of
from tests.rediscluster.test_moving import moving

pytestmark = pytest.mark.static

KEYS = [*(f"page:{n}" for n in range(100)), "{user:1}:a", "{user:1}:b", "{}a", "b{"]


@pytest.fixture(params=["to", "from"])
def caches(
    request: pytest.FixtureRequest,
    transport: str,
    nodes: LocalNodes,
    redis_cluster: LocalNodes,
) -> Iterator[tuple[RBCache, RBCache]]:
    managed = {"TOPOLOGY": "redis-cluster", "HOSTS": redis_cluster.hosts}
    layouts = [{"HOSTS": nodes.hosts}, managed]
    old, new = layouts if request.param == "to" else layouts[::-1]
    with override_settings(RB_CLUSTERS={"old": old, "default": new}):
        before, after, _ = make_caches()
        yield before, after
    clusters.reset()


def test_keys_come_along(caches: tuple[RBCache, RBCache]) -> None:
    before, after = caches
    before.set_many(dict.fromkeys(KEYS, 7), 100)
    assert after.get("page:0") == 7
    assert after.incr("page:1") == 8
    assert before.get("page:1") is None
    assert not after.add("page:2", 1)
    assert after.touch("page:3", 50)
    assert len(after.get_many(KEYS)) == len({*KEYS})
    before.cluster.close()
    assert 0 < (after.ttl("page:4") or 0) <= 100
    assert make_cache().get_many(KEYS) == {**dict.fromkeys(KEYS, 7), "page:1": 8}


def test_nothing_comes_back(caches: tuple[RBCache, RBCache]) -> None:
    before, after = caches
    before.set_many(dict.fromkeys(KEYS, 7), 100)
    assert after.delete("page:0")
    after.delete_many(KEYS[:50])
    after.set("page:50", "new", 0.001)
    assert after.get_many(KEYS[:50]) == {}
    assert after.delete_pattern("page:*") in {49, 50}
    assert after.get_many(KEYS[:100]) == {}
    assert before.get_many(KEYS[:100]) == {}
    assert sorted(after.keys()) == sorted({*KEYS[100:]})


def test_a_slot_that_is_under_way_takes_values(
    nodes: LocalNodes, redis_cluster: LocalNodes, admin: Admin, transport: str
) -> None:
    managed = {"TOPOLOGY": "redis-cluster", "HOSTS": redis_cluster.hosts}
    with override_settings(RB_CLUSTERS={"old": {"HOSTS": nodes.hosts}, "default": managed}):
        before, after, _ = make_caches()
        before.set_many({"a": 1, "b": 2}, 100)
        with moving(admin, slot_of(":1:a")):
            assert after.get("a") == 1
            assert after.incr("a") == 2
            assert after.delete("a")
            assert after.get("a") is None
    clusters.reset()
