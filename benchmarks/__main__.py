"""Time RBCache beside the hand-written loop, in one run on the same nodes.

python -m benchmarks [--nodes 8] [--keys 1000] [--rounds 60] [--format json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, cast

import django
import hiredis
import redis
from django.conf import settings

from benchmarks.handwritten import HandWritten
from benchmarks.timing import Timing, time_interleaved
from django_rb.testing import LocalNodes

FLOOR, OURS = "hand-written", "django-rb"
SINGLE_CALLS = 200  # in a round


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--nodes", type=int, default=8, help="local nodes (default 8)")
    parser.add_argument("--keys", type=int, default=1000, help="keys of a batch (default 1000)")
    parser.add_argument(
        "--rounds", type=int, default=60, help="interleaved rounds (default 60)"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    options = parser.parse_args()
    with LocalNodes(options.nodes) as nodes:
        settings.configure(
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
            CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
        )
        django.setup()
        results = run(nodes, options.keys, options.rounds)
        about = {
            "python": platform.python_version(),
            "django": django.__version__,
            "redis-py": redis.__version__,
            "hiredis": hiredis.__version__,
            "server": nodes.server,
            "nodes": options.nodes,
            "keys": options.keys,
        }
    if options.format == "json":
        print(json.dumps({"about": about, "results": results_as_json(results)}, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print_table(results)


def run(nodes: LocalNodes, keys: int, rounds: int) -> dict[str, dict[str, Timing]]:
    from django.core.cache import caches  # noqa: PLC0415 (settings come first)

    from django_rb.cache import RBCache  # noqa: PLC0415

    cache = cast(RBCache, caches["default"])
    hand = HandWritten(list(nodes.hosts.values()))
    value = {"id": 7, "name": "something", "tags": ["a", "b"], "price": 3.5}
    data = {f"page:{n}:fragment": value for n in range(keys)}
    names = list(data)
    hand.set_many(data)
    cache.set_many(data)
    assert hand.get_many(names) == cache.get_many(names) == data
    # Servers differ in which core they are on: a single call is timed on the same one.
    name = next(
        n for n in names if hand.get_host(n) == cache.cluster.get_host_for_key(f":1:{n}")
    )
    many = max(1, 5000 // keys)
    workloads: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
        f"get_many of {keys}": (
            many, lambda: hand.get_many(names), lambda: cache.get_many(names)),
        f"set_many of {keys}": (
            many, lambda: hand.set_many(data), lambda: cache.set_many(data, 300)),
        "get": (SINGLE_CALLS, lambda: hand.get(name), lambda: cache.get(name)),
        "set": (
            SINGLE_CALLS,
            lambda: hand.set(name, value), lambda: cache.set(name, value, 300)),
    }  # fmt: skip
    results = {}
    for workload, (calls, floor, ours) in workloads.items():
        print(f"{workload} …", file=sys.stderr, flush=True)
        contestants = {FLOOR: floor, OURS: ours}
        with on_one_core(nodes) if calls == SINGLE_CALLS else nullcontext():
            results[workload] = time_interleaved(contestants, rounds=rounds, calls=calls)
    hand.close()
    return results


@contextmanager
def on_one_core(nodes: LocalNodes) -> Iterator[None]:
    """Keep this process and the servers on one core, where the system lets us.

    A single call is a question and a short wait. Whether the server is woken on the core
    that asks or on one that sleeps makes a factor of five, and the scheduler is slow to
    change its mind: it would be measured instead of the call.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    pids = [0, *map(nodes.pid, nodes.hosts)]
    for pid in pids:
        os.sched_setaffinity(pid, {min(before)})
    try:
        yield
    finally:
        for pid in pids:
            os.sched_setaffinity(pid, before)


def ratios(timings: dict[str, Timing]) -> tuple[float, float]:
    """Return django-rb's wall and CPU time over the hand-written loop's."""
    return (
        timings[OURS].wall / timings[FLOOR].wall,
        timings[OURS].cpu / timings[FLOOR].cpu,
    )


def results_as_json(results: dict[str, dict[str, Timing]]) -> dict[str, Any]:
    return {
        workload: {
            "seconds": {name: asdict(timing) for name, timing in timings.items()},
            "ratio": dict(zip(("wall", "cpu"), ratios(timings), strict=True)),
        }
        for workload, timings in results.items()
    }


def print_table(results: dict[str, dict[str, Timing]]) -> None:
    print(f"{'':20}{'wall µs':>22}{'':9}{'CPU µs':>19}")
    print(f"{'median of a call':20}{FLOOR:>13}{OURS:>11}{'ratio':>7}", end="")
    print(f"{FLOOR:>13}{OURS:>11}{'ratio':>7}")
    for workload, timings in results.items():
        floor, ours = timings[FLOOR], timings[OURS]
        wall, cpu = ratios(timings)
        print(
            f"{workload:20}{floor.wall * 1e6:13.1f}{ours.wall * 1e6:11.1f}{wall:7.2f}", end=""
        )
        print(f"{floor.cpu * 1e6:13.1f}{ours.cpu * 1e6:11.1f}{cpu:7.2f}")


if __name__ == "__main__":
    main()
