"""Which races there are: the judged ones, the whole grid, or what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.conductor import Lane, Race
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN, PROMISES
from benchmarks.workloads import MANY, OPERATIONS, SMALL, Workload

KEYS = (1, 10, 100, 1000, 10_000, 100_000)
NODES = (1, 4, 8, 32, 64)
SIZES = (SMALL, 1024, 100 * 1024)
THREADS = (1, 16)
TASKS = (1, 1000)
MOST_STORED = 256 << 20  # bytes that a lane may store
ROUNDS, PAIR_ROUNDS, SINGLE_ROUNDS = 20, 40, 120  # single calls differ by little

PAIR = (HAND_WRITTEN, DJANGO_RB)
WITH_THE_FLOOR = (HAND_WRITTEN, PROMISES, DJANGO_RB)
COLD = (*PAIR, "thread-pool", "rb", "default-client", "redis-cache", "vcache")
BY_THREADS = "django-rb-threads"
BLOCKING = tuple(name for name, one in CONTESTANTS.items() if not one.on_loops)
ASYNC = (
    HAND_WRITTEN,
    DJANGO_RB,
    BY_THREADS,
    "django-rb-amap",
    "django-rb-aio",
    "vcache",
    "vcache-cluster",
    "redis-cache",
)
JUDGED_KEYS = (100, 1000, 10_000)

FIRST_BATCH = Workload("get_many", nodes=64)
PEAK_MEMORY = Workload("get_many", keys=100_000, size=1024)


def make_race(contestants: Iterable[str], *workloads: Workload, rounds: int = ROUNDS) -> Race:
    """Return a race of all of some contestants with all of some workloads."""
    lanes = [Lane(name, workload) for workload in workloads for name in contestants]
    return Race(lanes, rounds)


def judged() -> dict[str, Race]:
    """Return the races that bars.py judges, by name; those on the same nodes side by side."""
    races: dict[str, Race] = {}
    for operation in ("get_many", "set_many"):
        for keys in JUDGED_KEYS:
            races[f"{operation} {keys}"] = make_race(
                WITH_THE_FLOOR, Workload(operation, keys), rounds=PAIR_ROUNDS
            )
        races[f"{operation} peers"] = make_race(BLOCKING, Workload(operation))
    for operation in ("get", "set"):
        races[operation] = make_race(
            WITH_THE_FLOOR, Workload(operation, 1), rounds=SINGLE_ROUNDS
        )
        races[f"{operation} peers"] = make_race(BLOCKING, Workload(operation, 1))
    races["per key"] = make_race(PAIR, Workload(keys=1000), Workload(keys=100_000))
    races["threads"] = make_race(PAIR, Workload(keys=100), Workload(keys=100, threads=16))
    on_loops = (DJANGO_RB, "vcache", "vcache-cluster")
    races["aget_many"] = make_race(on_loops, Workload(), Workload(tasks=1), rounds=PAIR_ROUNDS)
    races["agets"] = make_race([*on_loops, BY_THREADS], Workload("get", 1, tasks=1000))
    races["network"] = make_race(
        [HAND_WRITTEN, DJANGO_RB, "thread-pool", "rb"], Workload(nodes=64, rtt=1)
    )
    return races


def full() -> dict[str, Race]:
    """Return the whole grid: each circumstance varied, and keys by nodes for batches."""
    cells: list[Workload] = []
    cells += [Workload(*cell) for cell in product(("get_many", "set_many"), KEYS, NODES)]
    for operation in OPERATIONS:
        base = Workload(operation, keys=1000 if operation in MANY else 1)
        cells += [replace(base, nodes=nodes) for nodes in NODES]
        cells += [replace(base, size=size) for size in SIZES]
        if operation != "delete_many":
            cells += [replace(base, threads=threads) for threads in THREADS]
        cells += [replace(base, rtt=rtt, nodes=nodes) for rtt in (0, 1) for nodes in (8, 64)]
    cells += [replace(Workload(keys=100), threads=threads) for threads in THREADS]
    cells += [Workload("get_many", hits=False), Workload("get", 1, hits=False)]
    races = _races(BLOCKING, cells)
    loops = [
        *(
            Workload(operation, 1, tasks=tasks)
            for operation in ("get", "set")
            for tasks in TASKS
        ),
        Workload("get_many", tasks=1),
        Workload("set_many", tasks=1),
        Workload("get_many", keys=10, tasks=1000),
    ]
    return {**races, **_races(ASYNC, loops)}


def chosen(
    contestants: Sequence[str], circumstances: Mapping[str, Sequence[Any]], rounds: int
) -> dict[str, Race]:
    """Return a race for each combination of what was chosen; no contestants are all."""
    names = list(circumstances)
    cells = [
        Workload(**dict(zip(names, values, strict=True)))
        for values in product(*circumstances.values())
    ]
    blocking = [cell for cell in cells if not cell.tasks]
    on_loops = [cell for cell in cells if cell.tasks]
    return {
        **_races(contestants or BLOCKING, blocking, rounds),
        **_races(contestants or ASYNC, on_loops, rounds),
    }


def _races(
    contestants: Iterable[str], cells: Iterable[Workload], rounds: int = ROUNDS
) -> dict[str, Race]:
    # Each number of nodes is set up once.
    workloads = sorted(dict.fromkeys(map(_plain, cells)), key=lambda one: (one.nodes, one.rtt))
    return {
        workload.title: make_race(list(contestants), workload, rounds=rounds)
        for workload in workloads
    }


def _plain(workload: Workload) -> Workload:
    """Return a workload without what makes no difference to its operation."""
    return replace(
        workload,
        keys=1 if workload.is_single else workload.keys,
        size=SMALL if workload.operation == "incr" else workload.size,
        hits=workload.hits or workload.operation not in {"get", "get_many"},
    )
