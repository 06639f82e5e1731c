"""Time django-rb beside its peers, in one run on the same nodes.

Without arguments: what the judged table needs, in a few minutes. Contestants get
environments of their own under .venvs/, made at the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plan, report
from benchmarks.bars import Run, judge
from benchmarks.conductor import Arena, Conductor, Lane, Race, Result
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.environments import ROOT, choose_python, make_environments
from benchmarks.once import first_batch, import_time, peak_memory, what_is_sent
from benchmarks.workloads import OPERATIONS

PAGE = ROOT / "docs" / "performance.md"
Told = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    options = _parse(arguments)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    if options.from_file:
        run = json.loads(options.from_file.read_text(encoding="utf-8"))
    else:
        run = measure(options, say)
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        if not run["bars"]:
            sys.exit("docs/performance.md shows the judged run: --docs goes without --only.")
        report.rewrite(PAGE, run)
    if options.plots:
        draw(run, options.plots, say)
    print(json.dumps(run, indent=1) if options.format == "json" else report.for_terminal(run))
    say("done")
    return 0


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> Told:
    """Make environments, run races; return all there is to tell."""
    load = round(os.getloadavg()[0], 1)
    races = _races(options)
    everything = not options.only and not options.full
    used = {lane.contestant for race in races.values() for lane in race.lanes}
    environments = {CONTESTANTS[name].environment for name in used}
    missing: dict[str, str] = {}
    if options.here:
        pythons = dict.fromkeys(environments, Path(sys.executable))
    else:
        pythons, missing = make_environments(environments, choose_python(), say)
    left_out = {
        name: missing[CONTESTANTS[name].environment]
        for name in CONTESTANTS
        if name in used and CONTESTANTS[name].environment in missing
    }
    races = {name: _without(race, left_out) for name, race in races.items()}
    results: dict[str, Result] = {}
    once: Told = {}
    sent: list[Told] = []
    with Arena() as arena:
        conductor = Conductor(arena, pythons, missing, say)
        for name, race in races.items():
            say(f"{name}, {len(race.lanes)} lanes …")
            results[name] = conductor.run(race)
        if everything:
            once, sent = _measure_once(conductor, used - left_out.keys(), say)
        server = arena.server
    return {
        "about": _about(conductor, server, load),
        "races": [{"name": name, **result.as_json()} for name, result in results.items()],
        "sent": sent,
        "once": once,
        "bars": judge(Run(results, once)) if everything else [],
        "left_out": left_out,
    }


def _measure_once(
    conductor: Conductor, used: set[str], say: Callable[[str], None]
) -> tuple[Told, list[Told]]:
    pair = [name for name in plan.PAIR if name in used]
    once: Told = {}
    say("first batch of a process …")
    once["first_batch"] = first_batch(conductor, pair, plan.FIRST_BATCH)
    say("peak memory …")
    once["peak_memory"] = peak_memory(conductor, pair, plan.PEAK_MEMORY)
    if DJANGO_RB in used:
        say("import …")
        once["import"] = import_time(conductor, DJANGO_RB)
    say("what is sent …")
    blocking = [name for name in plan.BLOCKING if name in used]
    return once, what_is_sent(conductor, blocking)


def _races(options: argparse.Namespace) -> dict[str, Race]:
    if options.only:
        circumstances = {
            "operation": options.only,
            "keys": options.keys,
            "nodes": options.nodes,
            "size": options.size,
            "hits": [not options.misses],
            "threads": options.threads,
            "tasks": options.tasks,
            "rtt": options.rtt,
        }
        names = options.contestants or (plan.ASYNC if any(options.tasks) else plan.BLOCKING)
        return plan.chosen(names, circumstances, options.rounds or plan.ROUNDS)
    races = plan.full() if options.full else plan.judged()
    for race in races.values():
        if options.contestants:
            race.lanes = [one for one in race.lanes if one.contestant in options.contestants]
        if options.rounds:
            race.rounds = options.rounds
    return {name: race for name, race in races.items() if race.lanes}


def _without(race: Race, left_out: Told) -> Race:
    lanes: list[Lane] = [lane for lane in race.lanes if lane.contestant not in left_out]
    return Race(lanes, race.rounds)


def _about(conductor: Conductor, server: str, load: float) -> Told:
    versions: dict[str, str] = {}
    for environment, found in conductor.versions.items():
        for package, version in found.items():
            # rb's redis-py is another than everybody else's.
            name = f"{package} (for rb)" if environment == "rb" else package
            if package not in {"python", "rb"} and (environment != "rb" or package == "redis"):
                versions[name] = version
    pythons = {found["python"] for found in conductor.versions.values()}
    return {
        "python": ", ".join(sorted(pythons)),
        "server": server,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def draw(run: Told, folder: Path, say: Callable[[str], None]) -> None:
    """Draw the plots, in the environment that can."""
    made, missing = make_environments(["plots"], choose_python(), say)
    if missing:
        sys.exit(f"No plots: {missing['plots']}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(run, file)
        file.flush()
        command: list[str | Path] = [made["plots"], "-m", "benchmarks.plots", file.name]
        subprocess.run([*command, folder.resolve()], cwd=ROOT, check=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--full", action="store_true", help="the whole grid; takes hours")
    what.add_argument(
        "--only", type=_words(OPERATIONS), default=[], metavar="OPERATION,…",
        help=f"races of your choice: {', '.join(OPERATIONS)}",
    )  # fmt: skip
    what.add_argument(
        "--contestants", type=_words(CONTESTANTS), default=[], metavar="NAME,…",
        help=f"default all: {', '.join(CONTESTANTS)}",
    )  # fmt: skip
    what.add_argument("--rounds", type=int, help="turns that each contestant takes")
    cells = parser.add_argument_group("with --only; each takes several, as in 1,10,100")
    cells.add_argument("--keys", type=_numbers, default=[1000], help="of a call (1000)")
    cells.add_argument("--nodes", type=_numbers, default=[8], help="(8)")
    cells.add_argument("--size", type=_numbers, default=[60], help="of a value in bytes (60)")
    cells.add_argument("--misses", action="store_true", help="ask for keys that are not there")
    cells.add_argument("--threads", type=_numbers, default=[1], help="(1)")
    cells.add_argument("--tasks", type=_numbers, default=[0], help="of an event loop (0: none)")
    cells.add_argument("--rtt", type=_decimals, default=[0.0], help="in ms, by a proxy (0)")
    out = parser.add_argument_group("what comes of it")
    out.add_argument("--format", choices=["table", "json"], default="table")
    out.add_argument("--save", type=Path, metavar="FILE", help="the JSON as well")
    out.add_argument(
        "--from", type=Path, metavar="FILE", dest="from_file",
        help="measure nothing: take what --save has written",
    )  # fmt: skip
    out.add_argument("--docs", action="store_true", help=f"rewrite the figures in {PAGE.name}")
    out.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVGs")
    parser.add_argument(
        "--here", action="store_true",
        help="make no environments: those take part whose packages this Python has",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.contestants and HAND_WRITTEN not in options.contestants:
        print("Without the hand-written loop there are no ratios.", file=sys.stderr)
    return options


def _words(known: Any) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        chosen = text.split(",")
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(
                    f"there is no {word!r}, only {', '.join(known)}"
                )
        return chosen

    return words


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _decimals(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
