"""Management commands and checks on a Redis Cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.checks.connecting import check_live_nodes
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.management.calls import asked_for
from tests.rediscluster.admin import Admin, slot_of

KEYS = [f"key:{n}" for n in range(50)]


@pytest.fixture(autouse=True)
def site(redis_cluster: LocalNodes) -> Iterator[None]:
    """A site on the cluster, that has not connected yet."""
    hosts = [redis_cluster.hosts[1], redis_cluster.hosts[0]]
    settings = {"default": {"TOPOLOGY": "redis-cluster", "HOSTS": hosts}}
    with override_settings(RB_CLUSTERS=settings):
        yield
    clusters.reset()


def rb_cache() -> RBCache:
    cache = caches["default"]
    assert isinstance(cache, RBCache)
    return cache


def run(*command: str, **options: Any) -> Any:
    out = StringIO()
    call_command(*command, stdout=out, stderr=StringIO(), format="json", **options)
    said = out.getvalue()
    lines = said.splitlines()
    return json.loads(said) if not said.startswith('{"key') else list(map(json.loads, lines))


def test_rb_route_knows_slot_and_shard(admin: Admin) -> None:
    (told,) = run("rb_route", "{user:7}:cart")["keys"]
    slot = slot_of("user:7")
    assert told["hash"] == {"slot": slot}
    assert told["host_id"] == admin.owner(slot)
    assert told["address"] == admin.address(admin.owner(slot))


def test_rb_status_shows_slots_and_what_is_under_way(admin: Admin) -> None:
    source, target = admin.owner(0), admin.owner(16383)
    admin.begin_move(0, source, target)
    told = run("rb_status")
    table = StringIO()
    call_command("rb_status", stdout=table)
    for node in (source, target):
        admin.ask(node, "CLUSTER", "SETSLOT", 0, "STABLE")
    slots = {node["host_id"]: node["cluster_slots"] for node in told["nodes"]}
    assert sum(each["slots"] for each in slots.values()) == 16384
    assert slots[0]["ranges"] == "0-5460"
    assert {each["state"] for each in slots.values()} == {"ok"}
    assert [slots[n]["leaving"] for n in (source, target)] == [1, 0]
    assert [slots[n]["arriving"] for n in (source, target)] == [0, 1]
    assert "CLUSTER STATE" in table.getvalue()


def test_keys_of_all_shards_are_listed_and_deleted(admin: Admin) -> None:
    cache = rb_cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    cache.set("other", 1)
    found = run("rb_scan", "key:*", cache="default", fields="ttl")
    assert sorted(entry["cache_key"] for entry in found) == sorted(KEYS)
    assert sorted(cache.keys("key:*")) == sorted(KEYS)
    told = run("rb_delete", "key:1*", cache="default", interactive=False)
    assert sum(node["deleted"] for node in told["nodes"]) == 11
    assert cache.delete_pattern("key:*") == len(KEYS) - 11
    assert cache.keys() == ["other"]
    told = run("rb_flushall", interactive=False)
    assert [node["result"] for node in told["nodes"]] == ["flushed"] * 3
    assert cache.keys() == []


def test_nobody_answers(admin: Admin) -> None:
    dead = {"default": {"TOPOLOGY": "redis-cluster", "HOSTS": ["redis://127.0.0.1:1"]}}
    with override_settings(RB_CLUSTERS=dead):
        with pytest.raises(CommandError, match="1 of 1 node could not be queried"):
            run("rb_status")
        with pytest.raises(CommandError, match="No node of the Redis Cluster"):
            run("rb_route", "key")
        (error,) = check_live_nodes()
    assert error.id == "django_rb.E205"
    assert "127.0.0.1:1/0" in error.msg


def ids(**options: Any) -> set[str]:
    return {str(message.id) for message in check_live_nodes(**options)}


def test_a_cluster_that_is_whole_is_no_matter(admin: Admin) -> None:
    assert ids() == {"django_rb.W205"}


def test_slots_without_owner_are_found(admin: Admin) -> None:
    owner = admin.owner(0)
    admin.ask(owner, "CLUSTER", "DELSLOTS", 0)
    try:
        wait_until(lambda: not admin.is_ok(owner))
        found = ids()
    finally:
        admin.ask(owner, "CLUSTER", "ADDSLOTS", 0)
    wait_until(lambda: all(map(admin.is_ok, range(3))))
    admin.agree(0, owner)
    # Whether the one that was asked knows of the slot depends on who it was.
    assert {"django_rb.E207", "django_rb.W208"} <= found


def test_rb_hot_shows_busy_slots(redis_cluster: LocalNodes) -> None:
    cluster = clusters["default"]
    _, refused = cluster.call_nodes("CONFIG", "SET", "cluster-slot-stats-enabled", "yes")
    if refused:
        pytest.skip("needs Valkey 8 or Redis 8.2")
    with cluster.map() as client:
        for n in range(100):
            client.set(f"page:{n}", "x" * 1000)
    try:
        with asked_for(cluster, "page:7"):
            found = run("rb_hot", seconds=0.6, top=100)
    finally:
        cluster.call_nodes("CONFIG", "SET", "cluster-slot-stats-enabled", "no")
    busiest = found["slots"][0]
    assert "page:7" in busiest["examples"]
    assert busiest["host_id"] == cluster.get_host_for_key("page:7")
    assert busiest["bytes_out"] > 1000
    assert busiest["cpu"] > 0
    assert "page:7" in {one["key"] for one in found["keys"]}
    assert run("rb_hot", seconds=0.1)["slots"] == []


def test_rb_big_measures_all_shards(redis_cluster: LocalNodes) -> None:
    with clusters["default"].map() as client:
        for key in KEYS:
            client.set(key, "x")
        client.set("large", "x" * 10_000)
    found = run("rb_big")
    assert found["measured"] == len(KEYS) + 1
    assert found["keys"][0]["key"] == "large"
