"""Time near copies beside calls that ask the nodes: python -m benchmarks.near

They take turns on eight nodes; told is the CPU time of the calling thread, as the mean of the
quicker half of the turns, which others on the machine disturbed the least.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
from collections.abc import Awaitable, Callable

from django.conf import settings

from benchmarks.hits import CALLS, quicker_half, time_awaited, time_sync
from django_rb.cache import RBCache
from django_rb.testing import LocalNodes

VALUE = "x" * 45  # 60 bytes, pickled
KEYS = [f"key:{number}" for number in range(100)]


def show(name: str, seconds: float, than: float) -> None:
    """Print microseconds, and how many of what it is compared with that is."""
    print(f"{name:36}{seconds * 1e6:9.2f} µs{seconds / than:9.3f}")


def time_misses(
    far: Callable[[], object], near: Callable[[], object], clear: Callable[[], object]
) -> dict[str, float]:
    """Return seconds for a call that finds nothing near, with near copies and without."""
    times: dict[str, list[float]] = {"far": [], "near": []}
    for _ in range(60):
        for name, call in (("far", far), ("near", near)):
            spent = 0.0
            for _ in range(CALLS):
                clear()
                began = time.thread_time()
                call()
                spent += time.thread_time() - began
            times[name].append(spent)
    return {name: quicker_half(samples) for name, samples in times.items()}


def main() -> None:
    """Time on nodes of its own."""
    with LocalNodes(8) as nodes:
        settings.configure(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}})
        far, near = RBCache("default", {}), RBCache("default", {"OPTIONS": {"NEAR": {}}})
        data = pickle.dumps(VALUE)
        near.set_many(dict.fromkeys(KEYS, VALUE))
        near.get_many(KEYS)
        gc.disable()
        sync: dict[str, Callable[[], object]] = {
            "unpickling": lambda: pickle.loads(data),
            "get": lambda: far.get("key:1"),
            "near get": lambda: near.get("key:1"),
            "get_many of 100": lambda: far.get_many(KEYS),
            "near get_many of 100": lambda: near.get_many(KEYS),
        }
        told = time_sync(sync)
        for name, seconds in told.items():
            show(name, seconds, told["get_many of 100" if "many" in name else "get"])
        beyond = (told["near get"] - told["unpickling"]) * 1e6
        print(f"A near get takes {beyond:.2f} µs beyond unpickling.")
        misses = time_misses(
            lambda: far.get("key:1"), lambda: near.get("key:1"), near.near_clear
        )
        show("get that is not near", misses["near"], misses["far"])
        misses = time_misses(
            lambda: far.get_many(KEYS), lambda: near.get_many(KEYS), near.near_clear
        )
        show("get_many of 100, none near", misses["near"], misses["far"])

        async def awaited() -> dict[str, float]:
            await near.aget("key:1")
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "aget": lambda: far.aget("key:1"),
                "near aget": lambda: near.aget("key:1"),
            }
            return await time_awaited(calls)

        told = asyncio.run(awaited())
        for name, seconds in told.items():
            show(name, seconds, told["aget"])
        far.cluster.close()


if __name__ == "__main__":
    main()
