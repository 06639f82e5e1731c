"""Time django-rb beside its peers, in one run on the same nodes.

Each takes its turns in a process of its own; peers get environments of their own under .venvs/,
made at the first run. The table says which bars are met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import plan, table
from benchmarks.checkouts import commit, lay_out
from benchmarks.contestants import BEFORE, CONTESTANTS
from benchmarks.environments import ROOT, choose_python, make_environments
from benchmarks.servers import Servers
from benchmarks.turns import Conductor, Race, Result

SAVED = ROOT / "docs" / "performance.json"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")
INTERRUPTED = 130  # the exit status after Ctrl-C
Told = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    options = parse(arguments)
    run = options.saved or measure(options)
    for path in {options.save, SAVED if options.docs else None} - {None}:
        path.write_text(dump(run), encoding="utf-8")
    if options.docs:
        for page in PAGES:
            table.rewrite(page, run)
    print(dump(run) if options.format == "json" else table.for_terminal(run))
    return INTERRUPTED if run["interrupted"] else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='make bench ARGS="…"',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few rounds: a first look")
    add("--only", type=_names, default=(), metavar="RACE,…", help=", ".join(plan.RACES))
    add(
        "--before", type=commit, metavar="COMMIT",
        help="compare django-rb with that commit of it, and with no peer",
    )  # fmt: skip
    add("--format", choices=["table", "json"], default="table")
    add("--save", type=Path, metavar="FILE", help="keep the run as JSON")
    add("--from", type=_saved, dest="saved", metavar="FILE", help="show a run that was saved")
    add(
        "--docs", action="store_true",
        help="keep the run in docs/performance.json, and show it in docs/ and README.md; all "
        f"races but {', '.join(sorted(plan.NOT_ON_THE_PAGE))}",
    )  # fmt: skip
    add("--here", action="store_true", help="make no environments: run all on this Python")
    options = parser.parse_args(arguments)
    if options.docs and (options.only or options.before):
        parser.error("--docs shows a whole run: it goes without --only and --before")
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in plan.RACES:
            raise argparse.ArgumentTypeError(
                f"there is no race {name!r}, only {', '.join(plan.RACES)}"
            )
    return names


def _saved(text: str) -> Told:
    try:
        run: Told = json.loads(Path(text).read_text(encoding="utf-8"))
        if not run["rows"]:
            raise ValueError("it has no rows")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not what --save has written ({error})"
        ) from None
    return run


def measure(options: argparse.Namespace) -> Told:
    """Make environments, run races; return all there is to tell.

    Ctrl-C ends it with the races that were run until then.
    """
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    load = round(os.getloadavg()[0], 1)
    only = plan.RACES.keys() - plan.NOT_ON_THE_PAGE if options.docs else options.only
    races = plan.races(only, quick=options.quick, beside=bool(options.before))
    results: dict[str, Result] = {}
    interrupted = False
    with ExitStack() as stack:
        pythons, missing = _environments(races.values(), options.here, say)
        checkouts = {}
        if options.before and "common" in pythons:
            pythons[BEFORE] = pythons["common"]
            laid_out = lay_out(options.before, pythons[BEFORE])
            checkouts[BEFORE] = stack.enter_context(laid_out)
        servers = Servers()
        stack.callback(servers.close)
        conductor = Conductor(servers, pythons, missing, checkouts, say)
        try:
            for number, (name, race) in enumerate(races.items(), 1):
                say(f"{number} of {len(races)}: {name} ({', '.join(race.contestants)})")
                results[name] = conductor.run(race)
        except KeyboardInterrupt:
            say(f"interrupted; missing: {', '.join(races.keys() - results)}")
            interrupted = True
    say("done")
    rows = plan.rows_beside() if options.before else plan.rows()
    return {
        "about": _about(conductor, servers.version, load),
        "before": options.before or "",
        "quick": options.quick,
        "interrupted": interrupted,
        "rows": list(table.judge(rows, results)),
    }


def _environments(
    races: Collection[Race], here: bool, say: Any
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the Python of each environment, and why the others could not be made."""
    names = {CONTESTANTS[one].environment for race in races for one in race.contestants}
    names -= {BEFORE}
    if here:
        return dict.fromkeys(names, Path(sys.executable)), {}
    made, missing = make_environments(names, choose_python(), say)
    return made, {**missing, BEFORE: missing.get("common", "")}


def _about(conductor: Conductor, server: str, load: float) -> Told:
    """Return on what a run was measured."""
    versions: dict[str, str] = {}
    for environment, found in conductor.versions.items():
        for package, version in found.items():
            # rb's redis-py is another than everybody else's.
            name = (
                f"{package} (for rb)" if (environment, package) == ("rb", "redis") else package
            )
            if package != "python" and (environment != "rb" or package in {"redis", "rb"}):
                versions[name] = version
    return {
        "python": ", ".join(sorted({found["python"] for found in conductor.versions.values()})),
        "server": server,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def dump(run: Told) -> str:
    """Return JSON with a line for each line of the table."""
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in run["rows"])
    head = json.dumps({**run, "rows": []}, indent=1, ensure_ascii=False)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # timeout(1) is like Ctrl-C
    sys.exit(main())
