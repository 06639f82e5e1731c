"""The judged table: what django-rb is to reach, and whether this run reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.conductor import CLOCKS, Clock, Result, Timing
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.plan import BY_THREADS, JUDGED_KEYS
from benchmarks.workloads import Workload

Parts = Iterable[tuple[str, float]]
Told = dict[str, Any]


class NotMeasured(Exception):
    """Something that a bar needs did not take part; the text says what and why."""


@dataclass
class Run:
    """All that was measured.

    Attributes:
        results: of races, by their names in plan.judged().
        once: what once.py found out: "first_batch", "peak_memory", "import".
    """

    results: Mapping[str, Result]
    once: Mapping[str, Any] = field(default_factory=dict)

    def over(
        self,
        race: str,
        lane: tuple[str, Workload | None],
        other: tuple[str, Workload | None],
        clock: Clock,
    ) -> float:
        """Return how many times the other's cost a lane has, as a median over the rounds."""
        result = self._result(race)
        timings = [self._timing(result, *one) for one in (lane, other)]
        return timings[0].over(timings[1], clock).median

    def seconds(self, race: str, contestant: str, clock: Clock) -> float:
        return self._timing(self._result(race), contestant, None).spread(clock).median

    def one(self, what: str, contestant: str = DJANGO_RB) -> Told:
        """Return what was measured once of a contestant."""
        for told in self.once.get(what, ()):
            if told["contestant"] == contestant and "left_out" not in told:
                return dict(told)
        raise NotMeasured(f"{CONTESTANTS[contestant].title} did not take part")

    def _result(self, race: str) -> Result:
        if race not in self.results:
            raise NotMeasured("not run this time")
        return self.results[race]

    @staticmethod
    def _timing(result: Result, contestant: str, workload: Workload | None) -> Timing:
        for lane, timing in result.timings.items():
            if lane.contestant == contestant and workload in {None, lane.workload}:
                return timing
        reason = result.left_out.get(contestant, "not chosen")
        raise NotMeasured(f"{CONTESTANTS[contestant].title}: {reason}")


@dataclass(frozen=True)
class Bar:
    """One line of the table.

    Attributes:
        parts: yields what it is about and the figure, for each; the worst one is judged.
        least: whether the bar is the least that is asked for, and not the most.
    """

    what: str
    limit: float
    parts: Callable[[Run], Parts]
    shown_limit: str = ""
    least: bool = False
    unit: str = ""

    def judge(self, run: Run) -> Told:
        """Return the line, this run's figure in it."""
        told: Told = {
            "what": self.what,
            "limit": self.shown_limit or f"{self.limit:g}{self.unit}",
            "least": self.least,
        }
        try:
            parts = list(self.parts(run))
        except NotMeasured as error:
            return {**told, "figure": None, "met": None, "why": str(error), "parts": []}
        worst = (min if self.least else max)(parts, key=lambda part: part[1])
        met = worst[1] >= self.limit if self.least else worst[1] <= self.limit
        return {
            **told,
            "figure": f"{worst[1]:.3g}{self.unit}",
            "met": met,
            "why": worst[0] if len(parts) > 1 else "",
            "parts": [{"what": what, "figure": float(f"{value:.4g}")} for what, value in parts],
        }


def _pair(run: Run, race: str, clock: Clock, peer: str = HAND_WRITTEN) -> float:
    return run.over(race, (DJANGO_RB, None), (peer, None), clock)


def _batches(run: Run) -> Parts:
    for operation in ("get_many", "set_many"):
        for keys in JUDGED_KEYS:
            for clock in CLOCKS:
                yield (
                    f"{operation} of {keys:,}, {_named(clock)}",
                    _pair(run, f"{operation} {keys}", clock),
                )


def _single_calls(run: Run) -> Parts:
    for operation in ("get", "set"):
        yield operation, _pair(run, operation, "cpu")


def _peers(*peers: str) -> Callable[[Run], Parts]:
    def parts(run: Run) -> Parts:
        for peer in peers:
            for clock in CLOCKS:
                title = f"{CONTESTANTS[peer].title}, " if len(peers) > 1 else ""
                yield f"{title}{_named(clock)}", _pair(run, "get_many peers", clock, peer)

    return parts


def _network(run: Run) -> Parts:
    wall, cpu = (run.seconds("network", DJANGO_RB, clock) * 1000 for clock in ("wall", "cpu"))
    yield f"{wall:.1f} ms, of which CPU {cpu:.1f} ms", (wall - 1) / cpu


def _per_key(run: Run) -> Parts:
    for clock in CLOCKS:
        many, few = Workload(keys=100_000), Workload(keys=1000)
        ratio = run.over("per key", (DJANGO_RB, many), (DJANGO_RB, few), clock)
        yield _named(clock), ratio * few.keys / many.keys


def _threads(run: Run) -> Parts:
    one, many = Workload(keys=100), Workload(keys=100, threads=16)
    yield "", 1 / run.over("threads", (DJANGO_RB, many), (DJANGO_RB, one), "wall")


def _first_batch(run: Run) -> Parts:
    yield "", round(run.one("first_batch")["round_trips"])


def _memory(run: Run) -> Parts:
    told = run.one("peak_memory")
    yield "", told["grown"] / told["payload"]


def _import(run: Run) -> Parts:
    if "import" not in run.once:
        raise NotMeasured("not run this time")
    yield "", run.once["import"]["ms"]["median"]


def _aget_many(run: Run) -> Parts:
    awaited, blocking = Workload(tasks=1), Workload()
    yield "", run.over("aget_many", (DJANGO_RB, awaited), (DJANGO_RB, blocking), "cpu")


def _agets(run: Run) -> Parts:
    yield "", _pair(run, "agets", "wall", BY_THREADS)


def _named(clock: Clock) -> str:
    return {"cpu": "CPU", "wall": "wall"}[clock]


THIRD = 1 / 3
BARS = (
    Bar(
        "get_many and set_many, 100 to 10,000 keys, CPU and wall, "
        "against the hand-written loop",
        1.05,
        _batches,
    ),
    Bar("get and set, CPU, against the hand-written call", 1.15, _single_calls),
    Bar(
        "get_many of 1,000 against Django's RedisCache on one node",
        THIRD,
        _peers("redis-cache"),
        "1/3",
    ),
    Bar("… against django-redis ShardClient", 1 / 60, _peers("shard-client"), "1/60"),
    Bar("… against rb", 1 / 2, _peers("rb"), "1/2"),
    Bar("… against django-vcache on Redis Cluster", THIRD, _peers("vcache-cluster"), "1/3"),
    Bar("… against valkey-glide", THIRD, _peers("glide"), "1/3"),
    Bar("… against redis-py RedisCluster", THIRD, _peers("redis-cluster"), "1/3"),
    Bar(
        "get against Django's RedisCache, CPU",
        THIRD,
        lambda run: [("", _pair(run, "get peers", "cpu", "redis-cache"))],
        "1/3",
    ),
    Bar(
        "get against django-vcache's Rust driver on one node, CPU",
        1,
        lambda run: [("", _pair(run, "get peers", "cpu", "vcache"))],
    ),
    Bar(
        "1 ms round trip, 1,000 keys on 64 nodes: wall time beyond 1 ms, in CPU times of "
        "the call",
        2,
        _network,
    ),
    Bar("cost per key at 100,000 keys against 1,000", 1.2, _per_key),
    Bar(
        "16 threads, get_many of 100: total throughput against one thread",
        0.95,
        _threads,
        least=True,
    ),
    Bar(
        "first batch of a process on 64 nodes with 1 ms round trip: round trips",
        5,
        _first_batch,
    ),
    Bar("peak memory of get_many, 100,000 times 1 KiB, in payloads", 1.5, _memory),
    Bar("import of django_rb.cache after Django", 30, _import, unit=" ms"),
    Bar("aget_many of 1,000 against get_many, CPU", 1.3, _aget_many),
    Bar("1,000 concurrent agets against sync_to_async, wall", THIRD, _agets, "1/3"),
)


def judge(run: Run) -> list[Told]:
    """Return the table's lines."""
    return [bar.judge(run) for bar in BARS]
