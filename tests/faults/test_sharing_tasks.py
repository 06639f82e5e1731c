"""Many tasks on one loop: few connections, fair queues, and neighbours that harm nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import redis

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import NodeDown
from django_rb.engine.nodes.changes import HealthChange
from tests.faults.operations import Caller, own
from tests.faults.proxy import (
    MakeTamper,
    cut_after,
    delayed,
    dripping,
    from_byte,
    hang_up,
    only_first,
    reset_after,
    swallow,
)
from tests.faults.rig import FAULTY, SOCKET_TIMEOUT, TIMEOUTS, Rig, pools_of
from tests.faults.test_faults import warm_up
from tests.helpers import make_cache, wait_until

TASKS = 1000
OK = len(b"+OK\r\n")


@pytest.fixture
def transport() -> str:
    return "asyncio"


@contextlib.contextmanager
def cache_of(rig: Rig, deadline: float | None = None, **options: Any) -> Iterator[RBCache]:
    """A cache that was used before, with the faulty node behind its proxy."""
    with rig.cluster(FAULTY, **options):
        caller = Caller()
        warm_up(caller, rig)
        rig.proxy.commands.clear()
        yield make_cache(OPTIONS={"DEADLINE": deadline})
        assert caller.cache("get_many", rig.data.all).error is None
        rig.check_connections(caller.cluster)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    assert Caller.loop is not None
    return Caller.loop.run(coroutine)


def failures_seen(cache: RBCache) -> list[str]:
    """Return a list that gets the states of nodes that fail."""
    states: list[str] = []

    def note(change: HealthChange) -> None:
        if change.state != "up":
            states.append(change.state)

    cache.cluster.on_health_change(note)
    return states


async def gather(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*coroutines, return_exceptions=True)


ONE: dict[str, Any] = {
    "POOL_OPTIONS": {**TIMEOUTS, "socket_timeout": 5.0, "max_connections": 1}
}
HASTY_ONE: dict[str, Any] = {"POOL_OPTIONS": {**TIMEOUTS, "max_connections": 1}}


# Connections.


@pytest.mark.parametrize("most", [1, 3])
def test_a_thousand_tasks_share_few_connections(most: int, rig: Rig) -> None:
    options = {"socket_timeout": 10.0, "max_connections": most}
    with rig.cluster(POOL_OPTIONS=options) as cluster:
        cache = make_cache()
        names = rig.data.all

        async def ask() -> tuple[list[Any], list[Any]]:
            singles = [cache.aget(names[n % len(names)]) for n in range(TASKS)]
            several = [cache.aget_many(names) for _ in range(50)]
            found = await gather(*singles, *several)
            return found[:TASKS], found[TASKS:]

        singles, several = run(ask())
        assert singles == [own(names[n % len(names)]) for n in range(TASKS)]
        assert several == [{name: own(name) for name in names}] * 50
        assert {len(pool.connections) for pool in pools_of(cluster)} == {most}
        rig.check_connections(cluster)


def test_single_keys_need_two_connections(rig: Rig) -> None:
    with rig.cluster() as cluster:
        cache = make_cache()
        run(gather(*(cache.aget(name) for name in rig.data.all * 30)))
        assert all(len(pool.connections) <= 2 for pool in pools_of(cluster))


# Queues.


def test_tasks_that_wait_are_served_in_their_order(rig: Rig) -> None:
    with cache_of(rig, **ONE) as cache:
        served: list[int] = []

        async def ask(number: int) -> None:
            assert len(await cache.aget_many(rig.data.lost)) == len(rig.data.lost)
            served.append(number)

        run(gather(*map(ask, range(50))))
        assert served == list(range(50))


@pytest.mark.parametrize("many_wait", [True, False])
def test_neither_single_keys_nor_batches_starve(many_wait: bool, rig: Rig) -> None:
    """Twenty tasks go on and on; whatever else comes is served in its turn."""
    with cache_of(rig, **ONE) as cache:
        counted = 0
        is_over = False

        async def ask(*, many: bool) -> None:
            if many:
                await cache.aget_many(rig.data.lost)
            else:
                await cache.aget(rig.data.one)

        async def go_on() -> None:
            nonlocal counted
            while not is_over:
                await ask(many=not many_wait)
                counted += 1

        async def wait_between() -> list[int]:
            nonlocal is_over
            others = [asyncio.ensure_future(go_on()) for _ in range(20)]
            await asyncio.sleep(0.01)
            counts = []
            for _ in range(20):
                before = counted
                await ask(many=many_wait)
                counts.append(counted - before)
            is_over = True
            await asyncio.gather(*others)
            return counts

        assert max(run(wait_between())) <= 60


def test_a_queue_that_is_too_long_is_not_the_nodes_fault(rig: Rig) -> None:
    with cache_of(rig, **HASTY_ONE) as cache:
        failures = failures_seen(cache)
        with rig.proxy.tampering(replies=dripping(0.005)):
            first, *others = run(gather(*(cache.aget_many(rig.data.lost) for _ in range(3))))
        assert len(first) == len(rig.data.lost)
        for error in others:
            assert isinstance(error, redis.TimeoutError)
            assert "All 1 connections of this event loop were in use" in str(error)
        assert failures == []


# Neighbours: commands that go out together.


def test_a_cancelled_task_takes_nothing_from_its_neighbours(rig: Rig) -> None:
    with cache_of(rig, **ONE) as cache:

        async def ask() -> list[Any]:
            tasks = [asyncio.ensure_future(cache.aget(name)) for name in rig.data.lost * 4]
            await asyncio.sleep(0.02)  # the first is on its way; the others come after it
            tasks[3].cancel()
            await tasks[0]
            await asyncio.sleep(0.01)  # now the others are
            tasks[5].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        accepted = rig.proxy.accepted
        with rig.proxy.tampering(replies=delayed(0.04)):
            found = run(ask())
        for number, name in enumerate(rig.data.lost * 4):
            if number in {3, 5}:
                assert isinstance(found[number], asyncio.CancelledError)
            else:
                assert found[number] == own(name)
        assert rig.proxy.accepted == accepted


def test_if_all_are_cancelled_the_connection_is_closed(rig: Rig) -> None:
    with cache_of(rig, **ONE) as cache:

        async def ask() -> list[Any]:
            tasks = [asyncio.ensure_future(cache.aget(name)) for name in rig.data.lost]
            await tasks[0]
            await asyncio.sleep(0.01)  # the others are on their way
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        with rig.proxy.tampering(replies=delayed(0.05)):
            first, *others = run(ask())
            assert first == own(rig.data.one)
            assert all(isinstance(error, asyncio.CancelledError) for error in others)
            wait_until(lambda: not rig.proxy.open)


def test_a_deadline_ends_one_of_those_that_go_out_together(rig: Rig) -> None:
    with cache_of(rig, **ONE) as cache:
        hasty = make_cache(OPTIONS={"DEADLINE": 0.06})
        failures = failures_seen(cache)
        accepted = rig.proxy.accepted
        patient = rig.data.lost[:3]
        with rig.proxy.tampering(replies=delayed(0.04)):
            found = run(
                gather(*(cache.aget(name) for name in patient), hasty.aget(rig.data.one))
            )
        assert found[:-1] == [own(name) for name in patient]
        assert isinstance(found[-1], redis.TimeoutError)
        assert "Deadline" in str(found[-1])
        assert rig.proxy.accepted == accepted
        assert failures == []  # it had waited for the others, and not for the node


@pytest.mark.parametrize(
    ("after_first", "well"), [(hang_up(reset=True), 1), (cut_after(2 * OK + 1)(), 3)]
)
def test_a_lost_connection_is_one_failure(after_first: Any, well: int, rig: Rig) -> None:
    """What was answered before has its answer, and nothing is sent again."""
    tamper: MakeTamper = only_first(from_byte(OK, after_first))
    with cache_of(rig, **ONE) as cache:
        with rig.proxy.tampering(replies=tamper):
            found = run(gather(*(cache.aset(name, own(name)) for name in rig.data.lost * 2)))
        assert found[:well] == [None] * well
        for error in found[well:]:
            assert isinstance(error, redis.ConnectionError)
            assert "Connection lost" in str(error)
        assert len({id(error) for error in found[well:]}) == len(found) - well
        assert rig.proxy.names() == [b"SET"] * len(found)
        health = cache.cluster.health()[FAULTY]
        assert (health.state, health.failures) == ("failing", 1)


def test_reads_that_went_out_together_are_asked_again_together(rig: Rig) -> None:
    with cache_of(rig, **ONE) as cache:
        with rig.proxy.tampering(replies=only_first(reset_after(0))):
            found = run(gather(*(cache.aget(name) for name in rig.data.lost)))
        assert found == [own(name) for name in rig.data.lost]
        assert rig.proxy.names() == [b"GET"] * (len(found) + 1)
        assert cache.cluster.health()[FAULTY].state == "up"


# Time in which nobody ran the loop.


BLOCKED = 2 * SOCKET_TIMEOUT


@pytest.mark.parametrize(
    ("warm", "delay"), [(True, 0.02), (True, BLOCKED + 0.05), (False, 0.02)]
)
def test_a_loop_that_was_blocked_does_not_blame_a_node(
    warm: bool, delay: float, rig: Rig
) -> None:
    with cache_of(rig, **HASTY_ONE) as cache:

        async def ask() -> Any:
            if not warm:
                await cache.cluster.aclose()
            task = asyncio.ensure_future(cache.aget_many(rig.data.all))
            for _ in range(3):  # until it is on its way
                await asyncio.sleep(0)
            time.sleep(BLOCKED)  # somebody's code
            return await task

        with rig.proxy.tampering(replies=delayed(delay)):
            assert run(ask()) == {name: own(name) for name in rig.data.all}
        assert cache.cluster.health()[FAULTY].state == "up"


# Probes.


def test_a_cancelled_probe_is_still_the_only_one(rig: Rig) -> None:
    health = {"FAILURES": 1, "PAUSE": 0.02, "MAX_PAUSE": 0.02}
    with cache_of(rig, HEALTH=health, **HASTY_ONE) as cache:
        node = cache.cluster.nodes[FAULTY]
        with rig.proxy.tampering(requests=lambda: swallow):
            (error,) = run(gather(cache.aget(rig.data.one)))
            assert isinstance(error, redis.TimeoutError)
            wait_until(lambda: node.health.get().retry_in == 0)

            async def probe() -> Any:
                task = asyncio.ensure_future(cache.aget(rig.data.one))
                await asyncio.sleep(0.02)
                task.cancel()
                return await gather(*(cache.aget(name) for name in rig.data.lost))

            accepted = rig.proxy.accepted
            for error in run(probe()):
                assert isinstance(error, NodeDown)
                assert "it is being probed" in str(error)
            assert rig.proxy.accepted == accepted + 1
        wait_until(lambda: Caller().cache("get", rig.data.one).error is None)


# Memory.


def test_a_batch_for_a_node_that_takes_nothing_stays_small(rig: Rig) -> None:
    """50 MB are to be sent; the node reads none of it, and only some of it is ever made."""
    with cache_of(rig, deadline=0.3) as cache:
        value = "x" * 100_000
        values = {f"{rig.data.one}{{{n}}}": value for n in range(500 * len(rig.data.hosts))}
        rig.nodes.pause(FAULTY)
        try:
            tracemalloc.start()
            (error,) = run(gather(cache.aset_many(values)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            rig.nodes.resume(FAULTY)
        assert isinstance(error, redis.TimeoutError)
        assert peak < 8_000_000
        assert clusters["default"] is cache.cluster
