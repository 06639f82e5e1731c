"""A call near the recursion limit may fail anywhere, and leaves no descriptor open."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import pytest

from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import find, store
from django_rb.testing import LocalNodes
from tests.faults.sharing.checks import (
    check_all_works,
    fill,
    look_up,
    make_cluster,
    open_descriptors,
    openings_under_way,
)
from tests.helpers import wait_until

MARGINS = range(1, 126)  # frames that are left
KEYS = [b"own:%d" % number for number in range(40)]
LARGE = [b"large:%d" % number for number in range(4)]

WARM_OR_COLD = pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])


def at_depth(depth: int, do: Callable[[], object]) -> object:
    """Do something so many frames below the caller."""
    return do() if depth <= 0 else at_depth(depth - 1, do)


async def awaited_at_depth(depth: int, do: Callable[[], Awaitable[object]]) -> object:
    """Do the same with coroutines."""
    return await (do() if depth <= 0 else awaited_at_depth(depth - 1, do))


def frames() -> int:
    """Return how many frames the caller has below it."""
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


@pytest.fixture
def settled(nodes: LocalNodes) -> Iterator[Cluster]:
    """A cluster of which no descriptor is left at the end."""
    cluster = make_cluster(nodes.hosts)
    fill(cluster)

    def settle() -> None:
        wait_until(lambda: not openings_under_way())
        cluster.close()
        gc.collect()

    settle()
    before = open_descriptors()
    with warnings.catch_warnings():
        # What could not be closed so near to the limit Python closes soon after, and says so.
        warnings.simplefilter("ignore", ResourceWarning)
        yield cluster
        settle()
    assert not {fd: what for fd, what in open_descriptors().items() if fd not in before}
    assert {health.state for health in cluster.health().values()} == {"up"}


@WARM_OR_COLD
def test_threads(is_warm: bool, settled: Cluster) -> None:
    cluster = settled

    def work() -> None:
        look_up(cluster, KEYS)
        cluster.run(store(cluster, LARGE, LARGE, lambda key: key * 1000))

    failed = 0
    limit = sys.getrecursionlimit() - frames()
    for margin in MARGINS:
        if not is_warm:
            cluster.close()
        try:
            at_depth(limit - margin, work)
        except RecursionError:
            failed += 1
    assert failed > 5
    check_all_works(cluster, KEYS)


@WARM_OR_COLD
def test_event_loops(is_warm: bool, settled: Cluster) -> None:
    """The coroutines are deep, and not the loop: asyncio itself would not survive that."""
    cluster = settled

    async def work() -> None:
        values, failures = await cluster.arun(find(cluster, KEYS))
        assert (len(values), failures) == (len(KEYS), [])
        await cluster.arun(store(cluster, LARGE, LARGE, lambda key: key * 1000))

    async def main() -> None:
        failed = 0
        limit = sys.getrecursionlimit() - frames()
        for margin in MARGINS:
            if not is_warm:
                await cluster.aclose()
            try:
                await awaited_at_depth(limit - margin, work)
            except RecursionError:
                failed += 1
        assert failed > 5
        await work()
        (pools,) = cluster._loops._loops
        end = asyncio.get_running_loop().time() + 30
        for pool in pools.pools:  # what an earlier call had begun to open may still be coming
            while pool._openings or len(pool._idle) < len(pool.connections):
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.01)
        await cluster.aclose()

    asyncio.run(main())
