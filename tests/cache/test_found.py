"""What observers are told of hits and misses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.engine.rounds.observing import (
    BatchEvent,
    Observer,
    add_observer,
    remove_observer,
)
from django_rb.testing import LocalNodes
from tests.helpers import make_cache

KEY = "0123456789abcdef"

Found = list[tuple[str, int, int]]


class Counting(Observer):
    def __init__(self) -> None:
        self.found: Found = []

    def batch_ended(self, batch: BatchEvent) -> None:
        self.found.append((batch.operation, batch.hits, batch.misses))


@pytest.fixture
def cache(nodes: LocalNodes) -> RBCache:
    return make_cache()


@pytest.fixture
def found(cache: RBCache) -> Iterator[Found]:
    counting = Counting()
    add_observer(cache.cluster, counting)
    yield counting.found
    remove_observer(cache.cluster, counting)


def test_reads(cache: RBCache, found: Found) -> None:
    cache.set_many({"a": 1, "b": None})
    cache.get("a"), cache.get("b", 5), cache.get("c", 5)
    cache.get_many(["a", "b", "c", "d", "a"])
    cache.get_many(["c"])
    assert found == [
        ("set_many", 0, 0),
        ("get", 1, 0),
        ("get", 1, 0),
        ("get", 0, 1),
        ("get_many", 2, 2),
        ("get_many", 0, 1),
    ]


def test_awaited_reads(cache: RBCache, found: Found) -> None:
    async def read() -> None:
        await cache.aset("a", 1)
        await asyncio.gather(*(cache.aget_many(["a", f"b{n}"]) for n in range(5)))
        await cache.aget("a")

    asyncio.run(read())
    assert found == [("set", 0, 0), *[("get_many", 1, 1)] * 5, ("get", 1, 0)]


def test_a_value_without_a_signature_is_a_miss(cache: RBCache, found: Found) -> None:
    cache.set_many({"a": "1", "b": "2"})
    signed = make_cache("default", OPTIONS={"SIGNING_KEY": KEY})
    signed.set("c", "3")
    found.clear()
    signed.get("a"), signed.get_many(["a", "b", "c"])
    assert found == [("get", 0, 1), ("get_many", 1, 2)]


class Reading:
    def __reduce__(self) -> tuple[object, ...]:
        return _read, ("gone",)


def _read(key: str) -> object:
    return make_cache().get(key)


@pytest.mark.only_sync
def test_a_value_that_reads_the_cache_itself(cache: RBCache, found: Found) -> None:
    cache.set("a", Reading())
    found.clear()
    cache.get("a")
    assert found == [("get", 0, 1), ("get", 1, 0)]


def test_a_node_that_fails() -> None:
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": [{"port": 1}]}}):
        cache = make_cache("default", OPTIONS={"ON_NODE_ERROR": "miss"})
        add_observer(cache.cluster, counting := Counting())
        cache.get("a"), cache.get_many(["a", "b"])
        raising = make_cache()
        with pytest.raises(redis.ConnectionError):
            raising.get("a")
    assert counting.found == [("get", 0, 1), ("get_many", 0, 2), ("get", 0, 1)]
