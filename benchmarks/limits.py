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
from types import SimpleNamespace
from typing import Any

import django
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

from benchmarks.conductor import on_one_core
from django_rb.ratelimit import Limit, Rate, limiter, ratelimit
from django_rb.testing import LocalNodes

NODES = 3
ROUNDS, CALLS = 50, 100
RATE = Rate(1_000_000_000, 3600)

Times = dict[str, tuple[float, float]]  # wall and CPU seconds per call


class Contestants:
    """What is timed: each a function without arguments, sync and async."""

    def __init__(self) -> None:
        def page(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"ok")

        async def apage(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"ok")

        limit = ratelimit(limits=[(key, RATE) for key in ("ip", "user", "header:x-api-key")])
        limited, alimited = limit(page), limit(apage)
        cluster = cache.cluster  # type: ignore[attr-defined]
        meta = {"REMOTE_ADDR": "203.0.113.7", "HTTP_X_API_KEY": "key"}
        user = SimpleNamespace(pk=7, is_authenticated=True)

        async def auser() -> Any:
            return user

        def request() -> Any:
            new: Any = HttpRequest()
            new.method, new.META, new.user, new.auser = "GET", dict(meta), user, auser
            return new

        def is_spread(view: Callable[[HttpRequest], object]) -> bool:
            cluster.call_nodes("FLUSHDB")
            view(request())
            sizes, _ = cluster.call_nodes("DBSIZE")
            return all(size == 1 for size in sizes.values())

        while not is_spread(limited):
            meta["HTTP_X_API_KEY"] += "+"
            user.pk += 1
        limits: dict[int, Limit] = {}
        for n in range(100):
            one = Limit(f"key:{n}", RATE)
            owner = cluster.get_host_for_key(one.rule.make_key("rl", one.key))
            limits.setdefault(owner, one)
        cache.set("key", {"a": 1})
        self.sync: dict[str, Callable[[], object]] = {
            "get": lambda: cache.get("key"),
            "check of 3": lambda: limiter.check([*limits.values()]),
            "view": lambda: page(request()),
            "view with 3": lambda: limited(request()),
        }
        self.awaited: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: cache.aget("key"),
            "check of 3": lambda: limiter.acheck([*limits.values()]),
            "view": lambda: apage(request()),
            "view with 3": lambda: alimited(request()),
        }
        self.close = cluster.close
        self.aclose = cluster.aclose


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
    with LocalNodes(NODES) as nodes:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
            INSTALLED_APPS=["django_rb"],
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
            SECRET_KEY="benchmark",
        )
        django.setup()
        contestants = Contestants()

        async def awaited() -> Times:
            try:
                return await time_awaited(contestants.awaited)
            finally:
                await contestants.aclose()

        gc.disable()
        print_times("sync", time_sync(contestants.sync))
        print_times("async", asyncio.run(awaited()))
        with on_one_core([os.getpid(), *map(nodes.pid, nodes.hosts)]):
            print_times("sync, one core", time_sync(contestants.sync))
            print_times("async, one core", asyncio.run(awaited()))
        contestants.close()


if __name__ == "__main__":
    main()
