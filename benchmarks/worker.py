"""A contestant's own process: it does as the conductor says over its standard input.

Each request is a line of JSON with what to `do`; each answer one with what came of it, or
with an `error`. It runs in an environment that need not have django-rb, or even Django.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle, islice
from typing import Any, TextIO

from benchmarks.contestants import CONTESTANTS
from benchmarks.workloads import KEYS_IN_TURN, MAP, Workload

PACKAGES = (
    *("django", "redis", "hiredis", "django-redis", "rb", "django-vcache"),
    "valkey-glide-sync",
)
FRESH_SECONDS = 100.0  # what was stored may expire after 300


class CannotDo(Exception):
    """The contestant has no such operation, or does not do its work."""


class Work:
    """A contestant's calls of one workload.

    Attributes:
        operation: by a player; what is called.
        arguments: of each call, in turn.
    """

    def __init__(self, worker: Worker, workload: Workload) -> None:
        self.workload = workload
        self.data = workload.data()
        self.names = list(self.data)
        self.arguments: list[tuple[Any, ...]]
        if workload.operation.startswith(MAP):
            self.command = workload.operation.removeprefix(MAP)
            self.keys = worker.player.map_keys(self.command, self.names)
            self.arguments = [(self.keys,)]
        elif not workload.is_single:
            sets = workload.operation == "set_many"
            self.arguments = [(self.data if sets else self.names,)]
        else:
            few = self.names[: max(workload.tasks, KEYS_IN_TURN)]
            sets = workload.operation == "set"
            self.arguments = [(name, self.data[name]) if sets else (name,) for name in few]
        self._worker = worker
        self._stored_at = float("-inf")

    def operation(self, player: Any) -> Callable[..., Any]:
        name = self.workload.operation
        if name.startswith(MAP):
            return partial(player.map, self.command)
        name = f"a{name}" if self.workload.tasks else name
        operation = getattr(player, name, None)
        if operation is None:
            raise CannotDo(f"it has no {name}")
        return operation  # type: ignore[no-any-return]

    def store(self) -> None:
        """Store what the calls find, unless that was done lately."""
        if time.monotonic() - self._stored_at < FRESH_SECONDS:
            return
        player = self._worker.player
        if self.workload.operation.startswith(MAP):
            player.map_seed(self.command, self.keys)
        elif self.workload.is_single:
            for name, value in self.data.items():
                player.set(name, value)
        else:
            player.set_many(self.data)
        self._stored_at = time.monotonic()

    def check(self) -> None:
        """See that calls do what they are timed for.

        Raises:
            CannotDo: they do not.
        """
        operation, workload = self.operation(self._worker.player), self.workload
        if workload.tasks:
            got = self._worker.runner.run(_gather([operation(*a) for a in self.arguments]))
        else:
            got = [operation(*arguments) for arguments in self.arguments]
        player = self._worker.player
        if workload.operation.startswith(MAP):
            from benchmarks.contestants.maps import COMMANDS  # noqa: PLC0415

            wanted = COMMANDS[self.command].returns
            [got] = got
            right = len(got) == workload.keys and all(
                one == wanted if wanted is not None else one for one in got
            )
        elif workload.operation == "get":
            right = got == [self.data[name] for (name,) in self.arguments]
        elif workload.operation == "get_many":
            right = got == [self.data]
        elif workload.operation == "set_many":
            right = player.get_many(self.names) == self.data
        elif workload.operation == "set":
            right = all(player.get(name) == value for name, value in self.arguments)
        else:
            right = all(got)
        if not right:
            raise CannotDo(f"{workload.call} did not do its work: it gave {str(got)[:60]}")


class Worker:
    """One contestant."""

    def __init__(self, contestant: str, hosts: list[list[Any]], prefix: str) -> None:
        addresses = [(str(host), int(port)) for host, port in hosts]
        self._make = partial(CONTESTANTS[contestant].make_player, addresses, prefix)
        self.player = self._make()
        self.runner = asyncio.Runner()
        self._work: dict[Workload, Work] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()

    def prepare(self, workload: dict[str, Any]) -> None:
        """Store what a workload's calls find, and check them."""
        new = Workload(**workload)
        work = self._work[new] = Work(self, new)
        work.store()
        work.check()

    def turn(self, workload: dict[str, Any], calls: int) -> dict[str, Any]:
        """Make calls; return what each took in seconds. A few more go before, not timed.

        Returns:
            "wall" and "cpu", which is the whole process's, all its threads included; or
            "samples", one for each call, where threads compute.
        """
        work = self._work[Workload(**workload)]
        work.store()
        gc.collect()
        gc.disable()
        try:
            if work.workload.computing is not None:
                with _computing(work.workload.computing):
                    return {"samples": self._sample(work, calls)}
            if work.workload.tasks:
                wall, cpu = self.runner.run(self._time_tasks(work, calls))
            elif work.workload.threads > 1:
                wall, cpu = self._time_threads(work, calls)
                calls *= work.workload.threads
            else:
                self._make_calls(work, self.player, calls // 10)
                wall, cpu = _time(lambda: self._make_calls(work, self.player, calls))
        finally:
            gc.enable()
        return {"wall": wall / calls, "cpu": cpu / calls}

    def cold(self, workload: dict[str, Any]) -> dict[str, float]:
        """Make the first call of this process, connections included and imports not."""
        work = Work(self, Workload(**workload))
        if hasattr(self.player, "import_all"):
            self.player.import_all()
        wall, cpu = _time(lambda: self._make_calls(work, self._make(), 1))
        return {"wall": wall, "cpu": cpu}

    def _make_calls(self, work: Work, player: Any, calls: int) -> None:
        call = work.operation(player)
        for arguments in islice(cycle(work.arguments), calls):
            call(*arguments)

    def _time_threads(self, work: Work, calls: int) -> tuple[float, float]:
        """Time threads that make so many calls each, from the moment all are there."""
        threads = work.workload.threads
        began: list[tuple[float, float]] = []
        barrier = threading.Barrier(
            threads, lambda: began.append((time.perf_counter(), time.process_time()))
        )

        def take_part() -> None:
            if not hasattr(self._local, "player"):  # as Django makes a cache for each thread
                self._local.player = self._make()
                self._make_calls(work, self._local.player, 1)
            barrier.wait()
            self._make_calls(work, self._local.player, calls)

        self._pool = self._pool or ThreadPoolExecutor(threads)
        for future in [self._pool.submit(take_part) for _ in range(threads)]:
            future.result()
        [(wall, cpu)] = began
        return time.perf_counter() - wall, time.process_time() - cpu

    async def _time_tasks(self, work: Work, calls: int) -> tuple[float, float]:
        operation, tasks = work.operation(self.player), work.workload.tasks
        arguments = cycle(work.arguments)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            if tasks == 1:
                await operation(*next(arguments))
            else:
                await _gather([operation(*each) for each in islice(arguments, tasks)])
        return time.perf_counter() - wall, time.process_time() - cpu

    def _sample(self, work: Work, calls: int) -> list[float]:
        """Time calls one by one, but for a first one, which finds everything cold."""
        operation = work.operation(self.player)
        arguments = islice(cycle(work.arguments), calls + 1)
        if work.workload.tasks:
            return self.runner.run(_sample_awaited(operation, arguments))
        return [_time(lambda: operation(*each))[0] for each in arguments][1:]  # noqa: B023


async def _sample_awaited(
    operation: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]
) -> list[float]:
    seconds = []
    for each in arguments:
        began = time.perf_counter()
        await operation(*each)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


async def _gather(calls: list[Any]) -> list[Any]:
    return await asyncio.gather(*calls)


def _time(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return wall, cpu


@contextmanager
def _computing(count: int) -> Iterator[None]:
    """Let threads compute, in Python only: they want the interpreter all the time."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            for _ in range(1000):
                pass

    threads = [threading.Thread(target=compute) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def find_versions() -> dict[str, str]:
    """Return the versions of what takes part here."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    worker: Worker | None = None
    for line in requests:
        request = json.loads(line)
        do = request.pop("do")
        answer: dict[str, Any]
        try:
            if do == "open":
                worker = Worker(**request)
                answer = {"ok": find_versions()}
            else:
                answer = {"ok": getattr(worker, do)(**request)}
        except (CannotDo, ImportError) as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 (it is told)
            answer = {"error": f"{do} failed: {error!r}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What a contestant prints is no answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        with suppress(BrokenPipeError):  # nobody is left to answer
            serve(sys.stdin, out)
        os._exit(0)  # threads and connections end with the process
