"""Time a hit of a computed value beside `get`: python -m benchmarks.hits

Both take turns, a hundred calls at a time; told is the CPU time of the calling thread, as the
mean of the quicker half of the turns, which others on the machine disturbed the least.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from statistics import mean

from django.conf import settings

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes

TURNS, CALLS = 500, 100
VALUE = {"title": "Emma", "text": "x" * 100}


def time_sync(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return seconds for a call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(CALLS):
                call()
            times[name].append(time.thread_time() - began)
    return {name: quicker_half(samples) for name, samples in times.items()}


async def time_awaited(calls: dict[str, Callable[[], Awaitable[object]]]) -> dict[str, float]:
    """Do what `time_sync` does on an event loop."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(CALLS):
                await call()
            times[name].append(time.thread_time() - began)
    return {name: quicker_half(samples) for name, samples in times.items()}


def quicker_half(samples: list[float]) -> float:
    """Return seconds for a call."""
    return mean(sorted(samples)[: len(samples) // 2]) / CALLS


def show(title: str, times: dict[str, float]) -> None:
    """Print microseconds, and how many gets that is."""
    for name, seconds in times.items():
        print(f"{title:6}{name:28}{seconds * 1e6:8.1f} µs{seconds / times['get']:8.3f} gets")


def main() -> None:
    """Time on a node of its own."""
    with LocalNodes(1) as nodes:
        settings.configure(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}})
        cache = RBCache("default", {})
        cache.set("plain", VALUE)
        cache.get_or_set("computed", lambda: VALUE, 3600, stale=60)
        gc.disable()
        sync: dict[str, Callable[[], object]] = {
            "get": lambda: cache.get("plain"),
            "get_or_set, stale, lock": lambda: cache.get_or_set(
                "computed", VALUE, 300, stale=60, lock=5
            ),
            "get_or_set, stale, early": lambda: cache.get_or_set(
                "computed", VALUE, 300, stale=60, early=True
            ),
        }
        awaited: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: cache.aget("plain"),
            "get_or_set, stale, lock": lambda: cache.aget_or_set(
                "computed", VALUE, 300, stale=60, lock=5
            ),
        }
        show("sync", time_sync(sync))
        show("async", asyncio.run(time_awaited(awaited)))
        cache.cluster.close()


if __name__ == "__main__":
    main()
