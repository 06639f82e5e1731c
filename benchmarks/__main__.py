"""Time django-rb beside its peers, in one run on the same nodes.

Without arguments: what the judged table needs, in a few minutes. Contestants get
environments of their own under .venvs/, made at the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import plan, report
from benchmarks.bars import Run, judge
from benchmarks.conductor import Arena, Conductor, Lane, Race, Result
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.environments import ROOT, choose_python, make_environments
from benchmarks.once import first_batch, import_time, peak_memory, what_is_sent
from benchmarks.options import parse
from benchmarks.progress import Progress, Say, start_clock

PAGE = ROOT / "docs" / "performance.md"
INTERRUPTED = 130  # the exit status after Ctrl-C
ONCE = "what is measured once"
Told = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    options = parse(arguments, __doc__)
    say = start_clock()
    if options.contestants and HAND_WRITTEN not in options.contestants:
        say("Without the hand-written loop there are no ratios.")
    with ended_like_ctrl_c():
        try:
            run = options.saved or measure(options, say)
        except KeyboardInterrupt:
            say("interrupted before anything was measured")
            return INTERRUPTED
    if options.save:
        _save(run, options.save)
    print(json.dumps(run, indent=1) if options.format == "json" else report.for_terminal(run))
    if run.get("not_run") and not options.saved:
        say(f"interrupted; {len(run['not_run'])} parts are missing")
        return INTERRUPTED
    if options.docs:
        if not run["bars"]:
            sys.exit("docs/performance.md shows the judged run, and this is none.")
        report.rewrite(PAGE, run)
    if options.plots:
        draw(run, options.plots, say)
    say("done")
    return 0


def measure(options: argparse.Namespace, say: Say) -> Told:
    """Make environments, run races; return all there is to tell.

    What was measured is saved after each race. Ctrl-C ends it: then "not_run" says what
    is missing.
    """
    load = round(os.getloadavg()[0], 1)
    races = _races(options)
    used = {lane.contestant for race in races.values() for lane in race.lanes}
    pythons, missing = _environments(options, used, say)
    left_out = {
        name: missing[CONTESTANTS[name].environment]
        for name in CONTESTANTS
        if name in used and CONTESTANTS[name].environment in missing
    }
    used -= left_out.keys()
    races = {name: _without(race, left_out) for name, race in races.items()}
    run: Told = {
        "about": {}, "races": [], "sent": [], "once": {}, "bars": [], "left_out": left_out,
        "not_run": [*races, *([] if options.only else [ONCE])],
    }  # fmt: skip
    results: dict[str, Result] = {}

    with Arena() as arena:
        conductor = Conductor(arena, pythons, missing, say, options.patience)

        def keep() -> None:
            run["about"] = about(conductor, arena.server, load)
            if options.save:
                _save(run, options.save)

        try:
            run_races(conductor, races, run, results, keep)
            if ONCE in run["not_run"]:
                _measure_once(conductor, run, used, say, everybody=options.full)
                run["not_run"].remove(ONCE)
        except KeyboardInterrupt:
            say("interrupted …")
        keep()
    if not options.only and not options.full:
        run["bars"] = judge(Run(results, run["once"]))
    return run


def run_races(
    conductor: Conductor,
    races: Mapping[str, Race],
    run: Told,
    results: dict[str, Result],
    keep: Callable[[], None],
) -> None:
    """Run races one after the other.

    Args:
        run: is told each race's result under "races"; "not_run" loses those that ended.
        results: gets them, too.
        keep: is called after each race.

    Raises:
        KeyboardInterrupt: so did Ctrl-C, with what was measured until then in `results`.
    """
    progress = Progress(races, conductor.say)
    for name, race in races.items():
        progress.begin(name)
        result = results[name] = conductor.run(race)
        progress.tell(result.left_out)
        run["races"].append({"name": name, **result.as_json()})
        if conductor.interrupted:
            raise KeyboardInterrupt
        run["not_run"].remove(name)
        keep()


def _environments(
    options: argparse.Namespace, used: set[str], say: Say
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the Python of each environment, and why there are not more."""
    environments = {CONTESTANTS[name].environment for name in used}
    if options.here:
        return dict.fromkeys(environments, Path(sys.executable)), {}
    return make_environments(environments, choose_python(), say)


def _measure_once(
    conductor: Conductor, run: Told, used: set[str], say: Say, *, everybody: bool
) -> None:
    """Measure what is no race; what fails is named, and costs nothing else."""
    blocking = [name for name in plan.BLOCKING if name in used]
    pair = blocking if everybody else [name for name in plan.PAIR if name in used]
    cold = blocking if everybody else [name for name in plan.COLD if name in used]
    once = run["once"]

    def first() -> None:
        once["first_batch"] = first_batch(conductor, cold, plan.FIRST_BATCH)

    def memory() -> None:
        once["peak_memory"] = peak_memory(conductor, pair, plan.PEAK_MEMORY)

    def importing() -> None:
        if DJANGO_RB in used:
            once["import"] = import_time(conductor, DJANGO_RB)

    def sent() -> None:
        run["sent"] = what_is_sent(conductor, blocking)

    for what, find_out in (
        ("first batch of a process", first),
        ("peak memory", memory),
        ("import", importing),
        ("what is sent", sent),
    ):
        say(f"{what} …")
        try:
            find_out()
        except Exception as error:  # noqa: BLE001 (it is told)
            say(f"  without it: {error!r}")


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let a request to end, as from timeout(1), do what Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save(run: Told, path: Path) -> None:
    """Write a run in place of what was there, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


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
        rounds = options.rounds or plan.ROUNDS
        return plan.chosen(options.contestants, circumstances, rounds)
    races = plan.full() if options.full else plan.judged()
    for race in races.values():
        if options.contestants:
            race.lanes = [one for one in race.lanes if one.contestant in options.contestants]
        if options.rounds:
            race.rounds = options.rounds
    races = {name: race for name, race in races.items() if race.lanes}
    if not races:
        names = ", ".join(options.contestants)
        sys.exit(f"argument --contestants: {names} has no part in this run; see --only, --full")
    return races


def _without(race: Race, left_out: Told) -> Race:
    lanes: list[Lane] = [lane for lane in race.lanes if lane.contestant not in left_out]
    return Race(lanes, race.rounds)


def about(conductor: Conductor, server: str, load: float) -> Told:
    """Return on what a run was measured, for report.about()."""
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


def draw(run: Told, folder: Path, say: Say) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
