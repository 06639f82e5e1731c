"""What is not a race: the first batch of a process, its memory, an import, what is sent."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import redis

from benchmarks.conductor import (
    ROOT,
    TO_CHECK,
    Conductor,
    Host,
    Lane,
    Spread,
    WorkerFailed,
)  # fmt: skip
from benchmarks.contestants import CONTESTANTS
from benchmarks.proxy import ProxyProcess
from benchmarks.workloads import Workload

PROCESSES = 5
# Round trips are counted by what a call takes longer when each takes so much longer.
NEAR, FAR = 1.0, 21.0  # ms
SOON = 0.5  # seconds; who takes no longer is asked several times
FAR_AT_FIRST = 101.0  # ms; to open connections takes a while itself
COUNTED = (
    Workload("get_many", keys=100),
    Workload("set_many", keys=100),
    Workload("get", keys=1),
    Workload("set", keys=1),
)
_HOUSEKEEPING = {
    "auth", "client", "cluster", "command", "config", "hello", "info", "ping", "readonly",
    "select",
}  # fmt: skip

_IMPORT = """
import time
import django
from django.conf import settings
settings.configure(RB_CLUSTERS=dict(default=dict(HOSTS=[dict(port=6379)])))
django.setup()
import django.core.cache, django.core.cache.backends.base
{before}
began = time.perf_counter()
{timed}
print((time.perf_counter() - began) * 1000)
"""
# By the names of what is told: what comes before, and what is timed.
_IMPORTS = {
    "ms": ("", "import django_rb.cache"),
    "first_use_ms": (
        "from django_rb.cache import RBCache",
        "RBCache('default', {}).cluster",
    ),
    "redis_ms": ("", "import redis"),
}

Told = dict[str, Any]


def first_batch(
    conductor: Conductor, contestants: Sequence[str], workload: Workload
) -> list[Told]:
    """Time the first call of fresh processes, and count its round trips."""
    told: list[Told] = []
    for name in contestants:
        lane = Lane(name, workload)
        place = CONTESTANTS[name].place
        try:
            _seed(conductor, lane)
            with conductor.arena.behind_a_proxy(place, workload.nodes, NEAR) as (hosts, proxy):
                near = [_begin(conductor, lane, hosts) for _ in range(PROCESSES)]
                proxy.set_rtt(FAR_AT_FIRST)
                far = [_begin(conductor, lane, hosts) for _ in range(PROCESSES)]
        except WorkerFailed as error:
            told.append({"contestant": name, "left_out": str(error)})
            continue
        # The quickest of each: a disturbance may take as long as a round trip.
        longer = min(wall for wall, _ in far) - min(wall for wall, _ in near)
        told.append(
            {
                "contestant": name,
                "workload": workload.as_json(),
                "round_trips": round(longer * 1000 / (FAR_AT_FIRST - NEAR), 2),
                "rtt": NEAR,
                "wall": Spread.of([wall for wall, _ in near]).as_json(),
                "cpu": Spread.of([cpu for _, cpu in near]).as_json(),
            }
        )
    return told


def _seed(conductor: Conductor, lane: Lane) -> None:
    hosts = conductor.arena.hosts(CONTESTANTS[lane.contestant].place, lane.workload.nodes)
    conductor.arena.flush()
    with conductor.open(lane, hosts) as worker:
        conductor.prepare(worker)


def _begin(conductor: Conductor, lane: Lane, hosts: Sequence[Host]) -> tuple[float, float]:
    with conductor.open(lane, hosts) as worker:
        took = worker.ask("cold", within=conductor.patience)
        return took["wall"], took["cpu"]


def peak_memory(
    conductor: Conductor, contestants: Sequence[str], workload: Workload
) -> list[Told]:
    """Measure by how much a fresh process grows while it makes one call."""
    told: list[Told] = []
    for name in contestants:
        lane = Lane(name, workload)
        try:
            _seed(conductor, lane)
            hosts = conductor.arena.hosts(CONTESTANTS[name].place, workload.nodes)
            with conductor.open(lane, hosts) as worker:
                memory = worker.ask("memory", within=TO_CHECK * conductor.patience)
        except WorkerFailed as error:
            told.append({"contestant": name, "left_out": str(error)})
            continue
        told.append({"contestant": name, "workload": workload.as_json(), **memory})
    conductor.arena.flush()
    return told


def import_time(conductor: Conductor, contestant: str) -> Told:
    """Time ``import django_rb.cache`` after Django, and what a first use imports.

    That use makes the cluster and connects to nothing: servers take no part.
    """
    python = conductor.pythons[CONTESTANTS[contestant].environment]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    samples: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for _ in range(PROCESSES + 1):
        for name, (before, timed) in _IMPORTS.items():
            done = subprocess.run(
                [python, "-c", _IMPORT.format(before=before, timed=timed)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            samples[name].append(float(done.stdout))
    # The first of them may have compiled everything.
    return {name: Spread.of(times[1:]).as_json() for name, times in samples.items()}


def what_is_sent(conductor: Conductor, contestants: Sequence[str]) -> list[Told]:
    """Count the commands that reach the servers for a call, and its round trips."""
    told: list[Told] = []
    by_place = sorted(contestants, key=lambda name: CONTESTANTS[name].place)
    with ExitStack() as stack:
        there: dict[str, tuple[list[Host], ProxyProcess]] = {}
        for name in by_place:
            place = CONTESTANTS[name].place
            nodes = COUNTED[0].nodes
            if place not in there:
                stack.close()
                conductor.arena.flush()
                there[place] = stack.enter_context(
                    conductor.arena.behind_a_proxy(place, nodes, NEAR)
                )
            hosts, proxy = there[place]
            servers = conductor.arena.hosts(place, nodes)
            with suppress(WorkerFailed):  # as the races have told
                told += _count(conductor, name, hosts, servers, proxy)
    return sorted(told, key=lambda one: contestants.index(one["contestant"]))


def _count(
    conductor: Conductor,
    name: str,
    hosts: Sequence[Host],
    servers: Sequence[Host],
    proxy: ProxyProcess,
) -> list[Told]:
    """Count what one contestant sends, in one process."""
    told: list[Told] = []
    prefix = list(CONTESTANTS).index(name)
    with conductor.open(Lane(name, COUNTED[0]), hosts, prefix) as worker:
        for workload in COUNTED:
            try:
                worker.open(Lane(name, workload), hosts, f"{prefix:02}")
                conductor.prepare(worker)
            except WorkerFailed:
                continue  # as the races have told
            run = partial(worker.ask, "run", within=conductor.patience, calls=1)
            near = min(run()["wall"] for _ in range(PROCESSES))
            _reset_counts(servers)
            run()
            counts = _counts(servers)
            proxy.set_rtt(FAR)
            try:
                far = run()["wall"]
                if far < SOON:  # a disturbance may have been as long as a round trip
                    far = min(far, *(run()["wall"] for _ in range(4)))
            finally:
                proxy.set_rtt(NEAR)
            commands: Counter[str] = sum(counts, Counter())
            told.append(
                {
                    "contestant": name,
                    "workload": workload.as_json(),
                    "commands": dict(commands),
                    "nodes": sum(bool(count) for count in counts),
                    "round_trips": round((far - near) * 1000 / (FAR - NEAR), 1),
                }
            )
    return told


def _reset_counts(servers: Sequence[Host]) -> None:
    for host, port in servers:
        with redis.Redis(host=host, port=port) as client:
            client.config_resetstat()


def _counts(servers: Sequence[Host]) -> list[Counter[str]]:
    counts = []
    for host, port in servers:
        with redis.Redis(host=host, port=port) as client:
            stats: Any = client.info("commandstats")
        names = {name: name.removeprefix("cmdstat_") for name in stats}
        counts.append(
            Counter(
                {
                    names[name].upper(): stat["calls"]
                    for name, stat in stats.items()
                    if names[name].partition("|")[0] not in _HOUSEKEEPING
                }
            )
        )
    return counts
