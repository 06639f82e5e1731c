"""Layouts that change under load, with WARM_FROM: python -m tests.soak.growing --seconds 60

Processes with the old settings fill and use a cache; then processes with the new settings take
over at once. Their threads and tasks read, set, count, add and delete the same keys, and write
down what they saw. It fails where

- the hit rate of a quarter of a second is below 0.95,
- something that was deleted is read again,
- a counter has lost or doubled a count,
- the same key was added twice,
- a key lives for longer or shorter than the old layout had said.

`--layout grown` adds a fourth node to three; `--layout redis-cluster` moves from three
independent nodes to a Redis Cluster. With `--fault` one of the old nodes, none of which the new
layout has, is killed or stopped in mid-way; then no call may fail, and nothing else is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import monotonic, sleep
from typing import Any, NamedTuple

import django
from django.conf import settings

FORKING = multiprocessing.get_context("fork")  # so that Django is imported once
PAGES, COUNTERS, GONE, TIMED, ONCE = 1000, 20, 1000, 200, 300
BUCKET = 0.25
LEAST_READS = 50  # in a quarter of a second, so that its hit rate says something
LIFE = 3600

Ask = Callable[..., Awaitable[Any]]


class Load(NamedTuple):
    """How much there is to do.

    Attributes:
        processes: how many.
        threads: of each.
        tasks: of each, on one event loop.
        seconds: for how long, in each layout.
    """

    processes: int
    threads: int
    tasks: int
    seconds: float


class Seen:
    """What the threads and tasks of one process saw."""

    def __init__(self) -> None:
        self.reads: Counter[int] = Counter()  # by quarter of a second
        self.hits: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.added: list[str] = []
        self.deleted: list[str] = []
        self.wrong: list[str] = []

    def document(self) -> dict[str, Any]:
        """Return all of it, as another process can take it."""
        return vars(self)


class Worker:
    """One thread or task.

    Args:
        number: which; `of` how many there are.
        ask: awaits a method of the cache.
        seen: is told what happens.
        layout: "old" or "default".
    """

    def __init__(self, number: int, of: int, ask: Ask, seen: Seen, layout: str) -> None:
        self._rng = random.Random(f"{number} {layout}")
        self._ask = ask
        self._seen = seen
        self._gone = [f"gone:{n}" for n in range(GONE) if n % of == number]
        self._layout = layout

    async def step(self) -> None:
        """Do one thing."""
        rng, seen = self._rng, self._seen
        await self._read()
        match rng.randrange(5):
            case 0:
                counter = f"counter:{rng.randrange(COUNTERS)}"
                await self._ask("incr", counter)
                seen.counts[counter] += 1
            case 1:
                number = rng.randrange(PAGES)
                await self._ask("set", f"page:{number}", number, None)
            case 2:
                await self._add()
            case 3 if self._layout == "default":
                await self._delete()
            case _:
                await self._ask("get", f"timed:{rng.randrange(TIMED)}")

    async def _read(self) -> None:
        numbers = self._rng.sample(range(PAGES), 20)
        found = await self._ask("get_many", [f"page:{number}" for number in numbers])
        bucket = int(monotonic() / BUCKET)
        self._seen.reads[bucket] += len(numbers)
        self._seen.hits[bucket] += len(found)
        self._seen.wrong += [
            f"page:{number} is {found[f'page:{number}']!r}"
            for number in numbers
            if found.get(f"page:{number}", number) != number
        ]
        await self._ask("get", f"gone:{self._rng.randrange(GONE)}")  # others delete it

    async def _add(self) -> None:
        # Those that the old layout has are as many as those that are new.
        last = ONCE if self._layout == "old" else 2 * ONCE
        key = f"once:{self._rng.randrange(last)}"
        if await self._ask("add", key, 1, None):
            self._seen.added.append(key)

    async def _delete(self) -> None:
        if self._gone and self._rng.random() < 0.5:
            key = self._gone.pop()
            await self._ask("delete", key)
            self._seen.deleted.append(key)
        if self._seen.deleted:
            key = self._rng.choice(self._seen.deleted)
            if await self._ask("get", key) is not None:
                self._seen.wrong.append(f"{key} came back")


def work(number: int, load: Load, layout: str, say: Any) -> None:
    """Be one process."""
    from tests.helpers import make_cache

    options: dict[str, Any] = {} if layout == "old" else {"WARM_FROM": "old"}
    cache: Any = make_cache(layout, OPTIONS=options)
    seen = Seen()
    until = monotonic() + load.seconds
    each = load.threads + load.tasks
    all_workers = load.processes * each

    async def call(method: str, *args: Any) -> Any:
        return getattr(cache, method)(*args)

    async def await_(method: str, *args: Any) -> Any:
        return await getattr(cache, f"a{method}")(*args)

    async def go_on(worker: Worker) -> None:
        while monotonic() < until:
            try:
                await worker.step()
            except Exception as error:  # noqa: BLE001 (none may fail)
                seen.wrong.append(repr(error))
                return

    async def all_tasks() -> None:
        first = number * each + load.threads
        numbers = range(first, first + load.tasks)
        workers = [Worker(n, all_workers, await_, seen, layout) for n in numbers]
        await asyncio.gather(*map(go_on, workers))

    first = number * each
    threads = [
        threading.Thread(
            target=run_without_loop,
            args=(go_on(Worker(n, all_workers, call, seen, layout)),),
        )
        for n in range(first, first + load.threads)
    ]
    for thread in threads:
        thread.start()
    if load.tasks:
        asyncio.run(all_tasks())
    for thread in threads:
        thread.join()
    say.put(seen.document())


def run_without_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def run_load(load: Load, layout: str, fault: Callable[[], None] | None = None) -> Seen:
    """Run all processes on a layout, and put together what they saw."""
    said: Any = FORKING.Queue()
    processes = [
        FORKING.Process(target=work, args=(number, load, layout, said))
        for number in range(load.processes)
    ]
    for process in processes:
        process.start()
    if fault is not None:
        sleep(load.seconds / 4)
        fault()
    seen = Seen()
    for _ in processes:
        document = said.get(timeout=load.seconds + 60)
        for name, value in document.items():
            mine = getattr(seen, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                mine.extend(value)
    for process in processes:
        process.join()
    return seen


def expiry_of(cache: Any, key: str) -> int:
    """Return when a key expires, in milliseconds since 1970."""
    cache.get(key)
    made = f":1:{key}"
    expires: int = cache.cluster.get_local_client_for_key(made).pexpiretime(made)
    return expires


def judge(before: Seen, after: Seen, ends: Mapping[str, int], *, has_fault: bool) -> list[str]:
    """Return what is wrong, once all have ended.

    Args:
        ends: when keys were to expire.
    """
    from tests.helpers import make_cache

    cache = make_cache(OPTIONS={"WARM_FROM": "old"})
    wrong = [*before.wrong, *after.wrong]
    if has_fault:
        return wrong
    for bucket, reads in sorted(after.reads.items()):
        if reads >= LEAST_READS and after.hits[bucket] < 0.95 * reads:
            wrong.append(f"the hit rate was {after.hits[bucket]} of {reads}")
    added = Counter([*before.added, *after.added])
    wrong += [f"{key} was added {many} times" for key, many in added.items() if many > 1]
    counts = before.counts + after.counts
    for key, number in cache.get_many(f"counter:{n}" for n in range(COUNTERS)).items():
        if number != counts[key]:
            wrong.append(f"{key} is {number}, and was counted {counts[key]} times")
    wrong += [f"{key} came back" for key in cache.get_many(after.deleted)]
    for key, end in ends.items():
        moved = expiry_of(cache, key)
        if not end - 1500 < moved <= end + 1:
            wrong.append(f"{key} expires at {moved}, and was to at {end}")
    return wrong


def soak(load: Load, fault: Callable[[], None] | None = None) -> tuple[list[str], Seen]:
    """Use the old layout, then the new one; return what is wrong, and what was seen."""
    from tests.helpers import make_cache

    cache = make_cache("old")
    cache.set_many({f"page:{n}": n for n in range(PAGES)}, None)
    cache.set_many({f"counter:{n}": 0 for n in range(COUNTERS)}, None)
    cache.set_many({f"gone:{n}": n for n in range(GONE)}, None)
    timed = [f"timed:{n}" for n in range(TIMED)]
    cache.set_many(dict.fromkeys(timed, 1), LIFE)
    ends = {key: expiry_of(cache, key) for key in timed}
    cache.cluster.close()
    before = run_load(load._replace(seconds=load.seconds / 4), "old")
    after = run_load(load, "default", fault)
    return judge(before, after, ends, has_fault=fault is not None), after


def configure(old: Mapping[int, Any], new: Mapping[int, Any], topology: str) -> None:
    """Let the settings have both layouts."""
    settings.configure(
        RB_CLUSTERS={"old": {"HOSTS": old}, "default": {"HOSTS": new, "TOPOLOGY": topology}}
    )
    django.setup()


def main() -> None:
    """Run it on nodes of its own."""
    from django_rb.testing import LocalNodes

    parser = argparse.ArgumentParser(description="Layouts that change under load.")
    parser.add_argument("--layout", choices=["grown", "redis-cluster"], default="grown")
    parser.add_argument("--fault", choices=["kill", "stop"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=16, help="of each process")
    parser.add_argument("--tasks", type=int, default=50, help="of each process")
    options = parser.parse_args()
    load = Load(options.processes, options.threads, options.tasks, options.seconds)
    topology = "redis-cluster" if options.layout == "redis-cluster" else "static"
    is_grown = topology == "static" and not options.fault
    with (
        LocalNodes(4) as nodes,
        LocalNodes(3 if topology != "static" else 2, topology=topology) as others,
    ):
        three = {n: nodes.hosts[n] for n in range(3)}
        configure(three, nodes.hosts if is_grown else others.hosts, topology)

        def fault() -> None:
            if options.fault == "kill":
                nodes.kill(0)
                return
            nodes.pause(0)
            sleep(load.seconds / 4)
            nodes.resume(0)

        wrong, seen = soak(load, fault if options.fault else None)
    rates = [
        seen.hits[bucket] / reads
        for bucket, reads in seen.reads.items()
        if reads >= LEAST_READS
    ]
    print(
        json.dumps(
            {
                "wrong": wrong[:20],
                "reads": seen.reads.total(),
                "lowest hit rate": min(rates, default=0),
                "counted": seen.counts.total(),
                "added": len(seen.added),
                "deleted": len(seen.deleted),
            },
            indent=2,
        )
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
