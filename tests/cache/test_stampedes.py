"""One computes, the others are served."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from django_rb.cache import RBCache
from django_rb.cache.companions import lease_of
from django_rb.cache.flights import Flight
from django_rb.cache.leases import take
from django_rb.cache.terms import is_early
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache, wait_until
from tests.tables import for_each

KEY, STORED = "report", b":1:report"


class Work:
    """A function that counts its calls, and returns their number once it is let go."""

    def __init__(self, *, waits: bool = False) -> None:
        self.calls = 0
        self.began = threading.Event()
        self.may_end = threading.Event()
        if not waits:
            self.may_end.set()
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            self.calls += 1
            number = self.calls
        self.began.set()
        assert self.may_end.wait(10)
        return number


class Broken(Exception):
    pass


def fail() -> Any:
    raise Broken


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def make_stale(cache: RBCache, value: Any = "old") -> None:
    """Store a value that may be served, and is to be computed anew."""
    cache.refresh(KEY, lambda: value, 0.02, stale=60)
    wait_until(lambda: cache.pttl(KEY) == 0)


def test_one_computes_and_the_others_wait(cache: RBCache, pool: ThreadPoolExecutor) -> None:
    work = Work(waits=True)
    calls = [pool.submit(cache.get_or_set, KEY, work, 60, lock=5) for _ in range(16)]
    assert work.began.wait(5)
    work.may_end.set()

    assert {call.result() for call in calls} == {1}
    assert cache.get(KEY) == 1


def test_who_waits_in_this_process_does_not_ask_the_node(
    cache: RBCache, pool: ThreadPoolExecutor, servers: Servers
) -> None:
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, lock=5)
    assert work.began.wait(5)
    servers.reset_counts()
    others = [pool.submit(cache.get_or_set, KEY, fail, 60, lock=5) for _ in range(8)]
    wait_until(lambda: pool._work_queue.empty() and len(pool._threads) >= 9)
    assert not any(servers.counts().values())
    work.may_end.set()
    assert {call.result() for call in (first, *others)} == {1}


def test_another_process_waits_for_the_lease(
    cache: RBCache, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, other = Work(waits=True), make_other_process()
    first = pool.submit(cache.get_or_set, KEY, work, 60, lock=5)
    assert work.began.wait(5)
    second = pool.submit(other.get_or_set, KEY, fail, 60, lock=5)
    with pytest.raises(TimeoutError):
        second.result(0.1)
    work.may_end.set()
    assert (first.result(), second.result(1)) == (1, 1)


def make_other_process() -> RBCache:
    """Return a cache that knows nothing of the flights of this process."""
    other = make_cache()
    flights = type(other._ops.flights)()
    other._ops.flights, other._ops.under_way = flights, flights.by_key
    return other


def test_a_stale_value_is_served_while_one_computes(
    cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    make_stale(cache)
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, stale=60)
    assert work.began.wait(5)
    assert cache.get_or_set(KEY, fail, 60, stale=60) == "old"
    assert make_other_process().get_or_set(KEY, fail, 60, stale=60) == "old"
    work.may_end.set()
    assert first.result() == 1
    assert cache.get_or_set(KEY, fail, 60, stale=60) == 1


def test_a_value_is_not_served_for_longer_than_the_caller_allows(cache: RBCache) -> None:
    make_stale(cache)
    assert cache.get_or_set(KEY, lambda: "new", 60, lock=5) == "new"


def test_a_key_expires_when_its_value_may_not_be_served(
    cache: RBCache, servers: Servers
) -> None:
    with servers.expiring(STORED, 90_000):
        cache.get_or_set(KEY, lambda: 1, 30, stale=60)
    cache.get_or_set("always", lambda: 1, None, stale=60)
    assert cache.ttl("always") is None
    assert cache.get_or_set("always", fail, None, stale=60) == 1


@pytest.mark.parametrize("face", ["sync"], indirect=True)
def test_in_the_background_the_stale_value_is_served_at_once(
    cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    make_stale(cache)
    work = Work(waits=True)
    assert cache.get_or_set(KEY, work, 60, stale=60, background=True) == "old"
    assert work.began.wait(5)
    assert cache.get_or_set(KEY, fail, 60, stale=60, background=True) == "old"
    work.may_end.set()
    wait_until(lambda: cache.get(KEY) == 1)


def test_in_the_background_of_an_event_loop(nodes: LocalNodes) -> None:
    cache = RBCache("default", {})

    async def main() -> None:
        await cache.aget_or_set(KEY, lambda: "old", 0.02, stale=60)
        while await cache.apttl(KEY):
            await asyncio.sleep(0.005)
        may_end = asyncio.Event()

        async def work() -> str:
            await may_end.wait()
            return "new"

        assert await cache.aget_or_set(KEY, work, 60, stale=60, background=True) == "old"
        assert await cache.aget_or_set(KEY, fail, 60, stale=60) == "old"
        may_end.set()
        while await cache.aget(KEY) != "new":
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 5))


def test_a_function_that_fails_has_the_stale_value_served(
    cache: RBCache, caplog: pytest.LogCaptureFixture
) -> None:
    make_stale(cache)
    with caplog.at_level(logging.WARNING, "django_rb.cache"):
        for _ in range(3):
            assert cache.get_or_set(KEY, fail, 60, stale=60, retry_after=0.1) == "old"
    (record,) = caplog.records
    assert "':1:report' failed" in record.getMessage()
    assert "Broken" in str(record.exc_text)
    work = Work()
    wait_until(lambda: cache.get_or_set(KEY, work, 60, stale=60, retry_after=0.1) == 1)
    assert work.calls == 1


def test_without_a_stale_value_the_error_is_that_of_all_who_wait(
    cache: RBCache, pool: ThreadPoolExecutor, servers: Servers
) -> None:
    work = Work(waits=True)

    def fail_later() -> None:
        work()
        raise Broken

    calls = [pool.submit(cache.get_or_set, KEY, fail_later, 60, lock=5) for _ in range(4)]
    assert work.began.wait(5)
    wait_until(pool._work_queue.empty)
    work.may_end.set()
    for call in calls:
        with pytest.raises(Broken):
            call.result()
    assert not any(servers.keys().values())  # nor is there a lease
    assert cache.get_or_set(KEY, lambda: "works", 60, lock=5) == "works"


@for_each("value", [None, 0, "", [], False])
def test_nothing_is_a_value_too(cache: RBCache, value: Any) -> None:
    cache.clear()
    for function in (lambda: value, fail):
        assert cache.get_or_set(KEY, function, 60, stale=5) == value


def test_a_default_may_be_a_value(cache: RBCache) -> None:
    assert cache.get_or_set(KEY, "text", 60, stale=5) == "text"
    assert cache.get_or_set(KEY, "other", 60, stale=5) == "text"


def test_what_is_not_to_be_kept_is_computed_each_time(cache: RBCache, servers: Servers) -> None:
    work = Work()
    assert [cache.get_or_set(KEY, work, 0, stale=5) for _ in range(2)] == [1, 2]
    assert not any(servers.keys().values())


def test_a_lease_ends_by_time(cache: RBCache, pool: ThreadPoolExecutor) -> None:
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, lock=0.2)
    assert work.began.wait(5)
    assert make_other_process().get_or_set(KEY, lambda: "second", 60, lock=0.2) == "second"
    assert cache.get(KEY) == "second"
    work.may_end.set()
    assert first.result() == 1
    assert cache.get(KEY) == "second"  # which is newer


def test_who_waits_in_this_process_takes_over(cache: RBCache, pool: ThreadPoolExecutor) -> None:
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, lock=0.2)
    assert work.began.wait(5)
    others = [
        pool.submit(cache.get_or_set, KEY, lambda: "second", 60, lock=0.2) for _ in range(4)
    ]
    assert {call.result(2) for call in others} == {"second"}
    work.may_end.set()
    first.result()
    assert cache.get(KEY) == "second"


def test_who_is_late_stores_where_nothing_is_newer(
    cache: RBCache, pool: ThreadPoolExecutor, servers: Servers
) -> None:
    slow, slower = Work(waits=True), Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, slow, 60, lock=0.05)
    assert slow.began.wait(5)
    second = pool.submit(
        make_other_process().get_or_set, KEY, lambda: f"slower {slower()}", 60, lock=0.05
    )
    assert slower.began.wait(5)
    slow.may_end.set()
    assert first.result() == 1
    assert cache.get(KEY) == 1
    slower.may_end.set()
    assert second.result() == "slower 1"
    assert cache.get(KEY) == "slower 1"
    assert set.union(*servers.keys().values()) == {STORED}


def delete_all_by_pattern(cache: RBCache) -> None:
    cache.delete_pattern("rep*")


@for_each(
    "invalidate",
    [
        lambda cache: cache.delete(KEY),
        lambda cache: cache.delete_many([KEY, "other"]),
        lambda cache: cache.clear(),
        lambda cache: cache.set(KEY, "gone", 0),
        lambda cache: cache.set_many({KEY: "gone"}, 0),
        delete_all_by_pattern,
    ],
)
@pytest.mark.parametrize("is_stale", [False, True])
def test_what_was_deleted_meanwhile_does_not_come_back(
    cache: RBCache,
    pool: ThreadPoolExecutor,
    invalidate: Callable[[RBCache], object],
    is_stale: bool,
) -> None:
    cache.clear()
    if is_stale:
        make_stale(cache)
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, stale=60)
    assert work.began.wait(5)
    invalidate(cache)
    # Who asks after that must not be given what was computed before.
    later = pool.submit(cache.get_or_set, KEY, lambda: "new", 60, stale=60)
    work.may_end.set()
    assert first.result() == 1
    assert later.result() == "new"
    assert cache.get(KEY) == "new"


def test_what_was_deleted_does_not_come_back_beside_who_computes_anew(
    cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    old, new = Work(waits=True), Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, lambda: f"old {old()}", 60, lock=5)
    assert old.began.wait(5)
    cache.delete(KEY)
    second = pool.submit(make_other_process().get_or_set, KEY, new, 60, lock=5)
    assert new.began.wait(5)
    old.may_end.set()
    assert first.result() == "old 1"
    assert cache.get(KEY) is None
    new.may_end.set()
    assert second.result() == cache.get(KEY) == 1


def test_who_has_waited_for_long_waits_no_longer(cache: RBCache) -> None:
    cluster = cache.cluster
    cluster.run(take(cluster, [STORED], 60_000, is_overtaking=False))
    assert cache.get_or_set(KEY, lambda: "computed", 60, lock=0.1) == "computed"
    assert cache.get(KEY) == "computed"


@pytest.mark.parametrize("is_stale", [False, True])
def test_what_was_set_meanwhile_stays(
    cache: RBCache, pool: ThreadPoolExecutor, is_stale: bool
) -> None:
    if is_stale:
        make_stale(cache)
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, stale=60)
    assert work.began.wait(5)
    cache.set(KEY, "set")
    work.may_end.set()
    assert first.result() == 1
    assert cache.get(KEY) == "set"


def test_refresh_computes_whatever_there_is(cache: RBCache, pool: ThreadPoolExecutor) -> None:
    cache.set(KEY, "set")
    assert cache.refresh(KEY, lambda: "refreshed", 60) == "refreshed"
    make_stale(cache)
    work = Work(waits=True)
    first = pool.submit(cache.get_or_set, KEY, work, 60, stale=60)
    assert work.began.wait(5)
    assert cache.refresh(KEY, lambda: "again", 60) == "again"
    work.may_end.set()
    first.result()
    assert cache.get(KEY) == "again"
    with pytest.raises(Broken):
        cache.refresh(KEY, fail, 60)
    assert cache.get(KEY) == "again"


@pytest.mark.only_sync
def test_a_function_may_ask_for_its_own_key(
    cache: RBCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Flight, "wait")  # it would wait for itself

    def compute() -> str:
        return f"outer {cache.get_or_set(KEY, lambda: 'inner', 60, lock=5)}"

    assert cache.get_or_set(KEY, compute, 60, lock=5) == "outer inner"
    assert cache.get(KEY) == "outer inner"


@pytest.mark.only_sync
def test_a_coroutine_function_is_refused_where_nobody_awaits(cache: RBCache) -> None:
    async def compute() -> int:
        return 1

    with pytest.raises(TypeError, match="Use aget_or_set"):
        cache.get_or_set(KEY, compute, 60, lock=5)
    assert cache.get_or_set(KEY, lambda: 2, 60, lock=5) == 2


@for_each(
    ("arguments", "message"),
    [
        ({"lock": 0}, "lock=0: give the seconds"),
        ({"lock": "5"}, "The lock '5' is of type str"),
        ({"stale": "60"}, "The stale '60' is of type str"),
        ({"early": -1}, "early=-1: give True"),
        ({"retry_after": []}, r"The retry_after \[\] is of type list"),
    ],
)
def test_arguments_that_cannot_be_are_named(
    cache: RBCache, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cache.get_or_set(KEY, 1, 60, **arguments)


# Many keys.


def test_many_are_read_computed_and_stored_at_once(
    cache: RBCache, servers: Servers, topology: str
) -> None:
    cache.set_many({n: f"kept {n}" for n in range(50)})
    asked: list[list[int]] = []

    def compute(missing: list[int]) -> dict[int, Any]:
        asked.append(missing)
        return {n: None if n == 60 else f"computed {n}" for n in missing if n != 70}

    servers.reset_counts()
    found = cache.get_or_set_many(range(100), compute, 60)
    assert asked == [list(range(50, 100))]
    assert list(found) == [n for n in range(100) if n != 70]
    assert (found[7], found[60], found[99]) == ("kept 7", None, "computed 99")
    if topology == "static":
        assert all(count["mget"] == 1 for count in servers.counts().values())
    again = cache.get_or_set_many(range(100), compute, 60)
    assert asked[1:] == [[70]]
    assert again == found
    assert not [key for keys in servers.keys().values() for key in keys if b"lease" in key]


def test_many_that_others_compute_are_waited_for(
    cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    work = Work(waits=True)

    def compute(missing: list[int]) -> dict[int, Any]:
        work()
        return dict.fromkeys(missing, "first")

    first = pool.submit(cache.get_or_set_many, [1, 2], compute, 60)
    assert work.began.wait(5)
    computed: list[int] = []

    def compute_rest(missing: list[int]) -> dict[int, Any]:
        computed.extend(missing)
        return dict.fromkeys(missing, "second")

    calls = [
        pool.submit(other.get_or_set_many, [2, 3], compute_rest, 60)
        for other in (cache, make_other_process())
    ]
    wait_until(lambda: computed == [3])
    work.may_end.set()
    assert first.result() == {1: "first", 2: "first"}
    assert [call.result() for call in calls] == [{2: "first", 3: "second"}] * 2
    assert computed == [3]


def test_of_many_the_stale_are_served_where_the_function_fails(cache: RBCache) -> None:
    make_stale(cache)

    def fail_for_all(_missing: list[Any]) -> dict[Any, Any]:
        raise Broken

    assert cache.get_or_set_many([KEY], fail_for_all, 60, stale=60) == {KEY: "old"}
    with pytest.raises(Broken):
        cache.get_or_set_many([KEY, "missing"], fail_for_all, 60, stale=60)


def test_a_function_for_many_returns_a_dictionary(cache: RBCache) -> None:
    with pytest.raises(TypeError, match=r"returned list\. It must return"):
        cache.get_or_set_many([1], lambda missing: missing, 60)  # type: ignore[arg-type,return-value]


# Early.


def test_early_agrees_with_the_paper_over_many_random_times() -> None:
    """XFetch as the paper has it, with time() and expiry in place of what is left."""
    chances = random.Random(21)
    for _ in range(10_000):
        now, expiry = chances.uniform(0, 1e6), chances.uniform(0, 1e6)
        delta, beta = chances.expovariate(1e-4), chances.choice([0.5, 1, 2])
        chance = chances.random()
        expected = now - delta * beta * math.log(1 - chance) >= expiry
        assert is_early(delta, expiry - now, beta, partial(float, chance)) is expected


def test_early_computes_about_as_long_before_as_it_takes() -> None:
    """Where a key is asked for each millisecond, nobody finds it expired.

    The chance of a request with `left` is exp(-left / took), so that none before that computes
    with a chance of exp(-took * exp(-left / took)): its median is at took * log(took / log(2)).
    """
    chances, took = random.Random(5), 50.0
    gaps = []
    for _ in range(300):
        left = 1000
        while not is_early(took, left, 1, chances.random):
            left -= 1
        gaps.append(left)
    median = sorted(gaps)[len(gaps) // 2]
    assert median == pytest.approx(took * math.log(took / math.log(2)), rel=0.05)


def test_a_dear_value_is_computed_before_its_time(cache: RBCache, servers: Servers) -> None:
    work = Work()
    cache.get_or_set(KEY, work, 60, early=True)
    assert {cache.get_or_set(KEY, work, 60, early=True) for _ in range(20)} == {1}
    assert cache.get_or_set(KEY, work, 60, early=1e12) == 2
    assert cache.ttl(KEY) == 60


def test_early_computation_that_fails_leaves_the_value(cache: RBCache) -> None:
    cache.get_or_set(KEY, lambda: "kept", 60, early=True)
    assert cache.get_or_set(KEY, fail, 60, early=1e12, retry_after=60) == "kept"
    assert cache.get_or_set(KEY, fail, 60, early=1e12, retry_after=60) == "kept"
    assert cache.ttl(KEY) == 60


# Cancelled.


def test_a_cancelled_task_leaves_no_lease(nodes: LocalNodes) -> None:
    cache = RBCache("default", {})

    async def main() -> None:
        began = asyncio.Event()

        async def work() -> str:
            began.set()
            await asyncio.sleep(60)
            return "never"

        first = asyncio.create_task(cache.aget_or_set(KEY, work, 60, lock=30))
        await began.wait()
        second = asyncio.create_task(cache.aget_or_set(KEY, lambda: "second", 60, lock=30))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "second"
        with pytest.raises(asyncio.CancelledError):
            await first
        lease = lease_of(STORED).decode()
        assert not await cache.cluster.aio.exists(lease)

    asyncio.run(asyncio.wait_for(main(), 5))


def test_five_hundred_tasks_compute_once(nodes: LocalNodes) -> None:
    cache, calls = RBCache("default", {}), []

    async def work() -> int:
        calls.append(1)
        await asyncio.sleep(0.05)
        return len(calls)

    async def main() -> set[Any]:
        asked = [cache.aget_or_set(KEY, work, 60, lock=5) for _ in range(500)]
        return set(await asyncio.gather(*asked))

    assert asyncio.run(main()) == {1}
