"""What only the old layout has is found, and comes along as it is."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
import redis
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.engine import Cluster
from django_rb.engine.rounds.observing import BatchEvent, Observer, add_observer
from django_rb.testing import LocalNodes
from tests.cache.warming.conftest import KEYS, Caches, make_caches
from tests.helpers import Servers

pytestmark = pytest.mark.static

VALUES: list[Any] = [
    0,
    -7,
    2**63 - 1,
    "text",
    b"\x00\xff",
    None,
    ("a", 1),
    {"x": [1.5]},
    "x" * 99_999,
]


def test_every_kind_of_read_finds_it(caches: Caches) -> None:
    values = {key: VALUES[n % len(VALUES)] for n, key in enumerate(KEYS)}
    caches.before.set_many(values, None)
    one, two, three, four, *others = caches.moving
    assert caches.after.get(one) == values[one]
    assert caches.after.has_key(two)
    assert caches.after.get_or_set(three, "computed") == values[three]
    assert caches.after.ttl(four) is None
    assert set(caches.plain.get_many(caches.moving)) == {one, two, three, four}
    assert list(caches.after.get_many(KEYS).items()) == list(values.items())
    assert caches.plain.get_many(KEYS) == values
    assert caches.before.get_many(others) == {key: values[key] for key in others}


def test_what_neither_has_is_missing(caches: Caches) -> None:
    caches.before.set("page:0", 1)
    assert caches.after.get_many(KEYS) == {"page:0": 1}
    assert caches.after.get("page:1", "default") == "default"
    assert not caches.after.has_key("page:1")
    assert caches.after.ttl("page:1") == 0
    assert caches.after.get_or_set("page:1", "computed") == "computed"
    assert caches.after.get_or_set_many(
        ["page:0", "page:2"], lambda keys: dict.fromkeys(keys, 3)
    ) == {
        "page:0": 1,
        "page:2": 3,
    }


def test_keys_may_be_named_twice(caches: Caches) -> None:
    key, other, *_ = caches.moving
    caches.before.set_many({key: "a", 1: "b"}, None)
    assert caches.after.get_many([other, key, key, 1, "1", other, "1"]) == {
        key: "a",
        1: "b",
        "1": "b",
    }
    assert caches.plain.get(key) == "a"


def test_no_time_is_lost_or_won(caches: Caches) -> None:
    caches.before.set_many(dict.fromkeys(caches.moving, 1), 100)
    caches.before.set(caches.moving[0], 1, None)
    assert len(caches.after.get_many(caches.moving)) == len(caches.moving)
    assert caches.plain.ttl(caches.moving[0]) is None
    for key in caches.moving[1:]:
        left = caches.before.pttl(key)
        moved = caches.plain.pttl(key)  # a little later, so it is no more
        assert moved is not None
        assert left is not None
        assert 90_000 < moved <= left + 1


def test_keys_with_the_same_owner_are_asked_for_once(caches: Caches, servers: Servers) -> None:
    staying = [key for key in KEYS if key not in caches.moving]
    caches.after.get_many([*KEYS])  # who the nodes are is known then
    servers.reset_counts()
    for key in staying:
        assert caches.after.get(key) is None
        caches.after.set(key, 1)
        assert caches.after.incr(key) == 2
        assert caches.after.delete(key)
    counts = sum(servers.counts().values(), Counter[str]())
    many = len(staying)
    sent = {name: counts[name] for name in ("get", "set", "unlink", "evalsha_ro")}
    # A script looks at the value once more.
    assert sent == {"get": 2 * many, "set": many, "unlink": 2 * many, "evalsha_ro": 0}
    servers.reset_counts()
    caches.after.get_many(staying)
    assert sum(sum(count.values()) for count in servers.counts().values()) <= 3


def test_a_read_asks_for_all_that_is_missing_at_once(caches: Caches, servers: Servers) -> None:
    caches.before.set_many(dict.fromkeys(KEYS, 1), None)
    caches.after.get_many(KEYS[:1])
    servers.reset_counts()
    assert len(caches.after.get_many(KEYS)) == len(KEYS)
    counts = servers.counts()
    asked = sum(
        count["mget"] + count["evalsha"] + count["evalsha_ro"] for count in counts.values()
    )
    assert asked <= 4 + 3 + 4


def test_signed_and_compressed_values_stay_valid(layout: str) -> None:
    options = {"SIGNING_KEY": "k" * 32, "COMPRESSOR": "zlib", "SERIALIZER": "json"}
    caches = make_caches(**options)
    caches.before.set_many(dict.fromkeys(KEYS, "x" * 5000), version=2)
    assert caches.after.get_many(KEYS, version=2) == dict.fromkeys(KEYS, "x" * 5000)
    assert caches.after.get("page:1") is None
    assert caches.plain.get_many(KEYS, version=2) == dict.fromkeys(KEYS, "x" * 5000)


def test_a_bad_signature_is_a_miss_and_is_replaced(layout: str) -> None:
    caches = make_caches(SIGNING_KEY="k" * 32)
    forged = make_caches(SIGNING_KEY="f" * 32)
    key = caches.moving[0]
    forged.before.set(key, "forged")
    assert caches.after.get(key) is None
    assert caches.after.get_many([key]) == {}
    assert caches.after.get_or_set(key, "sound") == "sound"
    assert caches.after.get(key) == "sound"


def test_a_computed_value_is_not_computed_again(caches: Caches) -> None:
    key, other, *_ = caches.moving
    for name in (key, other):
        caches.before.get_or_set(name, "computed", 100, stale=100)

    def never(*_: Any) -> Any:
        raise AssertionError("it is there")

    assert caches.after.get_or_set(key, never, 100, stale=100, lock=5) == "computed"
    assert caches.after.get_or_set_many([other], never, 100, stale=100) == {other: "computed"}
    assert 90 < (caches.plain.ttl(key) or 0) <= 100
    assert caches.after.refresh(key, "anew", 100, stale=100) == "anew"
    assert caches.before.get(key) is None
    assert caches.after.get(key) == "anew"


ROUTERS = ["PartitionRouter", "ConsistentHashingRouter"]


@pytest.mark.parametrize("router", ROUTERS)
def test_any_router_may_have_placed_the_keys(nodes: LocalNodes, router: str) -> None:
    old = {"HOSTS": nodes.hosts, "ROUTER": f"django_rb.engine.{router}"}
    odd = ["{user}:a", "{}b", "c{", "}d{e}"]
    for layouts in (
        {"old": old, "default": {"HOSTS": nodes.hosts}},
        {"old": {"HOSTS": nodes.hosts}, "default": old},
    ):
        nodes.flush()
        with override_settings(RB_CLUSTERS=layouts):
            caches = make_caches()
            caches.before.set_many(dict.fromkeys([*KEYS, *odd], 1), None)
            assert len(caches.after.get_many([*KEYS, *odd])) == len(KEYS) + len(odd)
            caches.after.delete_many([*KEYS, *odd])
            assert caches.after.get_many([*KEYS, *odd]) == {}
            caches.before.set_many(dict.fromkeys([*KEYS, *odd], 1), None)
            # They are deleted: who writes to the old layout alone is not heard for a while.
            moved = [key for key in [*KEYS, *odd] if caches.is_moving(key)]
            assert moved
            assert caches.after.get_many(moved) == {}


def test_a_full_node_that_takes_nothing_makes_misses(caches: Caches, servers: Servers) -> None:
    key, other, *_ = caches.moving
    caches.before.set_many({key: 1, other: 2}, 100)
    caches.after.has_key("nothing")  # who the nodes are is known then
    try:
        for host_id in range(4):
            servers.ask(host_id, "CONFIG", "SET", "maxmemory", 1)
        assert caches.after.get(key) is None
        assert caches.after.get_many([key, other]) == {}
        assert not caches.after.has_key(other)
        with pytest.raises(redis.RedisError):
            caches.after.incr(key)
    finally:
        for host_id in range(4):
            servers.ask(host_id, "CONFIG", "SET", "maxmemory", 0)
    assert caches.after.incr(key) == 2
    assert caches.after.get(other) == 2


def test_values_of_any_size_come_along(caches: Caches) -> None:
    values = {key: "x" * (300_000 if n % 9 == 0 else n) for n, key in enumerate(KEYS)}
    caches.before.set_many(values, 100)
    assert caches.after.get_many(KEYS) == values
    assert caches.plain.get_many(KEYS) == values


class Found(Observer):
    def __init__(self) -> None:
        self.numbers: list[tuple[str, int, int, int]] = []

    def batch_ended(self, batch: BatchEvent) -> None:
        if batch.hits or batch.misses:
            self.numbers.append((batch.operation, batch.hits, batch.misses, batch.warmed))


def test_observers_are_told_what_came_from_the_old_layout(caches: Caches) -> None:
    found = Found()
    cluster: Cluster = caches.after.cluster
    add_observer(cluster, found)
    one, two, three, *_ = caches.moving
    caches.before.set_many({one: 1, two: 2})
    caches.after.get(one)
    caches.after.get(one)
    caches.after.get_many([one, two, three])
    assert found.numbers == [("get", 1, 0, 1), ("get", 1, 0, 0), ("get_many", 2, 1, 1)]


def test_all_processes_know_what_share_of_reads_came_from_the_old_layout(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_rb.cache.warming.tally.STORE_SECONDS", -1.0)
    other: RBCache = make_caches().after
    keys = caches.moving[:4]
    caches.before.set_many(dict.fromkeys(keys, 1))
    assert other.warm_share() == (0, 0)
    caches.after.get_many(keys)
    caches.after.get_many(keys)
    caches.after.get(keys[0])
    caches.after.get("nothing")
    assert other.warm_share() == (10, 4)
    assert other.warm_share().share == 0.4
    assert sorted(caches.after.keys()) == sorted(keys)
    assert "page:none" not in caches.after.keys("*")


def test_keys_of_both_layouts_are_listed(caches: Caches) -> None:
    caches.before.set_many(dict.fromkeys(KEYS, 1))
    caches.after.set("page:new", 1)
    assert sorted(caches.after.keys("page:*")) == sorted([*KEYS, "page:new"])
    assert sorted(set(caches.after.iter_keys("page:*", 7))) == sorted([*KEYS, "page:new"])


@pytest.mark.only_sync
def test_threads_that_read_the_same_store_it_once(caches: Caches) -> None:
    caches.before.set_many(dict.fromkeys(KEYS, 1), 100)
    together = threading.Barrier(8)
    found: list[int] = []

    def read() -> None:
        together.wait()
        found.append(len(caches.after.get_many(KEYS)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [len(KEYS)] * 8
