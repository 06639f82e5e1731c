"""A task cancelled anywhere leaves nothing in doubt: no connection, no reply, no neighbour.

The cancellation comes at every moment in which Python would run something else: see
tests/faults/sharing/injection.py. So does what signal handlers raise into a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import redis

from django_rb.cache import RBCache
from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import call_each
from django_rb.testing import LocalNodes
from tests.faults.operations import own
from tests.faults.rig import open_descriptors, pools_of
from tests.faults.sharing.injection import every_moment
from tests.helpers import Servers, collect_garbage, make_cache, wait_until

T = TypeVar("T")

NAMES = [f"name{n}" for n in range(16)]
_words = itertools.count()
LARGE = 300_000  # more, for four of them, than a socket and a transport take at once


class Site:
    """A cache and a loop, in this thread.

    Attributes:
        complaints: what the loop was told of that nobody caught.
    """

    def __init__(
        self, runner: asyncio.Runner, servers: Servers, deadline: float | None = None
    ) -> None:
        self.cache: RBCache = make_cache(OPTIONS={"DEADLINE": deadline})
        self.cluster: Cluster = self.cache.cluster
        self.servers = servers
        self.complaints: list[dict[str, Any]] = []
        self.runner = runner
        loop = runner.get_loop()
        loop.set_exception_handler(self._take_complaint)

    def _take_complaint(self, _: object, context: dict[str, Any]) -> None:
        # A test that interrupts the loop ends tasks so; Python collects them at some time.
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            self.complaints.append(context)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    async def check(self) -> None:
        """Fail unless every connection is idle and clean, and the next calls are right."""
        async with asyncio.timeout(10):
            while any(
                pool._openings or len(pool._idle) != len(pool.connections)
                for pool in pools_of(self.cluster)
            ):
                await asyncio.sleep(0.001)
        for pool in pools_of(self.cluster):
            assert len(set(pool._idle)) == len(pool._idle)
            assert not pool._joining
            assert not any(job.is_waiting for job in pool._queues)
            for connection in pool._idle:
                assert connection._job is None
                assert not connection._reader.has_data()
        words = {host: f"{next(_words)} for {host}".encode() for host in self.cluster.nodes}
        asked = {host: ("ECHO", word) for host, word in words.items()}
        assert await self.cluster.arun(call_each(self.cluster, asked)) == (words, [])
        assert await self.cache.aget_many(NAMES) == {name: own(name) for name in NAMES}
        assert self.complaints == []

    def check_nodes(self) -> None:
        """Fail unless the nodes have no connection that the pools do not know."""
        known = sum(len(pool.connections) for pool in pools_of(self.cluster))
        wait_until(lambda: self.count_connections() == known)

    def count_connections(self) -> int:
        """Return how many connections the nodes have, but for the one that asks."""
        listed = [self.servers.ask(host, "CLIENT LIST") for host in self.cluster.nodes]
        return sum(map(len, listed)) - len(listed)


@pytest.fixture
def site(nodes: LocalNodes) -> Iterator[Site]:
    collect_garbage()
    with Servers(nodes.hosts) as servers:
        for host in nodes.hosts:
            servers.ask(host, "PING")
        descriptors = open_descriptors()
        with asyncio.Runner() as runner:
            site = Site(runner, servers)
            site.run(site.cache.aset_many({name: own(name) for name in NAMES}))
            site.run(site.cache.aset("counter", 0))
            yield site
            gc.collect()
            assert site.complaints == []
        wait_until(lambda: site.count_connections() == 0)
        site.cluster.close()
        assert open_descriptors() == descriptors


# What is cancelled. Each fails if it has a wrong result.


async def get(site: Site) -> None:
    assert await site.cache.aget(NAMES[0]) == own(NAMES[0])


async def get_many(site: Site) -> None:
    assert await site.cache.aget_many(NAMES[:8]) == {name: own(name) for name in NAMES[:8]}


async def set_many(site: Site) -> None:
    assert await site.cache.aset_many({name: own(name) for name in NAMES[:8]}) == []


async def large_set_many(site: Site) -> None:
    values = {f"large{name}": "x" * LARGE for name in NAMES[:4]}
    assert await site.cache.aset_many(values, timeout=10) == []


async def large_get_many(site: Site) -> None:
    names = [f"large{name}" for name in NAMES[:4]]
    found = await site.cache.aget_many(names)
    assert {len(value) for value in found.values()} <= {LARGE}


async def script_of_two_rounds(site: Site) -> None:
    for host in site.cluster.nodes:
        site.servers.ask(host, "SCRIPT", "FLUSH")
    assert await site.cache.aincr("counter", 0) == 0


async def amap(site: Site) -> None:
    keys = [site.cache.make_key(name) for name in NAMES[:6]]
    async with site.cluster.amap() as client:
        promises = [client.strlen(key) for key in keys]
        (first, *others) = [await promise for promise in promises]
        late = client.strlen(keys[0])
    assert late.value == first > len(NAMES[0])
    assert len(others) == 5


# How many moments are left out: of an operation there are some hundreds; of one that opens
# connections thousands, most of them in redis-py.
Operation = Callable[[Site], Coroutine[Any, Any, None]]
OPERATIONS: dict[str, tuple[Operation, int, int]] = {
    "get": (get, 3, 331),
    "get_many": (get_many, 19, 1201),
    "set_many": (set_many, 19, 1201),
    "large set_many": (large_set_many, 151, 1201),
    "large get_many": (large_get_many, 31, 1201),
    "map": (amap, 43, 1201),
    "script of two rounds": (script_of_two_rounds, 37, 997),
}


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_task_may_be_cancelled_at_every_moment(name: str, warm: bool, site: Site) -> None:
    operation, few, many = OPERATIONS[name]

    async def cancel() -> None:
        if not warm:
            await site.cluster.aclose()
        task = asyncio.ensure_future(operation(site))
        neighbour = asyncio.ensure_future(site.cache.aget(NAMES[1]))
        moment.action = task.cancel
        with moment:
            await asyncio.wait([task])
        assert await neighbour == own(NAMES[1])
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await site.check()

    count = 0
    for moment in every_moment(lambda: None, few if warm else many):  # noqa: B007 (see above)
        count += 1
        site.run(cancel())
    assert count > 3
    site.check_nodes()


@pytest.mark.parametrize("name", ["get", "set_many", "script of two rounds"])
def test_a_loop_may_be_interrupted_at_every_moment(name: str, site: Site) -> None:
    """In the code of the engine: asyncio itself loses what it was about to do.

    Its tasks are cancelled then, and it goes on, as that of a shell does.
    """
    operation, _, _ = OPERATIONS[name]
    tasks: list[asyncio.Future[None]] = []

    async def begin() -> None:
        tasks[:] = [asyncio.ensure_future(operation(site)) for _ in range(2)]
        with moment:
            await asyncio.wait(tasks, timeout=5)

    async def end() -> None:
        for task in tasks:  # as asyncio.run() does then
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        site.complaints.clear()  # asyncio tells of what it caught
        await site.check()

    def interrupt() -> None:
        raise KeyboardInterrupt

    count = 0
    for moment in every_moment(interrupt, 5, within=("django_rb.engine.loops",)):
        count += 1
        with contextlib.suppress(KeyboardInterrupt):
            site.run(begin())
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                site.run(end())
                break
        else:
            pytest.fail(f"It goes on and on: {moment.where}")
    gc.collect()
    site.complaints.clear()  # of tasks that the interrupt ended
    assert count > 3
    site.check_nodes()


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_coroutine_may_be_closed_at_every_await(
    name: str, warm: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, _, _ = OPERATIONS[name]
    monkeypatch.setattr(
        "django_rb.engine.spinning._SPINS", 0
    )  # a call that spins awaits nothing

    async def close_at(number: int) -> bool:
        if not warm:
            await site.cluster.aclose()
        coroutine = operation(site)
        for _ in range(number):
            try:
                future = coroutine.send(None)
            except StopIteration:
                return True
            if future is not None:
                future._asyncio_future_blocking = False
                await asyncio.wait([future])
        coroutine.close()
        await site.check()
        return False

    (pools,) = site.cluster._loops._loops
    pools.inbox.spin.left = 0
    assert not site.run(close_at(1))
    assert any(site.run(close_at(number)) for number in range(2, 10))
    site.check_nodes()


@pytest.mark.parametrize("name", ["get", "get_many", "large set_many", "script of two rounds"])
def test_time_may_be_over_at_every_moment(name: str, site: Site) -> None:
    """That of `asyncio.timeout`, or of a deadline."""
    operation, _, _ = OPERATIONS[name]
    hasty = Site(site.runner, site.servers, deadline=1.0)

    async def hurry(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await operation(site)
        await site.check()
        hasty.cache._ops.deadline = seconds
        with contextlib.suppress(redis.TimeoutError):
            await operation(hasty)
        await site.check()

    for number in range(20):
        site.run(hurry(number * 0.0003))
    site.check_nodes()
