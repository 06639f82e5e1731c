"""Runs races: starts servers and workers, and lets the workers take turns: A B C A B C …"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Literal, Self

import redis

from benchmarks.contestants import HAND_WRITTEN, KNOWN, Place
from benchmarks.proxy import ProxyProcess
from benchmarks.redis_cluster import LocalCluster
from benchmarks.workloads import Workload
from django_rb.testing import LocalNodes

ROOT = Path(__file__).resolve().parents[1]
Host = tuple[str, int]
Clock = Literal["cpu", "wall"]
CLOCKS: tuple[Clock, ...] = ("cpu", "wall")

TURN_SECONDS = 0.04  # what a turn is to take: as many calls as fit, at least one
LONG_TURN_SECONDS = 0.2  # who needs longer sits rounds out
PATIENCE = 20.0  # seconds that a call may take
# How many times as long it may take to store all keys, and to check a call.
TO_SEED, TO_CHECK = 5, 3
DOINGS = {
    "open": "get ready",
    "rehearse": "make calls with a few of its keys",
    "seed": "store its keys",
    "check": "make calls that were checked",
    "run": "make a call",
    "sample": "make its calls beside computing threads",
    "cold": "make its first call",
    "memory": "make its one call",
}


class WorkerFailed(Exception):
    """A worker could not do as it was asked; the text says why."""


class TooSlow(WorkerFailed):
    """A worker gave no answer in time; its process was killed."""


@dataclass(frozen=True)
class Lane:
    """Who runs what in a race."""

    contestant: str
    workload: Workload


@dataclass
class Race:
    """Lanes that take turns.

    Attributes:
        rounds: turns of each.
        on_one_core: whether workers and servers share a core. For calls with one key: such
            a call is a question and a short wait. Whether the server is woken on the core
            that asks or on one that sleeps makes a factor of five, and the scheduler is
            slow to change its mind: it would be measured instead of the call.
    """

    lanes: list[Lane]
    rounds: int = 30

    @property
    def memory(self) -> int:
        """Bytes that the race takes, roughly: of each value four copies are about."""
        return sum(4 * lane.workload.stored * lane.workload.size for lane in self.lanes)

    @property
    def on_one_core(self) -> bool:
        return all(
            lane.workload.is_single and lane.workload.tasks <= 1 and lane.workload.threads == 1
            for lane in self.lanes
        )


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Return what samples say."""
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0])
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(median(samples), low, high)

    def as_json(self) -> dict[str, float]:
        return {name: _short(value) for name, value in vars(self).items()}


@dataclass
class Timing:
    """What a lane needed: seconds per call for each of its turns, by the round's number."""

    lane: Lane
    calls: int
    turns: dict[int, dict[Clock, float]] = field(default_factory=dict)

    def spread(self, clock: Clock) -> Spread:
        return Spread.of([turn[clock] for turn in self.turns.values()])

    def over(self, other: Timing, clock: Clock) -> Spread:
        """Return how many times the other's cost: of the rounds in which both had a turn."""
        return Spread.of(
            [
                turn[clock] / other.turns[number][clock]
                for number, turn in self.turns.items()
                if number in other.turns
            ]
        )


@dataclass
class Result:
    """How a race ended."""

    race: Race
    timings: dict[Lane, Timing]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        floors = {
            timing.lane.workload: timing
            for timing in self.timings.values()
            if timing.lane.contestant == HAND_WRITTEN
        }
        lanes = []
        for lane, timing in self.timings.items():
            told = {
                "contestant": lane.contestant,
                "workload": lane.workload.as_json(),
                "calls": timing.calls,
                "rounds": len(timing.turns),
                "seconds": {clock: timing.spread(clock).as_json() for clock in CLOCKS},
            }
            if floor := floors.get(lane.workload):
                told["ratio"] = {clock: timing.over(floor, clock).as_json() for clock in CLOCKS}
            lanes.append(told)
        return {
            "lanes": lanes,
            "on_one_core": self.race.on_one_core,
            "left_out": self.left_out,
        }


class Worker:
    """The conductor's end of the line to a contestant's process."""

    def __init__(self, python: Path, checkout: Path = ROOT) -> None:
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
        self.lane: Lane
        self.about: dict[str, str] = {}

    def open(
        self, lane: Lane, hosts: Sequence[Host], prefix: str, within: float | None = None
    ) -> None:
        """Let a contestant get ready for a workload. A process has one prefix.

        Raises:
            WorkerFailed: it cannot take part; the text says why.
        """
        self.lane = lane
        self.about = self.ask(
            "open",
            within=within,
            contestant=lane.contestant,
            hosts=hosts,
            prefix=prefix,
            workload=lane.workload.as_json(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *, within: float | None = None, **details: Any) -> Any:
        """Return the answer to a request.

        Args:
            within: seconds after which it is killed.

        Raises:
            WorkerFailed: it cannot, or it failed.
            TooSlow: it took longer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            if within is not None and not _readable(self._process.stdout, within):
                self._process.kill()
                raise TooSlow(f"it took more than {within:g} s to {DOINGS.get(do, do)}")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(f"its process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "cannot" in answer:
            raise WorkerFailed(answer["cannot"])
        if "error" in answer:
            print(answer["error"], file=sys.stderr)
            raise WorkerFailed(f"it failed to {do}: {answer['error'].splitlines()[0]}")
        return answer["ok"]

    def close(self) -> None:
        """End the process, in the middle of a call if need be."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that it never read
                pipe.close()
        self._process.wait()


class Arena:
    """The servers: started when they are first asked for, and kept for the next race.

    Another number of nodes ends those that are there: idle servers are no load, but a
    cluster's talk to each other.
    """

    def __init__(self) -> None:
        self._nodes: LocalNodes | None = None
        self._cluster: LocalCluster | None = None
        self._tls: dict[int, dict[str, Any]] = {}
        self._stack = ExitStack()
        self._count = 0
        self.server = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the servers."""
        self._nodes, self._cluster, self._tls = None, None, {}
        self._stack.close()

    def hosts(self, place: Place, count: int) -> list[Host]:
        """Return the addresses of a contestant's nodes."""
        if count != self._count:
            self.close()
            self._count = count
        if place == "cluster":
            return self._start_cluster().hosts
        nodes = self._start_nodes()
        found = nodes.hosts if place != "tls" else self._start_tls(nodes)
        hosts = [(host["host"], host["port"]) for host in found.values()]
        return hosts[:1] if place == "one" else hosts

    @contextmanager
    def behind_a_proxy(
        self, place: Place, count: int, rtt: float
    ) -> Iterator[tuple[list[Host], ProxyProcess]]:
        """Lend addresses at which nodes are `rtt` milliseconds away."""
        hosts = self.hosts(place, count)
        with ExitStack() as stack:
            proxy = stack.enter_context(ProxyProcess(hosts, rtt))
            if place == "cluster":
                cluster = self._start_cluster()
                cluster.announce(proxy.hosts)
                stack.callback(cluster.announce, hosts)
            yield proxy.hosts, proxy

    def pids(self) -> list[int]:
        """Return the process ids of all servers that run."""
        pids = []
        if self._nodes is not None:
            pids += [self._nodes.pid(host_id) for host_id in self._nodes.hosts]
        if self._cluster is not None:
            pids += self._cluster.pids
        return pids

    def flush(self) -> None:
        """Empty all servers."""
        if self._nodes is not None:
            self._nodes.flush()
        if self._cluster is not None:
            for host, port in self._cluster.hosts:
                with redis.Redis(host=host, port=port) as client:
                    client.flushall()

    def _start_nodes(self) -> LocalNodes:
        if self._nodes is None:
            # Contestants get a host and a port, and no password.
            nodes = LocalNodes(self._count, options={"requirepass": ""})
            self._nodes = self._stack.enter_context(nodes)
            self.server = self._nodes.server
        return self._nodes

    def _start_tls(self, nodes: LocalNodes) -> dict[int, dict[str, Any]]:
        """Let the nodes be reached by TLS as well; only django-rb's own tests need that."""
        if not self._tls:
            import trustme  # noqa: PLC0415

            from tests.security.tls import serve_tls  # noqa: PLC0415

            authority = trustme.CA()
            folder = Path(self._stack.enter_context(TemporaryDirectory()))
            certificate = authority.issue_cert("127.0.0.1")
            self._tls = self._stack.enter_context(
                serve_tls(nodes, certificate, authority, folder)
            )
        return self._tls

    def _start_cluster(self) -> LocalCluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(LocalCluster(self._count))
        return self._cluster


class Conductor:
    """Runs races.

    Args:
        pythons: the Python of each environment there is.
        missing: why an environment is not there.
        say: is told what happens next.
        patience: seconds that a call may take; who needs longer is left out.
        checkouts: where django-rb is for an environment that has another than this one.
    """

    def __init__(
        self,
        arena: Arena,
        pythons: Mapping[str, Path],
        missing: Mapping[str, str],
        say: Callable[[str], None],
        patience: float = PATIENCE,
        checkouts: Mapping[str, Path] | None = None,
    ) -> None:
        self.arena = arena
        self.pythons = pythons
        self.missing = missing
        self.say = say
        self.patience = patience
        self.checkouts = checkouts or {}
        self.interrupted = False  # by Ctrl-C, between two rounds of a race
        self.versions: dict[str, dict[str, str]] = {}

    def open(self, lane: Lane, hosts: Sequence[Host], number: int = 0) -> Worker:
        """Start a worker.

        Raises:
            WorkerFailed: it cannot take part; the text says why.
        """
        environment = KNOWN[lane.contestant].environment
        if environment not in self.pythons:
            raise WorkerFailed(self.missing[environment])
        worker = Worker(self.pythons[environment], self.checkouts.get(environment, ROOT))
        try:
            worker.open(lane, hosts, f"{number:02}", within=TO_SEED * self.patience)
        except BaseException:
            worker.close()
            raise
        self.versions[environment] = worker.about
        return worker

    def prepare(self, worker: Worker) -> None:
        """Let a worker store what its workload reads, and check that a call does its work.

        Raises:
            WorkerFailed: it cannot take part; the text says why.
        """
        limit = self.patience
        worker.ask("rehearse", within=TO_SEED * limit, patience=limit)
        worker.ask("seed", within=TO_SEED * limit)
        worker.ask("check", within=TO_CHECK * limit)

    def run(self, race: Race) -> Result:
        """Run a race to its end. Who fails is left out, and costs the others nothing."""
        free = free_memory()
        if race.memory > free:
            reason = (
                f"the race takes some {race.memory / 2**30:.1f} GiB of memory, "
                f"{free / 2**30:.1f} are free"
            )
        else:
            try:
                return self._run(race)
            except Exception as error:  # noqa: BLE001 (it is told)
                traceback.print_exc()
                reason = f"the race broke off: {error!r}"
                self.arena.close()  # whatever state the servers are in
        return Result(race, {}, {lane.contestant: reason for lane in race.lanes})

    def _run(self, race: Race) -> Result:
        left_out: dict[str, str] = {}
        with ExitStack() as stack:
            workers = stack.enter_context(self.workers(race, left_out))
            if race.on_one_core:
                pids = [*(worker.pid for worker in workers), *self.arena.pids()]
                stack.enter_context(on_one_core(pids))
            timings = self._take_turns(workers, race.rounds, left_out)
        return Result(race, {timing.lane: timing for timing in timings}, left_out)

    @contextmanager
    def workers(self, race: Race, left_out: dict[str, str]) -> Iterator[list[Worker]]:
        """Lend a race's workers, each ready for its calls; `left_out` is told who is not."""
        with ExitStack() as stack:
            workers = []
            hosts = self._addresses(stack, race, left_out)
            self.arena.flush()
            for number, lane in enumerate(race.lanes):
                if lane not in hosts:
                    continue
                try:
                    worker = stack.enter_context(self.open(lane, hosts[lane], number))
                    self.prepare(worker)
                except WorkerFailed as error:
                    left_out[lane.contestant] = str(error)
                    continue
                workers.append(worker)
            yield workers

    def _addresses(
        self, stack: ExitStack, race: Race, left_out: dict[str, str]
    ) -> dict[Lane, list[Host]]:
        """Return the addresses for each lane, behind a proxy where it wants one.

        Those whose servers do not come up are left out.
        """
        found: dict[tuple[Place, int, float], list[Host]] = {}
        failed: dict[tuple[Place, int, float], str] = {}
        addresses = {}
        for lane in race.lanes:
            where = (
                KNOWN[lane.contestant].place, lane.workload.nodes, lane.workload.rtt
            )  # fmt: skip
            if where not in found and where not in failed:
                try:
                    found[where] = (
                        stack.enter_context(self.arena.behind_a_proxy(*where))[0]
                        if lane.workload.rtt
                        else self.arena.hosts(*where[:2])
                    )
                except Exception as error:  # noqa: BLE001 (it is told)
                    failed[where] = f"its servers did not come up: {error}"
            if where in found:
                addresses[lane] = found[where]
            else:
                left_out[lane.contestant] = failed[where]
        return addresses

    def _take_turns(
        self, workers: Sequence[Worker], rounds: int, left_out: dict[str, str]
    ) -> list[Timing]:
        running: dict[Worker, tuple[Timing, int]] = {}
        for worker in workers:
            try:
                seconds = self._seconds_per_call(worker) * worker.lane.workload.threads
            except WorkerFailed as error:
                left_out[worker.lane.contestant] = str(error)
                continue
            # To start threads takes a while, which is not what is measured: they have longer.
            turn = TURN_SECONDS * worker.lane.workload.threads
            calls = max(1, int(turn / seconds))
            every = math.ceil(seconds / LONG_TURN_SECONDS)
            running[worker] = Timing(worker.lane, calls), every
        try:
            for number in range(rounds):
                self._play_round(number, running, left_out)
        except KeyboardInterrupt:  # the rounds so far count
            self.interrupted = True
        return [timing for timing, _ in running.values() if timing.turns]

    def _play_round(
        self,
        number: int,
        running: dict[Worker, tuple[Timing, int]],
        left_out: dict[str, str],
    ) -> None:
        for worker, (timing, every) in list(running.items()):
            if number % every:
                continue
            try:
                turn = self._turn(worker, timing.calls)
            except WorkerFailed as error:
                left_out[worker.lane.contestant] = str(error)
                del running[worker]
                continue
            timing.turns[number] = {clock: turn[clock] for clock in CLOCKS}

    def _turn(self, worker: Worker, calls: int) -> dict[str, float]:
        limit = self.patience * worker.lane.workload.threads
        if calls > 1:  # of which each took a fraction of a turn
            limit += self.patience
        if worker.lane.workload.operation == "delete_many":
            limit *= 1 + TO_SEED
        turn: dict[str, float] = worker.ask("run", within=limit, calls=calls)
        return turn

    def _seconds_per_call(self, worker: Worker) -> float:
        """Return what a call takes when nothing disturbs it; warms up on the way.

        What is done for a call outside of the time that is measured is added.
        """
        calls, best = 1, math.inf
        while True:
            turn = self._turn(worker, calls)
            seconds = turn["wall"] + turn["aside"]
            best = min(best, seconds)
            if seconds * calls * worker.lane.workload.threads >= TURN_SECONDS / 2:
                return best
            calls *= 2


def _readable(stream: IO[str], seconds: float) -> bool:
    """Wait until there is something to read, at most so long; return whether there is."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def free_memory() -> float:
    """Return how many bytes are free, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    [kibibytes] = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes) * 1024


@contextmanager
def on_one_core(pids: Sequence[int]) -> Iterator[None]:
    """Keep processes, all their threads, on one core, where the system lets us."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    for thread in _threads(pids):
        os.sched_setaffinity(thread, {min(before)})
    try:
        yield
    finally:
        for thread in _threads(pids):
            os.sched_setaffinity(thread, before)


def _threads(pids: Sequence[int]) -> list[int]:
    return [
        int(thread.name) for pid in pids for thread in Path(f"/proc/{pid}/task").glob("[0-9]*")
    ]


def _short(value: float) -> float:
    """Return a number as exact as it can be trusted to be."""
    return float(f"{value:.4g}")
