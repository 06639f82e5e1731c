"""Time two checkouts of django-rb side by side: the working tree and a revision.

python -m benchmarks.versions --before main

The revision is laid out by `git worktree` for as long as it takes. Both run on the same Python,
packages and nodes, in processes of their own that take turns: before, now, before, now … Each
race is run several times with new processes, as two processes of the same code may differ by
some percent; every other time "now" is the first, as who is the second is up to two percent
quicker. A ratio is that of now to before, the median of all rounds. Two checkouts of the same
code stay within one percent or two.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.__main__ import INTERRUPTED, about, ended_like_ctrl_c, run_races
from benchmarks.checkouts import make_conductor, revision
from benchmarks.conductor import CLOCKS, Lane, Race, Result, Timing
from benchmarks.contestants import DJANGO_RB, KNOWN, before
from benchmarks.options import count, words
from benchmarks.plan import JUDGED_KEYS, make_race
from benchmarks.progress import Say, start_clock
from benchmarks.workloads import LIMITED, LIMITED_NODES, Workload

Told = dict[str, Any]
VARIANTS = ("deadline", "resp3", "tls")  # a get with other settings, beside one without
WHAT = ("get", "set", *VARIANTS, "get_many", "set_many", "aget", "aget_many", "limits")
ROUNDS, STARTS = 30, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    options = _parse(arguments)
    with ended_like_ctrl_c():
        run = measure(options, start_clock())
    print(json.dumps(run, indent=1) if options.format == "json" else for_terminal(run))
    return INTERRUPTED if run["not_run"] else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--before", type=revision, required=True, metavar="REV")
    parser.add_argument(
        "--only", type=words(WHAT), default=WHAT, metavar="WHAT,…", help=", ".join(WHAT)
    )
    parser.add_argument(
        "--rounds", type=count, default=ROUNDS, metavar="N", help=f"of each start ({ROUNDS})"
    )
    parser.add_argument(
        "--starts", type=count, default=STARTS, metavar="N", help=f"of processes ({STARTS})"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--here", action="store_true", help="make no environment")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, say: Say) -> Told:
    """Run the races; return all there is to tell. "not_run" is what Ctrl-C left out."""
    chosen = choose(options.only, options.rounds)
    races = {
        f"{name} ({start + 1})": Race(race.lanes[:: (-1) ** start], race.rounds)
        for start in range(options.starts)
        for name, race in chosen.items()
    }
    used = {lane.contestant for race in chosen.values() for lane in race.lanes}
    run: Told = {"races": [], "not_run": list(races)}
    results: dict[str, Result] = {}
    load = round(os.getloadavg()[0], 1)
    with make_conductor(used, options.before, options.here, say) as conductor:
        try:
            run_races(conductor, races, run, results, lambda: None)
        except KeyboardInterrupt:
            say("interrupted …")
        run["about"] = about(conductor, conductor.arena.server, load)
    timings = merge(results.values())
    return {
        "before": options.before,
        "about": run["about"],
        "calls": [*_compare(timings)],
        "beside_get": [*_beside_get(timings)],
        "left_out": {
            KNOWN[name].title: reason
            for result in results.values()
            for name, reason in result.left_out.items()
        },
        "not_run": run["not_run"],
    }


def choose(only: Sequence[str], rounds: int) -> dict[str, Race]:
    """Return the races by name, in each of which both checkouts have their lanes."""
    gets = [DJANGO_RB, *(f"{DJANGO_RB}-{name}" for name in VARIANTS if name in only)]
    races: dict[str, tuple[list[str], list[Workload]]] = {}
    if "get" in only or len(gets) > 1:
        races["get"] = gets, [Workload("get", 1)]
    if "set" in only:
        races["set"] = [DJANGO_RB], [Workload("set", 1)]
    for name in ("get_many", "set_many"):
        if name in only:
            for keys in JUDGED_KEYS:
                races[f"{name} of {keys:,}"] = [DJANGO_RB], [Workload(name, keys)]
    if "aget" in only:
        for tasks in (1, 1000):
            races[f"aget, tasks: {tasks:,}"] = [DJANGO_RB], [Workload("get", 1, tasks=tasks)]
    if "aget_many" in only:
        races["aget_many"] = [DJANGO_RB], [Workload(tasks=1)]
    if "limits" in only:
        limits = [Workload(name, 1, nodes=LIMITED_NODES) for name in LIMITED]
        races["limits"] = [f"{DJANGO_RB}-limits"], limits
    return {
        name: make_race(
            [one for each in contestants for one in (before(each), each)],
            *workloads,
            rounds=rounds,
        )
        for name, (contestants, workloads) in races.items()
    }


def merge(results: Iterable[Result]) -> dict[Lane, Timing]:
    """Return all turns of each lane as those of one race."""
    timings: dict[Lane, Timing] = {}
    for number, result in enumerate(results):
        for lane, timing in result.timings.items():
            merged = timings.setdefault(lane, Timing(lane, timing.calls))
            first = number * result.race.rounds
            merged.turns.update({first + turn: took for turn, took in timing.turns.items()})
    return timings


def _compare(timings: Mapping[Lane, Timing]) -> Iterator[Told]:
    for lane, now in timings.items():
        then = timings.get(Lane(before(lane.contestant), lane.workload))
        if then is not None:
            yield {
                "call": _title(lane),
                "nodes": lane.workload.nodes,
                "rounds": len(now.turns),
                "before": {clock: then.spread(clock).as_json() for clock in CLOCKS},
                "now": {clock: now.spread(clock).as_json() for clock in CLOCKS},
                "ratio": {clock: now.over(then, clock).as_json() for clock in CLOCKS},
            }


def _beside_get(timings: Mapping[Lane, Timing]) -> Iterator[Told]:
    """Yield what settings cost: a get with them over one without, of the same checkout."""
    for variant in VARIANTS:
        told: Told = {}
        for when, named in (("before", before), ("now", str)):
            workload = Workload("get", 1)
            plain = timings.get(Lane(named(DJANGO_RB), workload))
            one = timings.get(Lane(named(f"{DJANGO_RB}-{variant}"), workload))
            if plain and one:
                told[when] = {clock: one.over(plain, clock).as_json() for clock in CLOCKS}
        if told:
            yield {"call": _title(Lane(f"{DJANGO_RB}-{variant}", workload)), **told}


def _title(lane: Lane) -> str:
    """Return "get_many of 1,000", "get, DEADLINE" or "aget, 1,000 tasks"."""
    tasks = lane.workload.tasks
    circumstance = KNOWN[lane.contestant].title.removeprefix(KNOWN[DJANGO_RB].title)
    return lane.workload.call + circumstance + (f", {tasks:,} tasks" if tasks > 1 else "")


def for_terminal(run: Told) -> str:
    """Return the tables."""
    rows = [["µs per call", *2 * ["before", "now", "ratio", "±"]]]
    for told in run["calls"]:
        row = [told["call"]]
        for clock in CLOCKS:
            ratio = told["ratio"][clock]
            row += [report.microseconds(told[when][clock]["median"]) for when in _WHEN]
            row += [f"{ratio['median']:.3f}", f"{(ratio['high'] - ratio['low']) / 2:.1%}"]
        rows.append(row)
    parts = [
        textwrap.fill(report.about(run), report.WIDTH),
        report.wrapped(f"before: {run['before']}", "  "),
        "CPU time to the left, wall time to the right; medians; ± is half the distance of\n"
        "the quartiles of the ratio.",
        report.aligned(rows),
    ]
    if run["beside_get"]:
        rows = [["ratio to a plain get", *(f"{c}, {when}" for c in CLOCKS for when in _WHEN)]]
        for told in run["beside_get"]:
            cells = [told.get(when, {}).get(clock) for clock in CLOCKS for when in _WHEN]
            shown = ["" if one is None else f"{one['median']:.3f}" for one in cells]
            rows.append([told["call"], *shown])
        parts.append(report.aligned(rows))
    for name, reason in run["left_out"].items():
        parts.append(report.wrapped(f"LEFT OUT: {name}: {reason}", "  "))
    if run["not_run"]:
        parts.append(
            report.wrapped(f"NOT MEASURED to its end: {'; '.join(run['not_run'])}", "  ")
        )
    return "\n\n".join(parts)


_WHEN = ("before", "now")


if __name__ == "__main__":
    sys.exit(main())
