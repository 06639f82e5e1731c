"""Runs races: starts workers, and lets them take turns: A B C, C B A, A B C …"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Literal

from benchmarks.contestants import CONTESTANTS
from benchmarks.environments import ROOT
from benchmarks.servers import Host, Servers, on_one_core
from benchmarks.workloads import Workload
from django_rb.testing.discovery import NodesError

Measure = Literal["cpu", "wall", "mean", "median", "p99"]
Side = tuple[str, Workload]  # a contestant and what it does

TURN_SECONDS = 0.02  # what a turn is to take: as many calls as fit, at least one
MOVING_SECONDS = 0.5  # while slots move: some calls see more of that than others
SAMPLED = 10  # calls of a turn that are timed one by one
PATIENCE = 60.0  # seconds; who needs longer to answer is left out


class WorkerFailed(Exception):
    """A worker could not do as it was asked; the text says why."""


@dataclass(frozen=True)
class Race:
    """Who takes turns at what. All workloads have the same nodes and round-trip time.

    Attributes:
        rounds: turns of each, after each start.
        starts: how often processes are made anew: two of the same code differ a little.
    """

    contestants: Sequence[str]
    workloads: Sequence[Workload]
    rounds: int
    starts: int = 1


@dataclass
class Timing:
    """What one side needed.

    Attributes:
        turns: seconds of wall and CPU time per call, by the number of the round.
        samples: seconds of each call, where they are timed one by one.
    """

    turns: dict[int, dict[str, float]] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)

    def figure(self, measure: Measure) -> float:
        """Return seconds per call."""
        if measure in {"cpu", "wall"}:
            return median(turn[measure] for turn in self.turns.values())
        if measure == "p99":
            return sorted(self.samples)[math.ceil(0.99 * len(self.samples)) - 1]
        return fmean(self.samples) if measure == "mean" else median(self.samples)

    def over(self, other: Timing, measure: Measure) -> tuple[float, float, float]:
        """Return the ratio to the other's figure, and the quartiles around it.

        For wall and CPU time it is the median of the ratios of each round; where calls are
        timed one by one it is the ratio of the figures, and there are no quartiles.
        """
        if measure not in {"cpu", "wall"}:
            ratio = self.figure(measure) / other.figure(measure)
            return ratio, ratio, ratio
        both = self.turns.keys() & other.turns.keys()
        ratios = [self.turns[n][measure] / other.turns[n][measure] for n in both]
        several = len(ratios) > 1
        low, _, high = quantiles(ratios, n=4, method="inclusive") if several else ratios * 3
        return median(ratios), low, high


@dataclass
class Result:
    """How a race ended: `left_out` says why a contestant is not among the timings."""

    timings: dict[Side, Timing] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Worker:
    """The conductor's end of the line to a contestant's process."""

    def __init__(self, python: Path, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the conductor
        )
        self.contestant = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *, within: float = PATIENCE, **details: Any) -> Any:
        """Return the answer to a request; the process is killed after `within` seconds.

        Raises:
            WorkerFailed: it cannot, it failed, or it took longer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            poll = select.poll()
            poll.register(self._process.stdout, select.POLLIN)
            if not poll.poll(within * 1000):
                self._process.kill()
                raise WorkerFailed(f"it took more than {within:g} s for {do!r}")
            line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"its process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            if "trace" in answer:
                print(answer["trace"], file=sys.stderr)
            raise WorkerFailed(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """End the process, in the middle of a call if need be."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that it never read
                pipe.close()
        self._process.wait()


class Conductor:
    """Runs races.

    Args:
        pythons: the Python of each environment there is.
        missing: why an environment is not there.
        checkouts: where django-rb is for an environment that has another than this one.
        say: is told who is left out.
    """

    def __init__(
        self,
        servers: Servers,
        pythons: Mapping[str, Path],
        missing: Mapping[str, str],
        checkouts: Mapping[str, Path],
        say: Callable[[str], None],
    ) -> None:
        self.servers = servers
        self.pythons = pythons
        self.missing = missing
        self.checkouts = checkouts
        self.say = say
        self.versions: dict[str, dict[str, str]] = {}

    def run(self, race: Race) -> Result:
        """Run a race to its end. Who fails is left out, and costs the others nothing."""
        result = Result()
        for start in range(race.starts):
            self._start(race, range(start * race.rounds, (start + 1) * race.rounds), result)
        return result

    def _start(self, race: Race, rounds: range, result: Result) -> None:
        self.servers.flush()
        with ExitStack() as stack:
            workers = []
            for name in race.contestants:
                if name not in result.left_out:
                    with self._leaving_out(name, result):
                        opened = self._open(name, race.workloads[0])
                        workers.append(stack.enter_context(opened))
            for one_core in (True, False):
                workloads = [w for w in race.workloads if w.on_one_core is one_core]
                with ExitStack() as inner:
                    if one_core and workloads:
                        pids = [*(worker.pid for worker in workers), *self.servers.pids()]
                        inner.enter_context(on_one_core(pids))
                    self._take_turns(workers, workloads, rounds, result)

    def _take_turns(
        self,
        workers: list[Worker],
        workloads: Sequence[Workload],
        rounds: range,
        result: Result,
    ) -> None:
        calls: dict[tuple[Worker, Workload], int] = {}
        for worker in workers:
            with self._leaving_out(worker.contestant, result):
                for workload in workloads:
                    worker.ask("prepare", workload=workload.as_json())
                    calls[worker, workload] = self._calls_of_a_turn(worker, workload)
        for number in rounds:
            for workload in workloads:
                for worker in workers[:: (-1) ** number]:
                    if worker.contestant in result.left_out:
                        continue
                    with self._leaving_out(worker.contestant, result):
                        turn = self._turn(worker, workload, calls[worker, workload])
                        side = worker.contestant, workload
                        timing = result.timings.setdefault(side, Timing())
                        timing.samples += turn.pop("samples", ())
                        timing.turns[number] = turn

    @contextmanager
    def _leaving_out(self, contestant: str, result: Result) -> Iterator[None]:
        try:
            yield
        except (WorkerFailed, NodesError, OSError, RuntimeError) as error:
            result.left_out[contestant] = str(error)
            for side in [side for side in result.timings if side[0] == contestant]:
                del result.timings[side]
            self.say(f"  without {CONTESTANTS[contestant].title}: {error}")

    @contextmanager
    def _open(self, name: str, workload: Workload) -> Iterator[Worker]:
        """Start a worker whose contestant has its nodes."""
        contestant = CONTESTANTS[name]
        environment = contestant.environment
        if environment not in self.pythons:
            raise WorkerFailed(self.missing[environment])
        hosts: list[Host] = self.servers.hosts(contestant.place, workload.nodes, workload.rtt)
        worker = Worker(self.pythons[environment], self.checkouts.get(environment, ROOT))
        try:
            worker.contestant = name
            prefix = f"{list(CONTESTANTS).index(name):02}"
            self.versions[environment] = worker.ask(
                "open", contestant=name, hosts=hosts, prefix=prefix
            )
            yield worker
        finally:
            worker.close()

    def _calls_of_a_turn(self, worker: Worker, workload: Workload) -> int:
        """Return how many calls make a turn; warms up on the way."""
        if workload.cold:
            return 1
        if workload.computing is not None:
            return SAMPLED
        calls, seconds = 1, MOVING_SECONDS if workload.moving else TURN_SECONDS
        while True:
            # The best of three: something else may have had the core meanwhile.
            wall = min(self._turn(worker, workload, calls)["wall"] for _ in range(3))
            # Threads have longer: to start them is not what is measured.
            if wall * calls >= seconds / 2:
                return max(1, int(seconds / wall))
            calls *= 4

    def _turn(self, worker: Worker, workload: Workload, calls: int) -> Any:
        if not workload.cold:
            with self.servers.moving(workload.moving):
                return worker.ask("turn", workload=workload.as_json(), calls=calls)
        with self._open(worker.contestant, workload) as fresh:
            return fresh.ask("cold", workload=workload.as_json())
