"""A process of a soak: python -m tests.soak.worker, its job on standard input.

It prints what it did as lines of JSON. When it is told to end, or its parent is gone, it
ends its threads, waits for all nodes, and looks for what was left behind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import django
from django.conf import settings

CONNECT_SECONDS = 0.3
SOCKET_SECONDS = 0.5
HEALTH = {"FAILURES": 3, "PAUSE": 0.25, "MAX_PAUSE": 2.0}
PROGRESS_SECONDS = 0.5
LOOPS, TASKS = 2, 3
# Until a node that is alive has served everybody: the longest pause, and a probe that may
# wait for its whole time, twice over for a busy machine.
BACK_SECONDS = 2 * (HEALTH["MAX_PAUSE"] + CONNECT_SECONDS + SOCKET_SECONDS)


class Job(NamedTuple):
    """What a worker is to do.

    Attributes:
        number: which of the processes it is.
        topology: that of the nodes.
        hosts: the nodes; in a Redis Cluster some of them.
        names: the file that says what their names resolve to.
        threads: how many; with event loops, how many tasks for each of them.
        seed: of all random choices.
        mode: how operations run side by side; see MODES.
        sabotage: "value" or "descriptor": go wrong, so that the soak is seen to notice.
    """

    number: int
    topology: str
    hosts: dict[int, dict[str, Any]]
    names: str
    threads: int
    seed: int
    mode: str = "threads"
    sabotage: str | None = None


def main() -> None:
    from tests.soak.names import look_up_in

    job = Job(**json.loads(sys.stdin.readline()))
    look_up_in(job.names)
    hosts = {int(host_id): host for host_id, host in job.hosts.items()}
    configure(hosts, job.topology)
    from tests.faults.sharing.checks import check_connections
    from tests.soak.report import Ending
    from tests.soak.workload import Watch

    ending = Ending(descriptors_at_start=count_descriptors())
    watch = Watch()
    watch.start()
    over = threading.Event()
    say, join = MODES[job.mode](job, watch, over)
    threading.Thread(target=wait_for_the_end, args=(over,), daemon=True).start()
    say()
    while not over.wait(PROGRESS_SECONDS):
        say()
    join()
    wait_for_nodes(ending)
    from django_rb import clusters

    cluster = clusters["default"]
    ending.descriptors_with_connections = count_descriptors()
    if not ending.missing:
        try:
            check_connections(cluster)
        except AssertionError as error:
            ending.stray = str(error) or repr(error)
    cluster.close()
    wait_for_openings()
    cluster.close()  # what came too late for its batch went to a pool
    gc.collect()
    ending.descriptors_at_end = count_descriptors()
    say()
    print(json.dumps({"ending": asdict(ending)}), flush=True)


def configure(hosts: dict[int, dict[str, Any]], topology: str) -> None:
    """Set Django up with a cache that raises and one for which a failure is a miss."""
    from tests.soak import DEADLINE

    logging.getLogger("django_rb").addHandler(logging.NullHandler())
    logging.getLogger("django_rb").propagate = False
    backend = {"BACKEND": "django_rb.cache.RBCache"}
    settings.configure(
        INSTALLED_APPS=["django_rb"],
        RB_CLUSTERS={
            "default": {
                "TOPOLOGY": topology,
                "HOSTS": hosts,
                "HEALTH": HEALTH,
                "POOL_OPTIONS": {
                    "socket_timeout": SOCKET_SECONDS,
                    "socket_connect_timeout": CONNECT_SECONDS,
                },
            }
        },
        CACHES={
            "default": backend,
            "strict": backend,
            "lenient": {
                **backend,
                "OPTIONS": {"ON_NODE_ERROR": "miss", "DEADLINE": DEADLINE},
            },
        },
    )
    django.setup()


def wait_for_the_end(over: threading.Event) -> None:
    """Wait until the parent says so. If it is gone, so are the nodes and all readers."""
    if not sys.stdin.readline():
        os._exit(1)
    over.set()


Running = tuple[Callable[[], None], Callable[[], None]]


def run_threads(job: Job, watch: Any, over: threading.Event) -> Running:
    """Start threads; return what prints their counts, and what waits for their end."""
    from tests.soak.report import Tally
    from tests.soak.workload import Called

    own = Tally()
    workloads = make_workloads(job, watch, own, Called(), job.threads)

    def work(workload: Any) -> None:
        while not over.is_set():
            workload.step()

    threads = [threading.Thread(target=work, args=(workload,)) for workload in workloads]
    return start(threads, own, workloads)


def run_tasks(job: Job, _: Any, over: threading.Event) -> Running:
    """Start two event loops with many tasks each; return the same."""
    from django_rb import clusters
    from tests.soak.report import Tally
    from tests.soak.workload import Awaited, LoopWatch

    own = Tally()
    watch = LoopWatch()
    workloads = make_workloads(job, watch, own, Awaited(), LOOPS * TASKS * job.threads)

    async def work(workload: Any) -> None:
        while not over.is_set():
            await workload.astep()
            await asyncio.sleep(0)

    async def work_together(share: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: lose(own, context))
        looking = asyncio.ensure_future(watch.look())
        await asyncio.gather(*map(work, share))
        looking.cancel()
        for pool in clusters["default"]._loops._loops.get(loop).pools:
            if len(pool._idle) != len(pool.connections):
                lose(own, {"message": "a connection was neither idle nor closed"})

    threads = [
        threading.Thread(
            target=lambda share: asyncio.run(work_together(share)), args=(workloads[n::LOOPS],)
        )
        for n in range(LOOPS)
    ]
    return start(threads, own, workloads)


def lose(tally: Any, context: dict[str, Any]) -> None:
    """Count what a loop was told of as nobody caught it."""
    tally.unexpected += 1
    tally.add_sample(f"{context['message']}: {context.get('exception')!r}")


def make_workloads(job: Job, watch: Any, own: Any, caller: Any, count: int) -> list[Any]:
    """Make what threads or tasks do; count in `own` what is nobody's."""
    from django_rb import clusters
    from django_rb.engine.topology.settings import REDIS_CLUSTER
    from tests.soak.workload import Workload

    clusters["default"].on_health_change(lambda change: own.health.update([change.state]))
    tell_of_lost_errors(own)
    workloads = [
        Workload(
            f"soak:{job.number}:{n}",
            f"{job.seed}:{job.number}:{n}",
            CONNECT_SECONDS + SOCKET_SECONDS,
            watch,
            caller,
            back_off_seconds=SOCKET_SECONDS if job.topology == REDIS_CLUSTER else 0.0,
            may_go_back=job.topology == REDIS_CLUSTER,
            sabotage=job.sabotage == "value",
        )
        for n in range(count)
    ]
    if job.sabotage == "descriptor":
        os.open(os.devnull, os.O_RDONLY)
    return workloads


def start(threads: list[threading.Thread], own: Any, workloads: list[Any]) -> Running:
    """Start threads; return what prints their counts, and what waits for their end."""
    from tests.soak.report import Tally

    for thread in threads:
        thread.start()

    def say() -> None:
        total = Tally()
        for tally in (own, *(workload.tally for workload in workloads)):
            total.add(tally)
        print(json.dumps({"tally": total.as_json()}), flush=True)

    def join() -> None:
        for thread in threads:
            thread.join()

    return say, join


def tell_of_lost_errors(tally: Any) -> None:
    """Count what threads and destructors raise: a ResourceWarning, for one."""

    def count(lost: Any) -> None:
        tally.unexpected += 1
        tally.add_sample(f"{lost.exc_value!r} in {getattr(lost, 'object', None)!r}")

    sys.unraisablehook = count
    threading.excepthook = count


# A mode starts its operations and returns how to look at them and how to wait for them.
MODES: dict[str, Callable[[Job, Any, threading.Event], Running]] = {
    "threads": run_threads,
    "asyncio": run_tasks,
}


def wait_for_nodes(ending: Any) -> None:
    """Write to and read from every node until each has served us."""
    from django_rb import clusters
    from django_rb.engine.rounds.batch import call

    cluster = clusters["default"]
    keys: dict[int, bytes] = {}
    for n in range(10_000):
        key = b"back:%d:%d" % (os.getpid(), n)
        keys.setdefault(cluster.get_host_for_key(key), key)
    began = time.monotonic()
    missing: dict[int, str] = dict.fromkeys(cluster.nodes, "nothing")
    while missing and time.monotonic() < began + BACK_SECONDS:
        for host_id in list(missing):
            key = keys[host_id]
            said: list[object] = []
            for args in ((b"SET", key, key), (b"GET", key)):
                reply, failures = cluster.run(call(cluster, key, *args))
                said += failures or [reply]
            missing[host_id] = str(said)
            if said == [b"OK", key]:
                del missing[host_id]
        time.sleep(0.01)
    ending.missing = [f"node {host_id}: {said}" for host_id, said in missing.items()]
    ending.back_after = None if missing else time.monotonic() - began


def wait_for_openings() -> None:
    """Wait for connections that are being opened and that nobody needs any more."""
    from django_rb import clusters

    openings = clusters["default"]._threads._openings
    end = time.monotonic() + 5
    while time.monotonic() < end and openings.count():
        time.sleep(0.01)


def count_descriptors() -> int:
    """Return how many descriptors are open; on Linux and macOS."""
    folder = Path("/proc/self/fd")
    return len(list((folder if folder.exists() else Path("/dev/fd")).iterdir()))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    with suppress(BrokenPipeError):
        main()
