"""Time get_many of 1,000 keys with WARM_FROM: python -m benchmarks.warming

Three calls take turns: without WARM_FROM, with it and all keys in the new layout, and with it
and all keys in the old layout. The result is the CPU time of the calling thread: the mean of
the faster half of the turns, which other programs on the machine have disturbed least. By
default, nodes are independent; with --redis-cluster the new layout is a Redis Cluster.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

from django.conf import settings

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes

VALUE = {"title": "Emma", "text": "x" * 100}
KEYS = [f"page:{number}" for number in range(1000)]


def main() -> None:
    """Time on nodes of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis-cluster", action="store_true", help="the new layout is one")
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=4, help="of each layout")
    options = parser.parse_args()
    topology = "redis-cluster" if options.redis_cluster else "static"
    with (
        LocalNodes(options.nodes) as old,
        LocalNodes(max(options.nodes, 3), topology=topology) as new,
    ):
        new_settings: dict[str, Any] = {"HOSTS": new.hosts}
        if options.redis_cluster:
            new_settings["TOPOLOGY"] = topology
        settings.configure(RB_CLUSTERS={"old": {"HOSTS": old.hosts}, "new": new_settings})
        run(new.flush, options.turns)


def run(empty: Callable[[], object], turns: int) -> None:
    """Print microseconds of a call, and how often that without WARM_FROM is in it."""
    warming = {"OPTIONS": {"WARM_FROM": "old"}}
    before, plain, warm = (
        RBCache("old", {}),
        RBCache("new", {}),
        RBCache("new", warming),
    )
    before.set_many(dict.fromkeys(KEYS, VALUE), None)
    times: dict[str, list[float]] = {}
    gc.disable()
    for turn in range(turns):
        if turn % 50 == 0:
            gc.collect()
        empty()
        before.get_many(KEYS)  # what has just been done is done quicker the next time
        for name, cache in (
            ("all from the old layout", warm),
            ("without WARM_FROM", plain),
            ("all from the new layout", warm),
            ("without WARM_FROM", plain),
        ):
            began = time.thread_time()
            found = cache.get_many(KEYS)
            times.setdefault(name, []).append(time.thread_time() - began)
            assert len(found) == len(KEYS)
    figures = {name: mean(sorted(all_)[: len(all_) // 2]) for name, all_ in times.items()}
    for name, seconds in figures.items():
        ratio = seconds / figures["without WARM_FROM"]
        print(f"{name:26}{seconds * 1e6:8.0f} µs{ratio:8.3f}")


if __name__ == "__main__":
    main()
