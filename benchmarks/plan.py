"""Which races there are, and which lines the judged table gets from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.contestants import (
    CLUSTER,
    CONTESTANTS,
    DEADLINE,
    DJANGO_RB,
    DJANGO_RB_LIMITS,
    DJANGO_RB_MAP,
    DJANGO_RB_ONE,
    HAND_WRITTEN,
    HAND_WRITTEN_CLUSTER,
    NEAR,
    OURS,
    RB,
    RESP3,
    SENTINEL,
    TLS,
    before,
)
from benchmarks.contestants.maps import COMMANDS
from benchmarks.turns import Measure, Race, Side
from benchmarks.workloads import MAP, Workload

SWITCH_INTERVAL = 0.005  # seconds; sys.getswitchinterval()
COMPUTING = (0, 1, 3)
ONE_NODE = ("redis-cache", "vcache")
CLUSTER_PEERS = ("redis-cluster", "glide", "vcache-cluster")
ALL_PEERS = (
    *("redis-cache", "shard-client", "vcache", "vcache-cluster"),
    *(RB, "glide", "redis-cluster"),
)
STARTS = 3  # of processes, where django-rb is compared with itself
BATCHES = (100, 1000, 10_000)

BESIDE = "beside threads that compute"
QUIET = "nothing else to do"
LIMITS = "rate limits"
NEAR_COPIES = "near copies"
ON_CLUSTER = "on a Redis Cluster"
ON_SENTINEL = "on shards that Sentinels watch"
TURNS: tuple[Measure, ...] = ("cpu", "wall")
SAMPLES: tuple[Measure, ...] = ("mean", "median", "p99")
Bars = tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table: our side, its peers, of which the quickest counts, and bars.

    Attributes:
        race: in which all of them take part.
        bars: how many times the peer's figure ours may be, for each measure; None: it is
            only told.
        allowance: seconds that are added to the peer's figure.
        headline: whether it is in README.md.
    """

    table: str
    what: str
    race: str
    ours: Side
    peers: Sequence[Side]
    measures: tuple[Measure, ...] = TURNS
    bars: Bars = (None, None)
    allowance: float = 0
    headline: bool = False


def _beside(operations: Sequence[Workload], rtt: float = 0) -> list[Workload]:
    return [
        replace(workload, computing=count, rtt=rtt)
        for workload in operations
        for count in COMPUTING
    ]


_CALLS = [Workload("get"), Workload("get_many", 100), Workload("set_many", 100)]
_BATCHES = [Workload(name, keys) for name in ("get_many", "set_many") for keys in BATCHES]
_SINGLE = [Workload("get"), Workload("set")]
_THREADS = [Workload("get_many", 100), Workload("get_many", 100, threads=16)]
_AGETS = Workload("get", tasks=1000)
_MAPS = [Workload(MAP + name, 1000) for name in COMMANDS]
_FIRST = Workload("get_many", 1000, nodes=64, cold=True)
_PEERS = [Workload("get"), Workload("get_many", 1000)]
_STILL = [Workload("get", threads=4), *(batch for batch in _BATCHES if batch.keys < 10_000)]
_NEAR = {
    "near get": Workload("get"),
    "near aget": Workload("get", tasks=1),
    "near get_many of 100": Workload("get_many", 100),
    "get that is not near": Workload("miss"),
    "get_many of 100, none near": Workload("miss_many", 100),
}
_NEAR_BARS = {"near get_many of 100": 1 / 5, "get that is not near": 1.1}
_LIMITED = [Workload(name, nodes=3) for name in ("get", "check", "page", "view")]

# By name: those on the same nodes one after the other.
RACES: dict[str, Race] = {
    "beside": Race((DJANGO_RB, DJANGO_RB_ONE, *ONE_NODE), _beside(_CALLS), 20),
    "beside-loop": Race(
        (DJANGO_RB, DJANGO_RB_ONE, *ONE_NODE),
        _beside([replace(call, tasks=1) for call in _CALLS]),
        20,
    ),
    "round-trip": Race((DJANGO_RB, *ONE_NODE), _beside(_CALLS[:1], rtt=1), 20),
    "single": Race((HAND_WRITTEN, DJANGO_RB, DEADLINE, RESP3, TLS), _SINGLE, 100),
    "batches": Race((HAND_WRITTEN, DJANGO_RB), _BATCHES, 50),
    "threads": Race((DJANGO_RB,), _THREADS, 40),
    "agets": Race((DJANGO_RB, *ONE_NODE), [_AGETS], 40),
    "map": Race((RB, DJANGO_RB_MAP), _MAPS, 25),
    "peers": Race((DJANGO_RB, *ALL_PEERS), _PEERS, 20),
    "first": Race((DJANGO_RB, RB), [_FIRST], 10),
    "cluster": Race(
        (HAND_WRITTEN_CLUSTER, DJANGO_RB, CLUSTER, *CLUSTER_PEERS), [_CALLS[0], *_BATCHES], 12
    ),
    "moving": Race(
        (CLUSTER,), [each for one in _STILL for each in (one, replace(one, moving=True))], 8
    ),
    "sentinel": Race((DJANGO_RB, SENTINEL), [*_SINGLE, *_CALLS[1:]], 60),
    "limits": Race((DJANGO_RB_LIMITS,), _LIMITED, 50),
    "near": Race((DJANGO_RB, NEAR), list(_NEAR.values()), 60),
}

# They compare topologies, or a setting with its absence, and run by themselves: those of
# topologies take as long as half of the others together.
NOT_ON_THE_PAGE = frozenset({"cluster", "moving", "near", "sentinel"})


def races(only: Collection[str], *, quick: bool, beside: bool) -> dict[str, Race]:
    """Return races by name.

    Args:
        only: their names; all, if there are none.
        quick: with fewer rounds.
        beside: all of django-rb's contestants of both checkouts, and nobody else.
    """
    chosen = {}
    for name, race in RACES.items():
        if only and name not in only:
            continue
        contestants: Sequence[str] = race.contestants
        if beside:
            ours = [one for one in race.contestants if one in OURS]
            contestants = [one for each in ours for one in (before(each), each)]
        rounds = max(STARTS, race.rounds // 8) if quick else race.rounds
        starts = STARTS if beside else 1
        chosen[name] = Race(contestants, race.workloads, rounds // starts, starts)
    return chosen


def rows() -> Iterator[Row]:
    """Yield the lines of the judged table."""
    yield from _beside_threads()
    yield from _quiet()


def rows_beside() -> Iterator[Row]:
    """Yield lines that compare django-rb with itself before."""
    for name, race in RACES.items():
        for contestant in race.contestants:
            for workload in race.workloads if contestant in OURS else ():
                what = CONTESTANTS[contestant].title.removeprefix("django-rb").strip(", ")
                yield Row(
                    "now and before",
                    f"{workload.title}{f' ({what})' if what else ''}",
                    name,
                    (contestant, workload),
                    [(before(contestant), workload)],
                    TURNS if workload.computing is None else SAMPLES,
                    (None,) * 3,
                )


def _beside_threads() -> Iterator[Row]:
    for race in ("beside", "beside-loop"):
        for workload in RACES[race].workloads:
            # One node's batch is one message: its peers are judged beside eight.
            if workload.is_single:
                bars: Bars = (0.5 if workload.computing == 3 else None, None, None)
            else:
                bars = (0.5, None, 1.0) if workload.computing else (None, None, None)
            yield Row(
                BESIDE,
                workload.title,
                race,
                (DJANGO_RB, workload),
                [(peer, workload) for peer in ONE_NODE],
                SAMPLES,
                bars,
                headline=workload.computing == 3 and race == "beside",
            )
    quiet, *others = RACES["round-trip"].workloads
    for workload in others:
        assert workload.computing
        allowance = 1.5 * SWITCH_INTERVAL * workload.computing
        yield Row(
            BESIDE,
            f"{workload.title}: against none, plus {allowance * 1000:g} ms",
            "round-trip",
            (DJANGO_RB, workload),
            [(DJANGO_RB, quiet)],
            SAMPLES,
            (1.0, None, None),
            allowance,
        )


_CLUSTER_BARS = {DJANGO_RB: 1.25, **dict.fromkeys(CLUSTER_PEERS, 0.25)}


def _quiet() -> Iterator[Row]:
    def row(
        race: str, what: str, workload: Workload, peer: str, *bars: float | None,
        ours: str = DJANGO_RB, peer_workload: Workload | None = None, headline: bool = False,
        table: str = QUIET,
    ) -> Row:  # fmt: skip
        peers = [(peer, peer_workload or workload)]
        padded = (*bars, None, None)[:2]
        return Row(table, what, race, (ours, workload), peers, TURNS, padded, 0, headline)

    for workload in _SINGLE:
        yield row("single", workload.title, workload, HAND_WRITTEN, 1.1, headline=True)
    for workload in _BATCHES:
        bar = 1.2 if workload.keys == 100 else 1.1
        judged = bar if workload.operation == "get_many" else None
        yield row("batches", workload.title, workload, HAND_WRITTEN, judged)
    settings: dict[str, float | None] = {DEADLINE: 1.05, RESP3: 1.05, TLS: None}
    for name, limit in settings.items():
        title = f"get with {CONTESTANTS[name].title.split(', ')[1]}"
        yield row("single", title, _SINGLE[0], DJANGO_RB, limit, ours=name)
    one, many = _THREADS
    title = f"{many.title}, against one thread"
    yield row("threads", title, many, DJANGO_RB, None, 1 / 0.95, peer_workload=one)
    yield row("agets", _AGETS.title, _AGETS, "vcache", 1.0, 1.0, headline=True)
    yield row("first", _FIRST.title, _FIRST, RB, None, 1.5)
    for workload in _PEERS:
        for peer in ALL_PEERS:
            head = peer in {"redis-cache", "shard-client"} and workload.keys == 1000
            title = f"{workload.title}, beside {CONTESTANTS[peer].title}"
            yield row("peers", title, workload, peer, 1.0, 1.0, headline=head)
    for workload in _MAPS:
        share = COMMANDS[workload.operation.removeprefix(MAP)].share
        head = workload.operation in {f"{MAP}get", f"{MAP}set, ex"}
        yield row("map", workload.title, workload, RB, share, ours=DJANGO_RB_MAP, headline=head)
    for workload in RACES["cluster"].workloads:
        bars = {DJANGO_RB: 1.1} if workload.is_single else _CLUSTER_BARS
        for peer in (HAND_WRITTEN_CLUSTER, DJANGO_RB, *CLUSTER_PEERS):
            yield row(
                "cluster", f"{workload.title}, beside {CONTESTANTS[peer].title}", workload,
                peer, bars.get(peer), ours=CLUSTER, table=ON_CLUSTER,
            )  # fmt: skip
    for still in _STILL:
        moving = replace(still, moving=True)
        yield row(
            "moving", f"{moving.title}, against none", moving, CLUSTER, None, 2.0,
            ours=CLUSTER, peer_workload=still, table=ON_CLUSTER,
        )  # fmt: skip
    for workload in RACES["sentinel"].workloads:
        yield row(
            "sentinel", f"{workload.title}, beside independent nodes", workload, DJANGO_RB,
            1.02, ours=SENTINEL, table=ON_SENTINEL,
        )  # fmt: skip
    for title, workload in _NEAR.items():
        yield row(
            "near", f"{title}, against a cache without", workload, DJANGO_RB,
            _NEAR_BARS.get(title), ours=NEAR, table=NEAR_COPIES,
        )  # fmt: skip
    get, check, page, view = _LIMITED
    for title, ours, theirs in (
        ("check of three limits, against get", check, get),
        ("view with three limits, against one without", view, page),
    ):
        yield row(
            "limits", title, ours, DJANGO_RB_LIMITS,
            ours=DJANGO_RB_LIMITS, peer_workload=theirs, table=LIMITS,
        )  # fmt: skip
