"""Time what limits add to a view, in gets of the cache: python -m benchmarks.limits

Three limits, whose keys are on three nodes. Rounds of all contestants take turns; medians are
told. Once the system chooses the cores, and once everything shares one: then wall time has all
of the servers' CPU time in it, and waking them costs less.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.conductor import on_one_core
from benchmarks.contestants.limits import Limits
from benchmarks.workloads import LIMITED_NODES
from django_rb.testing import LocalNodes

ROUNDS, CALLS = 50, 100

Times = dict[str, tuple[float, float]]  # wall and CPU seconds per call


def time_sync(contestants: dict[str, Callable[[], object]]) -> Times:
    """Return medians."""
    clock = _Clock()
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            clock.start()
            for _ in range(CALLS):
                call()
            clock.stop(name)
    return clock.medians()


async def time_awaited(contestants: dict[str, Callable[[], Awaitable[object]]]) -> Times:
    """Do what `time_sync` does on an event loop, one call after the other."""
    clock = _Clock()
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            clock.start()
            for _ in range(CALLS):
                await call()
            clock.stop(name)
    return clock.medians()


class _Clock:
    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[float, float]]] = {}
        self._began = (0.0, 0.0)

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self, name: str) -> None:
        wall, cpu = self._began
        sample = (time.perf_counter() - wall) / CALLS, (time.process_time() - cpu) / CALLS
        self._samples.setdefault(name, []).append(sample)

    def medians(self) -> Times:
        return {
            name: (median(wall for wall, _ in samples), median(cpu for _, cpu in samples))
            for name, samples in self._samples.items()
        }


def print_times(title: str, times: Times) -> None:
    """Print microseconds, and how many gets that is."""
    (view_wall, view_cpu), (wall, cpu) = times["view"], times["view with 3"]
    times = {**times, "3 limits add": (wall - view_wall, cpu - view_cpu)}
    get_wall, get_cpu = times["get"]
    print(f"{title:16}{'wall µs':>10}{'CPU µs':>10}{'gets, wall':>14}{'gets, CPU':>12}")
    for name, (wall, cpu) in times.items():
        ratios = f"{wall / get_wall:14.2f}{cpu / get_cpu:12.2f}"
        print(f"{name:16}{wall * 1e6:10.1f}{cpu * 1e6:10.1f}{ratios}")


def main() -> None:
    """Time everything, on nodes of its own."""
    with LocalNodes(LIMITED_NODES) as nodes:
        limits = Limits([(host["host"], host["port"]) for host in nodes.hosts.values()], "")
        limits.set("key", {"a": 1})
        sync: dict[str, Callable[[], object]] = {
            "get": lambda: limits.get("key"),
            "check of 3": limits.check,
            "view": limits.page,
            "view with 3": limits.view,
        }
        asynchronous: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: limits.aget("key"),
            "check of 3": limits.acheck,
            "view": limits.apage,
            "view with 3": limits.aview,
        }

        async def awaited() -> Times:
            try:
                return await time_awaited(asynchronous)
            finally:
                await limits.cluster.aclose()

        gc.disable()
        print_times("sync", time_sync(sync))
        print_times("async", asyncio.run(awaited()))
        with on_one_core([os.getpid(), *map(nodes.pid, nodes.hosts)]):
            print_times("sync, one core", time_sync(sync))
            print_times("async, one core", asyncio.run(awaited()))
        limits.cluster.close()


if __name__ == "__main__":
    main()
