"""Threads and loops at work on a cluster while something happens to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import count, find, store
from tests.helpers import wait_until

NAMES = [f"key:{n}" for n in range(60)]
# Seconds between calls. The events that they meet take much longer.
PACE = 0.005


class Load:
    """Threads and a loop that write, read and delete keys, and note what is wrong."""

    def __init__(self, cluster: Cluster) -> None:
        self.failed: list[object] = []
        self.rounds = [0] * 3
        self._cluster = cluster
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(2)]
        self._threads.append(threading.Thread(target=self._work_on_loop))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Wait until everybody has used everything since now, or something is wrong."""
        before = self.rounds[:]
        wait_until(
            lambda: (
                self.failed
                or all(now > then + 1 for now, then in zip(self.rounds, before, strict=True))
            ),
            30,
        )

    def _work(self, number: int) -> None:
        cluster, keys = self._cluster, [b"%d:%b" % (number, key.encode()) for key in NAMES]
        try:
            while not self._is_over.is_set():
                self.rounds[number] += 1
                values = [b"%d" % self.rounds[number]] * len(keys)
                _, failures = cluster.run(store(cluster, keys, values, bytes))
                self.failed.extend(failures)
                found, failures = cluster.run(find(cluster, keys))
                self.failed.extend(failures)
                if found != dict(zip(keys, values, strict=True)):
                    self.failed.append(found)
                deleted, failures = cluster.run(count(cluster, b"UNLINK", keys))
                self.failed.extend(failures)
                if deleted != len(keys):
                    self.failed.append(deleted)
        except Exception as error:  # noqa: BLE001 (the test tells)
            self.failed.append(error)

    def _work_on_loop(self) -> None:
        async def main() -> None:
            client = self._cluster.aio
            while not self._is_over.is_set():
                self.rounds[2] += 1
                value = b"%d" % self.rounds[2]
                await asyncio.gather(*(client.set(f"aio:{key}", value) for key in NAMES))
                got = await client.mget([f"aio:{key}" for key in NAMES])
                if got != [value] * len(NAMES):
                    self.failed.append(got)

        try:
            asyncio.run(main())
        except Exception as error:  # noqa: BLE001 (the test tells)
            self.failed.append(error)


@contextmanager
def reading_and_writing(cluster: Cluster, keys: Sequence[bytes]) -> Iterator[list[Exception]]:
    """Read and write in two threads and a loop while the block runs; tell what failed."""
    failed: list[Exception] = []
    is_over = threading.Event()
    values = {key: key for key in keys}

    def work(call: Callable[[], object]) -> None:
        while not is_over.wait(PACE):
            try:
                call()
            except Exception as error:  # noqa: BLE001 (the test tells)
                failed.append(error)

    async def await_calls() -> None:
        while not is_over.is_set():
            try:
                await cluster.aio.mset(values)
                await cluster.aio.mget(keys)
            except Exception as error:  # noqa: BLE001 (the test tells)
                failed.append(error)
            await asyncio.sleep(PACE)

    client = cluster.get_routing_client()
    threads = [
        threading.Thread(target=work, args=(lambda: client.mget(keys),)),
        threading.Thread(target=work, args=(lambda: client.mset(values),)),
        threading.Thread(target=lambda: asyncio.run(await_calls())),
    ]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
