"""Processes that read and write values that only grow, near and far; run as a program.

Each key has one writer, who writes the time (Unix nanoseconds). Readers are threads and tasks
of several processes. Of each read it is judged:

    backwards   a read that began after another read or write of the process had ended returned
                an older value than that one
    age         how long before the read began a newer value had been written, in seconds

It prints how many reads there were, how many of them were near, and the worst of both.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from time import monotonic, sleep, time_ns
from typing import Any

import django
import redis
from django.conf import settings

from django_rb.cache import RBCache

FORKING = multiprocessing.get_context("fork")

KEYS = [f"counter:{n}" for n in range(24)]
MAX_AGE = 5.0
NEAR = {"MAX_AGE": MAX_AGE, "PREFIXES": ["counter"], "KEEP_MISSES": True}
PACE = 0.06  # seconds between two rounds of a writer, at most
PAUSE = 0.005  # seconds that a reader pauses at times, as near copies are read without waiting


class Ledger:
    """The latest writes of each key, and when they had ended: shared by all processes."""

    _SIZE = 64  # writes of a key

    def __init__(self) -> None:
        self._rows = [FORKING.RawArray("q", 2 * self._SIZE + 1) for _ in KEYS]
        self._next = dict.fromkeys(KEYS, 0)  # of the process that writes

    def note(self, key: str, value: int) -> None:
        row, place = self._rows[KEYS.index(key)], self._next[key]
        row[2 * place + 1] = 0
        row[2 * place], row[2 * place + 1] = value, time_ns()
        row[2 * self._SIZE] = value
        self._next[key] = (place + 1) % self._SIZE

    def age(self, key: str, value: int, began: int) -> float:
        """Return how long before `began` a newer value had been written; 0 if none was."""
        row = self._rows[KEYS.index(key)]
        if value >= row[2 * self._SIZE]:
            return 0.0
        ended = [e for v, e in zip(row[:-1:2], row[1::2], strict=True) if v > value and e]
        return max(0.0, (began - min(ended)) / 1e9) if ended else 0.0


class Model:
    """What one process has seen.

    Args:
        seconds: how long it reads.
        seed: of what it does next.
        mine: the keys that it writes.
        ledger: what all have written.
    """

    def __init__(self, seconds: float, seed: int, mine: list[str], ledger: Ledger) -> None:
        self.ledger = ledger
        self.cache = RBCache("default", {"OPTIONS": {"NEAR": NEAR, "DEADLINE": 2}})
        self.until = monotonic() + seconds
        self.seed = seed
        self.mine = mine
        self.newest: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.lock = threading.Lock()
        self.backwards: list[str] = []
        self.oldest = 0.0
        self.counts: Counter[str] = Counter()

    def goes_on(self) -> bool:
        """Return whether it is too early to end: not much was done where machines are busy."""
        now = monotonic()
        if now < self.until or now > self.until + 30:
            return now < self.until
        info = self.cache.near_info()
        assert info is not None
        return info.hits < 20 or info.invalidations < 20 or self.counts["aget"] < 20

    def saw(self, key: str, value: int) -> None:
        with self.lock:
            self.newest[key] = max(self.newest[key], value)

    def judge(self, how: str, key: str, floor: int, began: int, value: int | None) -> None:
        self.counts[how] += 1
        if value is None:  # the node was emptied
            self.counts["missing"] += 1
            return
        if value < floor:
            self.backwards.append(f"{how} {key}: {(floor - value) / 1e6:.1f} ms")
        age = self.ledger.age(key, value, began)
        self.oldest = max(self.oldest, age)
        self.counts["older than 50 ms"] += age > 0.05
        self.saw(key, value)

    def floors(self, keys: list[str]) -> tuple[dict[str, int], int]:
        return {key: self.newest[key] for key in keys}, time_ns()

    def read(self) -> None:
        """Read as threads do."""
        chance, cache = random.Random(f"{self.seed} {threading.get_ident()}"), self.cache
        while self.goes_on():
            keys = chance.sample(KEYS, 4)
            floors, began = self.floors(keys)
            try:
                if chance.random() < 0.3:
                    found = cache.get_many(keys)
                    for key in keys:
                        self.judge("get_many", key, floors[key], began, found.get(key))
                else:
                    key = keys[0]
                    self.judge("get", key, floors[key], began, cache.get(key))
            except redis.RedisError:
                self.counts["errors"] += 1
            if chance.random() < 0.05:
                sleep(PAUSE)

    def write(self) -> None:
        """Write the keys that are this process's own."""
        chance, cache = random.Random(f"{self.seed} writes"), self.cache
        while self.goes_on():
            for key in self.mine:
                value = time_ns()
                try:
                    if chance.random() < 0.5:
                        cache.set(key, value, None)
                    else:
                        cache.set_many({key: value}, 60)
                except redis.RedisError:
                    self.counts["errors"] += 1
                else:
                    self.saw(key, value)
                    self.ledger.note(key, value)
                    self.counts["writes"] += 1
            sleep(PACE * chance.random())

    def read_on_loop(self) -> None:
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        await asyncio.gather(*[self._read_async(number) for number in range(3)])

    async def _read_async(self, number: int) -> None:
        chance, cache = random.Random(f"{self.seed} task {number}"), self.cache
        while self.goes_on():
            keys = chance.sample(KEYS, 4)
            floors, began = self.floors(keys)
            try:
                if chance.random() < 0.3:
                    found = await cache.aget_many(keys)
                    for key in keys:
                        self.judge("aget_many", key, floors[key], began, found.get(key))
                else:
                    key = keys[0]
                    self.judge("aget", key, floors[key], began, await cache.aget(key))
            except redis.RedisError:
                self.counts["errors"] += 1
            if chance.random() < 0.05:
                await asyncio.sleep(PAUSE)

    def run(self, found: Any) -> None:
        work: list[Callable[[], None]] = [self.read, self.read, self.read_on_loop, self.write]
        threads = [threading.Thread(target=part) for part in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        info = self.cache.near_info()
        assert info is not None
        found.put(
            {
                "backwards": self.backwards[:5],
                "oldest": self.oldest,
                "near": info.hits,
                "invalidations": info.invalidations,
                **self.counts,
            }
        )


def begin(
    number: int, count: int, seconds: float, seed: int, ledger: Ledger, found: Any
) -> None:
    Model(seconds, seed + number, KEYS[number::count], ledger).run(found)


def main(seconds: float, seed: int, count: int) -> list[dict[str, Any]]:
    # The parent has copies and connections, too: no child may believe in them.
    cache = RBCache("default", {"OPTIONS": {"NEAR": NEAR}})
    cache.set_many({key: time_ns() for key in KEYS}, 60)
    cache.get_many(KEYS)
    found, ledger = FORKING.Queue(), Ledger()
    processes = [
        FORKING.Process(
            target=begin, args=(number, count, seconds, seed, ledger, found), daemon=True
        )
        for number in range(count)
    ]
    for process in processes:
        process.start()
    print("begun", flush=True)
    return [found.get(timeout=seconds + 60) for _ in processes]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    cluster = {"HOSTS": {int(n): host for n, host in asked["hosts"].items()}}
    if asked["topology"] != "static":
        cluster["TOPOLOGY"] = asked["topology"]
    settings.configure(RB_CLUSTERS={"default": cluster})
    django.setup()
    print(json.dumps(main(asked["seconds"], asked["seed"], asked["processes"])))
