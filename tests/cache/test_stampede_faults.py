"""Computed values while their node is down, dies, or is slow."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.cache.flights import Flight
from django_rb.testing import LocalNodes
from tests.cache.test_stampedes import KEY, Work, fail, make_stale
from tests.faults.proxy import Proxy, delayed
from tests.helpers import make_cache, wait_until


@pytest.fixture
def proxy(open_nodes: LocalNodes) -> Iterator[Proxy]:
    """What the only node of the cluster is behind."""
    host = open_nodes.hosts[0]
    with Proxy((host["host"], host["port"])) as proxy:
        options = {"HOSTS": [proxy.host], "HEALTH": {"FAILURES": 100}}
        with override_settings(RB_CLUSTERS={"default": options}):
            yield proxy
        clusters.reset()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def outcome(call: Any) -> Any:
    """Return what a call returned, or the type of what it raised."""
    return type(call.exception()) if call.exception() else call.result()


@pytest.fixture(params=["raise", "miss"])
def cache(request: pytest.FixtureRequest, proxy: Proxy) -> RBCache:
    return make_cache(OPTIONS={"ON_NODE_ERROR": request.param})


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[Flight]:
    """The computations that calls wait for, from now on, one for each call."""
    waited_for: list[Flight] = []
    wait, await_end = Flight.wait, Flight.await_end

    def note_wait(self: Flight, seconds: float) -> bool:
        waited_for.append(self)
        return wait(self, seconds)

    async def note_awaited(self: Flight, seconds: float) -> bool:
        waited_for.append(self)
        return await await_end(self, seconds)

    monkeypatch.setattr(Flight, "wait", note_wait)
    monkeypatch.setattr(Flight, "await_end", note_awaited)
    return waited_for


def is_strict(cache: RBCache) -> bool:
    return bool(cache._ops._raises)


def test_a_node_that_is_down(cache: RBCache, proxy: Proxy, pool: ThreadPoolExecutor) -> None:
    work = Work(waits=True)
    with proxy.refusing():
        calls = [pool.submit(cache.get_or_set, KEY, work, 60, lock=5) for _ in range(8)]
        if is_strict(cache):
            assert {outcome(call) for call in calls} == {redis.ConnectionError}
            assert work.calls == 0
            return
        assert work.began.wait(5)
        # All of them find that the node fails, and wait for the one that computes.
        flights = cache._ops.flights.by_key
        wait_until(lambda: len(flights) == 1 and pool._work_queue.empty())
        work.may_end.set()
        assert 1 in {outcome(call) for call in calls}
        assert None not in {outcome(call) for call in calls}


def test_a_node_that_dies_in_the_middle(
    cache: RBCache, proxy: Proxy, pool: ThreadPoolExecutor, waiting: list[Flight]
) -> None:
    make_stale(cache)
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, lock=5)
    assert work.began.wait(5)
    others = [pool.submit(cache.get_or_set, KEY, fail, 60, lock=5) for _ in range(4)]
    wait_until(lambda: len(waiting) == 4)
    with proxy.refusing():
        work.may_end.set()
        expected = {redis.ConnectionError} if is_strict(cache) else {1}
        assert {outcome(call) for call in (first, *others)} == expected
    assert cache.get(KEY) == "old"
    assert cache.get_or_set(KEY, lambda: "new", 60, lock=0.1) == "new"


def test_a_node_that_is_slow(cache: RBCache, proxy: Proxy, pool: ThreadPoolExecutor) -> None:
    work = Work()
    with proxy.tampering(replies=delayed(0.05)):
        calls = [pool.submit(cache.get_or_set, KEY, work, 60, lock=5) for _ in range(8)]
        assert {call.result() for call in calls} == {1}
        assert cache.get_or_set(KEY, fail, 60, lock=5) == 1
