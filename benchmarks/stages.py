"""Tell where the CPU time of a call goes: python -m benchmarks.stages

Each stage's own time, in microseconds per call: what the stages inside of it take is not in it.
Medians. To look takes time as well, about half a microsecond for each time that a stage is
entered, which is in the figures.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from statistics import median
from timeit import repeat
from typing import Any

import django
from django.conf import settings
from django.core.cache import cache

from benchmarks.conductor import on_one_core
from benchmarks.workloads import Workload
from django_rb.testing import LocalNodes

NODES = 8
KEYS_IN_ALL = 300_000
REST = "the rest: from call to call, and what is given up"


class Stages:
    """Stopwatches around functions, which may call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._own: dict[str, float] = {}
        self._inside = [0.0]  # what was measured inside of each stage that is entered

    def watch(self, owner: Any, function: str, stage: str) -> None:
        """Let the time in ``owner.function()`` count for a stage."""
        call = getattr(owner, function)

        def watched(*args: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                took = time.thread_time() - began
                own = took - self._inside.pop()
                self._inside[-1] += took
                self._own[stage] = self._own.get(stage, 0.0) + own

        setattr(owner, function, watched)

    def time(self, call: Callable[[], object]) -> None:
        """Make a call and keep what each stage took in it."""
        self._own.clear()
        self._inside = [0.0]
        began = time.thread_time()
        result = call()
        del result  # to give a result up takes time, too
        self._own[REST] = time.thread_time() - began - self._inside[0]
        for stage, own in self._own.items():
            self.seconds.setdefault(stage, []).append(own)

    def print(self, title: str) -> None:
        """Print each stage's median, and its share of all."""
        medians = {stage: median(all_of_it) for stage, all_of_it in self.seconds.items()}
        whole = sum(medians.values())
        print(f"\n{title}: {whole * 1e6:,.0f} µs")
        for stage, seconds in medians.items():
            print(f"{seconds * 1e6:10,.1f}  {seconds / whole:5.0%}  {stage}")
        self.seconds = {}


def watch_batches() -> Stages:
    """Return stopwatches around the stages of get_many and set_many."""
    from django_rb.engine.protocol import exchange  # noqa: PLC0415 (needs settings)
    from django_rb.engine.rounds import batch  # noqa: PLC0415
    from django_rb.engine.threads.round import Round  # noqa: PLC0415

    stages, operations = Stages(), cache._ops  # type: ignore[attr-defined]
    cluster = operations.cluster
    stages.watch(operations._keys, "make_many", "keys made, and looked at for warnings")
    stages.watch(cluster.router, "get_hosts_for_keys", "owners found, by slot")
    stages.watch(exchange, "encode_keys", "commands encoded")
    stages.watch(batch, "_SetsExchange", "values pickled, commands encoded")
    stages.watch(Round, "_connect", "connections taken and looked at")
    stages.watch(Round, "_start", "sent")
    stages.watch(Round, "_loop", "waited, received and parsed")
    stages.watch(operations._codec, "decode_found", "values unpickled, and put by name")
    return stages


def print_pieces(name: str) -> None:
    """Print what the pieces of a get take, each timed alone."""
    from django_rb.engine.protocol.encoding import pack  # noqa: PLC0415 (needs settings)
    from django_rb.engine.rounds.batch import call_nodes  # noqa: PLC0415

    operations = cache._ops  # type: ignore[attr-defined]
    cluster, codec = operations.cluster, operations._codec
    key = operations._keys.make(name, None)
    owner = cluster.get_host_for_key(key)
    (idle,) = cluster._threads.pools[owner].idle
    asked = {owner: (b"GET", key)}
    stored = cluster.run(call_nodes(cluster, asked))[0][owner]
    pieces: dict[str, Callable[[], object]] = {
        "the whole get": lambda: cache.get(name),
        "key made, and looked at for warnings": lambda: operations._keys.make(name, None),
        "owner found, by slot": lambda: cluster.router.get_host_for_key(key),
        "command encoded": lambda: pack((b"GET", key)),
        "connection looked at": idle.has_input,
        "encoded, sent, waited, received, parsed, with that look": lambda: cluster.run(
            call_nodes(cluster, asked)
        ),
        "value unpickled": lambda: codec.decode(stored, key),
    }
    print("\nget, its pieces timed alone:")
    for title, call in pieces.items():
        seconds = median(repeat(call, time.thread_time, repeat=50, number=200)) / 200
        print(f"{seconds * 1e6:10.2f}  {title}")


def main() -> None:
    """Print the stages of batches and the pieces of a get, on nodes of its own."""
    with LocalNodes(NODES) as nodes:
        settings.configure(
            CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
        )
        django.setup()
        data = Workload().data()
        cache.set_many(data)
        gc.disable()
        with on_one_core([os.getpid(), *map(nodes.pid, nodes.hosts)]):
            print_pieces(next(iter(data)))
        stages = watch_batches()
        for keys in (100, 1000, 10_000):
            data = Workload(keys=keys).data()
            names = list(data)
            cache.set_many(data)
            for _ in range(KEYS_IN_ALL // keys):
                stages.time(lambda names=names: cache.get_many(names))  # type: ignore[misc]
            stages.print(f"get_many of {keys:,}, {NODES} nodes")
            for _ in range(KEYS_IN_ALL // keys):
                stages.time(lambda data=data: cache.set_many(data))  # type: ignore[misc]
            stages.print(f"set_many of {keys:,}, {NODES} nodes")


if __name__ == "__main__":
    main()
