"""A contestant's own process: it does as the conductor says over its standard input.

Each request is a line of JSON with what to `do`; each answer one with what came of it, or
with an `error`. It runs in an environment that need not have django-rb, or even Django.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import math
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contestants import HAND_WRITTEN, KNOWN
from benchmarks.workloads import LIMITED, NAMES_IN_TURN, Workload

REHEARSED = 1000  # keys; calls of many times as many are tried with these first

PACKAGES = (
    "django",
    "redis",
    "hiredis",
    "django-redis",
    "rb",
    "django-vcache",
    "valkey-glide-sync",
)

Run = Callable[[int], None]


class CannotDo(Exception):
    """The contestant has no such operation."""


class Worker:
    """One contestant with one workload."""

    def __init__(
        self, contestant: str, hosts: list[list[Any]], prefix: str, workload: dict[str, Any]
    ) -> None:
        self.workload = Workload(**workload)
        self.contestant = KNOWN[contestant]
        self.hosts = [(str(host), int(port)) for host, port in hosts]
        self.prefix = prefix
        self.data = self.workload.data()
        names = list(self.data)
        self.names = names if self.workload.hits else self.workload.misses()
        self.player = self._make_player()
        self.local = threading.local()
        self.local.player = self.player
        self.runner = asyncio.Runner()
        self.pool = ThreadPoolExecutor(self.workload.threads)
        # The hand-written loop knows no event loops: it makes the tasks' calls in turn.
        self.in_turn = contestant == HAND_WRITTEN
        self.call = self._operation(self.player)

    def _make_player(self) -> Any:
        return self.contestant.make_player(self.hosts, self.prefix)

    def _operation(self, player: Any) -> Callable[..., Any]:
        name = self.workload.operation
        if name == "delete_many" and (self.workload.tasks or self.workload.threads > 1):
            raise CannotDo("what delete_many deletes is stored again between two calls")
        if self.contestant.on_loops and not self.workload.tasks:
            raise CannotDo("it is for event loops: see --tasks")
        if self.workload.tasks and not self.in_turn:
            name = f"a{name}"
        operation = getattr(player, name, None)
        if operation is None:
            raise CannotDo(f"it has no {name}")
        return operation  # type: ignore[no-any-return]

    # What the conductor asks for.

    def about(self) -> dict[str, Any]:
        """Return the versions of what takes part."""
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return versions

    def rehearse(self, patience: float) -> None:
        """Try a call of very many keys with a few of them.

        Raises:
            CannotDo: by that, all of them would take longer than `patience` in seconds.
        """
        workload = self.workload
        if workload.keys < 10 * REHEARSED or workload.tasks:
            return
        few = dict(islice(self.data.items(), REHEARSED))
        self._store(few)
        argument = few if workload.operation == "set_many" else self.names[:REHEARSED]
        for _ in range(2):  # the first opens connections
            wall, _ = _timed(lambda: self.call(argument))
        seconds = wall * workload.keys / REHEARSED
        if seconds > patience:
            raise CannotDo(f"a call would take some {seconds:.0f} s")

    def seed(self) -> None:
        """Store what the workload reads."""
        if self.workload.operation not in {"set", "set_many"}:
            self._store(self.data)

    def _store(self, data: dict[str, Any]) -> None:
        # Without set_many: the routing client has MGET, and MSET knows no expiry.
        if self.workload.is_single or not hasattr(self.player, "set_many"):
            for name, value in data.items():
                self.player.set(name, value)
        else:
            self.player.set_many(data)

    def check(self) -> None:
        """Make calls and see that they do what they are timed for."""
        operation, data, names = self.workload.operation, self.data, self.names
        tasks = self.workload.tasks
        if operation in {"get", "incr"}:
            names = names if tasks else names[:1]
            got = dict(zip(names, self._results(names), strict=True))
            self._expect(
                got, {name: 1 if operation == "incr" else data.get(name) for name in names}
            )
        elif operation in LIMITED:
            self._expect(
                dict(zip(names, self._results(names[:1]), strict=False)), {names[0]: True}
            )
        elif operation == "get_many":
            [found] = self._results([names])
            self._expect(found, data if self.workload.hits else {})
        elif operation == "set":
            names = names if tasks else names[:NAMES_IN_TURN]
            self.run(math.ceil(len(names) / max(1, tasks)))
            self._expect(
                {name: self.player.get(name) for name in names},
                {name: data[name] for name in names},
            )
        else:
            self.run(1)
            stored = (
                self.player.get_many(names)
                if hasattr(self.player, "get_many")
                else {name: self.player.get(name) for name in names}
            )
            self._expect(stored, {} if operation == "delete_many" else data)

    def _results(self, arguments: Iterable[Any]) -> list[Any]:
        """Return what calls return, which have one argument each."""
        calls = (self.call(argument) for argument in arguments)
        return self.runner.run(self._all(calls)) if self.workload.tasks else list(calls)

    def _expect(self, got: Any, wanted: dict[str, Any]) -> None:
        if got == wanted:
            return
        wrong: tuple[Any, Any] = (got, wanted)
        if isinstance(got, dict):
            name = next(name for name in [*wanted, *got] if got.get(name) != wanted.get(name))
            wrong = (got.get(name), wanted.get(name))
        told, right = (repr(value)[:60] for value in wrong)
        raise AssertionError(f"{self.contestant.title} got {told} instead of {right}")

    def run(self, calls: int) -> dict[str, float]:
        """Make calls; return the seconds of wall and CPU time that each took.

        CPU time is the whole process's, threads that a contestant keeps included. What had
        to be done `aside` of a call took further seconds, which do not count.
        """
        aside = 0.0
        gc.collect()
        gc.disable()
        try:
            if self.workload.tasks:
                wall, cpu = self.runner.run(self._timed_tasks(calls))
            elif self.workload.threads > 1:
                wall, cpu = self._timed_threads(calls)
                calls *= self.workload.threads
            elif self.workload.operation == "delete_many":
                wall, cpu, aside = self._timed_with_a_break(calls)
            else:
                wall, cpu = _timed(lambda: self._make_calls(self.player, calls))
        finally:
            gc.enable()
        return {"wall": wall / calls, "cpu": cpu / calls, "aside": aside / calls}

    def sample(self, calls: int, computing: int) -> list[float]:
        """Make calls beside threads that compute; return the seconds that each took.

        One more call goes before: it finds everything cold and does not count.
        """
        if self.workload.is_single:
            arguments = (
                self._task_arguments() if self.workload.tasks else self._single_arguments()
            )
        else:
            arguments = cycle([self._arguments()])
        gc.collect()
        gc.disable()
        try:
            with _computing(computing):
                if self.workload.tasks:
                    return self.runner.run(self._sample_awaited(arguments, calls))
                return [
                    _timed(lambda: self.call(*each))[0]  # noqa: B023 (called at once)
                    for each in islice(arguments, calls + 1)
                ][1:]
        finally:
            gc.enable()

    async def _sample_awaited(
        self, arguments: Iterator[tuple[Any, ...]], calls: int
    ) -> list[float]:
        seconds = []
        for each in islice(arguments, calls + 1):
            began = time.perf_counter()
            await self.call(*each)
            seconds.append(time.perf_counter() - began)
        return seconds[1:]

    def cold(self) -> dict[str, float]:
        """Make the first call of this process, connections included; return its seconds."""

        def begin() -> None:
            self._make_calls(self._make_player(), 1)

        wall, cpu = _timed(begin)
        return {"wall": wall, "cpu": cpu}

    def memory(self) -> dict[str, int]:
        """Make one call; return the bytes by which the process grew at its peak."""
        self.call(self.names[:NAMES_IN_TURN])
        before = _memory("VmRSS")
        result = self.call(*self._arguments())
        grown = _memory("VmHWM") - before
        del result
        return {"grown": grown, "payload": self.workload.keys * self.workload.size}

    # How calls are made.

    def _arguments(self) -> tuple[Any, ...]:
        return (self.data,) if self.workload.operation == "set_many" else (self.names,)

    def _single_arguments(self) -> Iterator[tuple[Any, ...]]:
        names = self.names[:NAMES_IN_TURN]
        if self.workload.operation == "set":
            return cycle([(name, self.data[name]) for name in names])
        return cycle([(name,) for name in names])

    def _make_calls(self, player: Any, calls: int) -> None:
        call = self._operation(player)
        if self.workload.is_single:
            for arguments in islice(self._single_arguments(), calls):
                call(*arguments)
        else:
            arguments = self._arguments()
            for _ in range(calls):
                call(*arguments)

    def _timed_with_a_break(self, calls: int) -> tuple[float, float, float]:
        """Time calls one by one, between which what they delete is stored again."""
        walls = cpus = aside = 0.0
        for _ in range(calls):
            aside += _timed(self.seed)[0]
            wall, cpu = _timed(lambda: self._make_calls(self.player, 1))
            walls += wall
            cpus += cpu
        return walls, cpus, aside

    def _timed_threads(self, calls: int) -> tuple[float, float]:
        """Time threads that make so many calls each, from the moment all are there."""
        began: list[tuple[float, float]] = []
        barrier = threading.Barrier(
            self.workload.threads,
            lambda: began.append((time.perf_counter(), time.process_time())),
        )

        def take_part() -> None:
            if not hasattr(self.local, "player"):  # as Django makes a cache for each thread
                self.local.player = self._make_player()
                self._make_calls(self.local.player, 1)
            barrier.wait()
            self._make_calls(self.local.player, calls)

        for future in [self.pool.submit(take_part) for _ in range(self.workload.threads)]:
            future.result()
        [(wall, cpu)] = began
        return time.perf_counter() - wall, time.process_time() - cpu

    async def _timed_tasks(self, calls: int) -> tuple[float, float]:
        tasks = self.workload.tasks
        arguments = self._task_arguments()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            await self._all(self.call(*each) for each in islice(arguments, tasks))
        return time.perf_counter() - wall, time.process_time() - cpu

    async def _all(self, calls: Iterable[Any]) -> list[Any]:
        """Return what calls return: all at once, if there are several tasks."""
        if self.in_turn:
            return list(calls)
        if self.workload.tasks == 1:
            return [await call for call in calls]
        return await asyncio.gather(*calls)

    def _task_arguments(self) -> Iterator[tuple[Any, ...]]:
        if not self.workload.is_single:
            return cycle([self._arguments()])
        if self.workload.operation == "set":
            return cycle(self.data.items())
        return cycle([(name,) for name in self.names])


def _timed(work: Callable[[], None]) -> tuple[float, float]:
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


def _memory(field: str) -> int:
    """Return what Linux says of this process's memory, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


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
                answer = {"ok": worker.about()}
            else:
                answer = {"ok": getattr(worker, do)(**request)}
        except (CannotDo, ImportError) as error:
            answer = {"cannot": str(error)}
        except Exception as error:  # noqa: BLE001 (it is told)
            answer = {"error": f"{error!r}\n{traceback.format_exc()}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What a contestant prints is no answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        with suppress(BrokenPipeError):  # nobody is left to answer
            serve(sys.stdin, out)
        os._exit(0)  # threads and connections end with the process
