"""The operations of a soak, each checked against the ledger.

They are coroutines, for threads as well: a `Called` never waits for an event loop.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import redis
from django.core.cache import caches

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import Cluster
from tests.soak import DEADLINE
from tests.soak.ledger import Counter, Key, WrongValue
from tests.soak.report import Tally

KEYS = 60
COUNTERS = 5
SIZES = (0, 0, 20, 200, 3_000, 40_000)
DEADLINE_SLACK = 0.05

# Of the operations on an event loop, so many are cancelled, and so many have little time.
CANCELLED, HURRIED = 0.1, 0.1
HURRY_SECONDS = 0.1

Operation = Callable[[], Coroutine[Any, Any, None]]


class Watch(threading.Thread):
    """Knows how long this process did not get to run: its calls cannot be blamed for that.

    Attributes:
        lost: seconds since the beginning.
    """

    STEP = 0.01

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.lost = 0.0

    def run(self) -> None:
        """Look at the clock all the time."""
        before = time.monotonic()
        while True:
            time.sleep(self.STEP)
            now = time.monotonic()
            self.lost += max(0.0, now - before - 2 * self.STEP)
            before = now


class LoopWatch:
    """Knows likewise how long event loops did not get to run.

    Attributes:
        lost: seconds since the beginning, of all loops.
    """

    def __init__(self) -> None:
        self.lost = 0.0

    async def look(self) -> None:
        """Look at the clock all the time."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(Watch.STEP)
            now = time.monotonic()
            self.lost += max(0.0, now - before - 2 * Watch.STEP)
            before = now


class Called:
    """Uses caches and clusters in the thread that runs."""

    async def ask(self, cache: RBCache, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of a cache."""
        return getattr(cache, method)(*args, **options)

    @asynccontextmanager
    async def client(self, cluster: Cluster, kind: str) -> AsyncIterator[Any]:
        """Give a client, "map" or "all", whose promises are settled when the block ends."""
        with getattr(cluster, kind)(timeout=DEADLINE) as client:
            yield client


class Awaited(Called):
    """Uses caches and clusters on the event loop that runs."""

    async def ask(self, cache: RBCache, method: str, *args: Any, **options: Any) -> Any:
        """Await a method of a cache."""
        return await getattr(cache, f"a{method}")(*args, **options)

    @asynccontextmanager
    async def client(self, cluster: Cluster, kind: str) -> AsyncIterator[Any]:
        """Give a client, "map" or "all", whose promises are settled when the block ends."""
        async with getattr(cluster, f"a{kind}")(timeout=DEADLINE) as client:
            yield client


class Workload:
    """What one thread or task does, with keys of its own.

    Args:
        name: a prefix for its keys.
        seed: of its random choices.
        round_seconds: how long one round of a batch may take: connecting and an answer.
        watch: knows when nothing could run.
        caller: how it is done.
        back_off_seconds: for how long calls may wait for nodes that cannot answer yet.
        may_go_back: replicas take the places of nodes.
        sabotage: store a value under another key now and then.
    """

    def __init__(
        self,
        name: str,
        seed: str,
        round_seconds: float,
        watch: Watch | LoopWatch,
        caller: Called,
        *,
        back_off_seconds: float = 0.0,
        may_go_back: bool = False,
        sabotage: bool = False,
    ) -> None:
        round_seconds += back_off_seconds
        self.tally = Tally()
        self._rng = random.Random(seed)
        self._round_seconds = round_seconds
        self._watch = watch
        self._caller = caller
        self._ask = caller.ask
        self._sabotage = sabotage
        self._failed: set[str] = set()  # in this operation
        self._name = name
        key = partial(Key, may_go_back=may_go_back)
        counter = partial(Counter, may_go_back=may_go_back)
        self._keys = [key(f"{name}:{n}") for n in range(KEYS)]
        self._raw_keys = [key(f"{name}:raw:{n}") for n in range(KEYS)]
        self._counters = [counter(f"{name}:counter:{n}") for n in range(COUNTERS)]
        self._cluster = clusters["default"]
        self._strict = cast(RBCache, caches["strict"])
        self._lenient = cast(RBCache, caches["lenient"])
        deadline = DEADLINE + DEADLINE_SLACK
        # What is called, how often, and how long it may take.
        self._operations: list[tuple[Operation, int, float]] = [
            (self.get, 10, round_seconds),
            (self.get_many, 8, round_seconds),
            (self.set, 8, round_seconds),
            (self.set_many, 5, round_seconds),
            (self.add, 2, round_seconds),
            (self.incr, 5, 2 * round_seconds),  # a node may not know its script
            (self.delete_many, 1, round_seconds),
            (self.lenient_get_many, 5, deadline),
            (self.lenient_get, 5, deadline),
            (self.lenient_set_many, 3, deadline),
            (self.map_set_and_get, 4, 2 * deadline),
            (self.fanout, 2, deadline),
        ]
        self._weights = [weight for _, weight, _ in self._operations]

    def step(self) -> None:
        """Do one operation, in the thread that runs."""
        coroutine = self.astep()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("It waited for an event loop")

    async def astep(self) -> None:
        """Do one operation."""
        ((operation, _, bound),) = self._rng.choices(self._operations, self._weights)
        tally = self.tally
        began, lost = time.monotonic(), self._watch.lost
        try:
            await self._run(operation)
        except WrongValue as error:
            tally.wrong += 1
            tally.add_sample(str(error))
        except redis.RedisError as error:
            self._fails(error)
        except Exception as error:  # noqa: BLE001 (it is what a soak is there to find)
            tally.unexpected += 1
            tally.add_sample(f"{operation.__name__}: {error!r}")
        took = time.monotonic() - began
        tally.failures.update(self._failed)
        self._failed.clear()
        stalled = self._watch.lost - lost
        tally.took(operation.__name__, took, took - stalled - bound)

    async def _run(self, operation: Operation) -> None:
        """Run an operation, or begin it and leave it somewhere, which only tasks can."""
        chance = self._rng.random() if isinstance(self._caller, Awaited) else 1.0
        if chance < CANCELLED:
            task = asyncio.ensure_future(operation())
            await asyncio.wait([task], timeout=self._rng.uniform(0, HURRY_SECONDS) ** 2)
            task.cancel()
            await asyncio.wait([task])
            self._failed.add("cancelled")
            if not task.cancelled():
                await task  # raises what it raised
        elif chance < CANCELLED + HURRIED:
            try:
                async with asyncio.timeout(self._rng.uniform(0, HURRY_SECONDS)):
                    await operation()
            except TimeoutError:
                self._failed.add("asyncio.timeout")
        else:
            await operation()

    def _some(self, keys: list[Key]) -> list[Key]:
        return self._rng.sample(keys, self._rng.randint(1, len(keys)))

    def _size(self) -> int:
        return self._rng.choice(SIZES)

    def _check(self, key: Key, value: object) -> None:
        self.tally.hits += key.check(value)

    # With a cache that raises.

    async def get(self) -> None:
        key = self._rng.choice(self._keys)
        self._check(key, await self._ask(self._strict, "get", key.name))

    async def get_many(self) -> None:
        keys = self._some(self._keys)
        found = await self._ask(self._strict, "get_many", [key.name for key in keys])
        for key in keys:
            self._check(key, found.pop(key.name, None))
        if found:
            raise WrongValue(f"nobody asked for {found}")

    async def set(self) -> None:
        key = self._rng.choice(self._keys)
        value = key.next_value(self._size())
        if self._sabotage and self._rng.random() < 0.1:
            value = f"somebody else's {value}"
        await self._ask(self._strict, "set", key.name, value)
        key.stored()

    async def set_many(self) -> None:
        keys = self._some(self._keys)
        await self._ask(
            self._strict, "set_many", {key.name: key.next_value(self._size()) for key in keys}
        )
        for key in keys:
            key.stored()

    async def add(self) -> None:
        key = self._rng.choice(self._keys)
        if await self._ask(self._strict, "add", key.name, key.next_value(self._size())):
            key.stored()

    async def delete_many(self) -> None:
        keys = self._some(self._keys)
        await self._ask(self._strict, "delete_many", [key.name for key in keys])
        for key in keys:
            key.deleted()

    async def incr(self) -> None:
        counter = self._rng.choice(self._counters)
        counter.begins()
        try:
            value = await self._ask(self._strict, "incr", counter.name)
        except ValueError:  # it is not there
            counter.lost()
            await self._ask(self._strict, "add", counter.name, 0, timeout=None)
        else:
            counter.counted(value)
            self.tally.hits += 1

    # With a cache for which a failure is a miss, and a deadline.

    async def lenient_get(self) -> None:
        key = self._rng.choice(self._keys)
        self._check(key, await self._ask(self._lenient, "get", key.name))

    async def lenient_get_many(self) -> None:
        keys = self._some(self._keys)
        found = await self._ask(self._lenient, "get_many", [key.name for key in keys])
        for key in keys:
            self._check(key, found.pop(key.name, None))

    async def lenient_set_many(self) -> None:
        keys = self._some(self._keys)
        values = {key.name: key.next_value(self._size()) for key in keys}
        failed = set(await self._ask(self._lenient, "set_many", values))
        for key in keys:
            if key.name not in failed:
                key.stored()

    # With the engine itself.

    async def map_set_and_get(self) -> None:
        """Each promise has the reply to its own command, whatever the others have."""
        keys = self._some(self._raw_keys)
        async with self._caller.client(self._cluster, "map") as client:
            written = {
                key: client.set(key.name, key.next_value(self._size())).done(None, self._fails)
                for key in keys
            }
        for key, promise in written.items():
            if promise.is_resolved:
                key.stored()
        async with self._caller.client(self._cluster, "map") as client:
            read = {key: client.get(key.name).done(None, self._fails) for key in keys}
        for key, promise in read.items():
            if promise.is_resolved:
                self._check(key, promise.value)

    async def fanout(self) -> None:
        word = f"{self._name}:{self._rng.random()}".encode()
        async with self._caller.client(self._cluster, "all") as client:
            echo = client.echo(word).done(None, self._fails)
        if echo.is_resolved:
            if echo.value != dict.fromkeys(self._cluster.nodes, word):
                raise WrongValue(f"asked to say {word!r}, the nodes said {echo.value}")
            self.tally.hits += len(echo.value)

    def _fails(self, error: Exception) -> None:
        self._failed.add(type(error).__name__)
