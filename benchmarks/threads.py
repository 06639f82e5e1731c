"""Time calls beside threads that compute: python -m benchmarks.threads

A thread that lets go of the interpreter, as for a system call, may have to wait a whole switch
interval (5 ms) for every thread that computes to get it back. django-rb is on 8 nodes and on
one, its peers on one. Each is a process of its own with such threads; they take turns of a few
calls. Beside each mean is its ratio to that of the quickest peer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

from benchmarks import report
from benchmarks.__main__ import INTERRUPTED, about, ended_like_ctrl_c
from benchmarks.checkouts import make_conductor, revision
from benchmarks.conductor import Conductor, Lane, Race, WorkerFailed
from benchmarks.contestants import DJANGO_RB, KNOWN, before
from benchmarks.options import count, milliseconds, words
from benchmarks.plan import make_race
from benchmarks.progress import Progress, Say, start_clock
from benchmarks.workloads import Workload

Told = dict[str, Any]
WORKLOADS = {
    "get": Workload("get", 1),
    "get_many": Workload("get_many", 100),
    "set_many": Workload("set_many", 100),
    "aget": Workload("get", 1, tasks=1),
    "aget_many": Workload("get_many", 100, tasks=1),
    "aset_many": Workload("set_many", 100, tasks=1),
}
OURS, PEERS = (DJANGO_RB, f"{DJANGO_RB}-one"), ("redis-cache", "vcache")
COMPUTING = (0, 1, 3)
CALLS, TURN = 200, 10
Samples = dict[tuple[Lane, int], list[float]]  # by the number of computing threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    options = _parse(arguments)
    with ended_like_ctrl_c():
        run = measure(options, start_clock())
    print(json.dumps(run, indent=1) if options.format == "json" else for_terminal(run))
    return INTERRUPTED if run["not_run"] else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=words(WORKLOADS), default=[*WORKLOADS][:3], metavar="CALL,…",
        help=f"{', '.join(WORKLOADS)} (the first three); batches have 100 keys",
    )  # fmt: skip
    parser.add_argument(
        "--calls", type=count, default=CALLS, metavar="N", help=f"of each ({CALLS})"
    )
    parser.add_argument(
        "--rtt",
        type=milliseconds,
        default=0.0,
        metavar="MS",
        help="round trip in ms, by a proxy (0)",
    )
    parser.add_argument(
        "--before", type=revision, metavar="REV",
        help="django-rb of this revision as well, as benchmarks.versions has it",
    )  # fmt: skip
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--here", action="store_true", help="make no environments")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, say: Say) -> Told:
    """Let all take their turns; return all there is to tell.

    "not_run" is what Ctrl-C left out.
    """
    names = [*OURS, *(map(before, OURS) if options.before else ()), *PEERS]
    races = {
        name: make_race(names, replace(WORKLOADS[name], rtt=options.rtt))
        for name in options.only
    }
    run: Told = {
        "about": {}, "before": options.before, "rtt": options.rtt, "lanes": [], "left_out": {},
        "not_run": list(races),
    }  # fmt: skip
    load = round(os.getloadavg()[0], 1)
    progress = Progress(races, say, lambda race: _guess(race, options.calls))
    with make_conductor(names, options.before, options.here, say) as conductor:
        try:
            for name, race in races.items():
                progress.begin(name)
                left_out: dict[str, str] = {}
                samples: Samples = {}
                try:
                    _take_turns(conductor, race, options.calls, samples, left_out)
                finally:
                    run["lanes"] += _tell(samples)
                    run["left_out"] |= {KNOWN[one].title: left_out[one] for one in left_out}
                progress.tell(left_out)
                run["not_run"].remove(name)
        except KeyboardInterrupt:
            say("interrupted …")
        run["about"] = about(conductor, conductor.arena.server, load)
    return run


def _guess(race: Race, calls: int) -> float:
    """Return how many seconds a race takes: a batch beside a thread may take 30 ms."""
    return len(race.lanes) * (1 + calls * sum(0.001 + 0.03 * count for count in COMPUTING))


def _take_turns(
    conductor: Conductor, race: Race, calls: int, samples: Samples, left_out: dict[str, str]
) -> None:
    """Add seconds per call to `samples`; who fails is left out, with the reason."""
    with conductor.workers(race, left_out) as running:
        for first in range(0, calls, TURN):
            turn = min(TURN, calls - first)
            for computing in COMPUTING:
                for worker in list(running):
                    limit = conductor.patience * (turn + 1)
                    try:
                        took = worker.ask(
                            "sample", within=limit, calls=turn, computing=computing
                        )
                    except WorkerFailed as error:
                        left_out[worker.lane.contestant] = str(error)
                        running.remove(worker)
                    else:
                        samples.setdefault((worker.lane, computing), []).extend(took)


def _tell(samples: Samples) -> Iterator[Told]:
    for (lane, computing), seconds in samples.items():
        peers = [
            mean(theirs)
            for (other, beside), theirs in samples.items()
            if other.contestant in PEERS and beside == computing
        ]
        yield {
            "call": lane.workload.call,
            "contestant": lane.contestant,
            "computing": computing,
            "calls": len(seconds),
            "mean": mean(seconds),
            "median": median(seconds),
            "p99": sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1],
            "to_peer": mean(seconds) / min(peers) if peers else None,
        }


def for_terminal(run: Told) -> str:
    """Return a table for each call and number of computing threads."""
    parts = [textwrap.fill(report.about(run), report.WIDTH)]
    if run["before"]:
        parts.append(report.wrapped(f"before: {run['before']}", "  "))
    tables: dict[str, report.Table] = {}
    for told in run["lanes"]:
        threads = f"{told['computing'] or 'no'} computing thread{'s'[: told['computing'] != 1]}"
        title = f"{told['call']}, beside {threads}"
        if run["rtt"]:
            title += f", {run['rtt']:g} ms round trip"
        table = tables.setdefault(title, [["ms", "mean", "to peer", "median", "99 %"]])
        ratio = "" if told["to_peer"] is None else f"{told['to_peer']:.2f}"
        average, middle, most = (f"{told[x] * 1000:.2f}" for x in ("mean", "median", "p99"))
        table.append([KNOWN[told["contestant"]].title, average, ratio, middle, most])
    parts += [f"{title}\n{report.aligned(table)}" for title, table in tables.items()]
    for name, reason in run["left_out"].items():
        parts.append(report.wrapped(f"LEFT OUT: {name}: {reason}", "  "))
    if run["not_run"]:
        parts.append(
            report.wrapped(f"NOT MEASURED to its end: {'; '.join(run['not_run'])}", "  ")
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
