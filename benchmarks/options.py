"""What the command line says; every mistake is told before anything is measured."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plan
from benchmarks.conductor import PATIENCE
from benchmarks.contestants import CONTESTANTS
from benchmarks.workloads import MANY, OPERATIONS, SMALL

# What goes with --only, and what it is without being said.
CELLS: dict[str, Any] = {
    "keys": [1000], "nodes": [8], "size": [SMALL], "threads": [1], "tasks": [0], "rtt": [0.0],
    "misses": False,
}  # fmt: skip
MOST_NODES = 256
OTHERS = (
    "Others, each with --help: python -m benchmarks.versions (two revisions of django-rb side "
    "by side), .threads (calls beside threads that compute). Without options: .limits (rate "
    "limits), .stages (where a call's time goes)."
)
READING = {"get", "get_many"}


def parse(arguments: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Return the options; a mistake ends the program with status 2 and a message."""
    parser = _parser(description)
    options = parser.parse_args(arguments)
    if mistake := _mistake(options):
        parser.error(mistake)
    for name, default in CELLS.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=description, epilog=OTHERS
    )
    what = parser.add_argument_group("what is measured")
    which = what.add_mutually_exclusive_group()
    which.add_argument("--full", action="store_true", help="the whole grid; takes hours")
    which.add_argument(
        "--only", type=words(OPERATIONS), default=[], metavar="OPERATION,…",
        help=f"races of your choice: {', '.join(OPERATIONS)}",
    )  # fmt: skip
    what.add_argument(
        "--contestants", type=words(CONTESTANTS), default=[], metavar="NAME,…",
        help=f"default all: {', '.join(CONTESTANTS)}",
    )  # fmt: skip
    what.add_argument(
        "--rounds", type=count, metavar="N",
        help=f"turns of each contestant ({plan.ROUNDS}; up to {plan.PAIR_ROUNDS} of few)",
    )  # fmt: skip
    what.add_argument(
        "--patience", type=_seconds, default=PATIENCE, metavar="SECONDS",
        help=f"who needs longer for a call is left out ({PATIENCE:g})",
    )  # fmt: skip
    cells = parser.add_argument_group("with --only; each takes several, as in 1,10,100")
    counts, nodes = _numbers(1), _numbers(1, MOST_NODES)
    cells.add_argument("--keys", type=counts, metavar="N,…", help="of a call (1000)")
    cells.add_argument("--nodes", type=nodes, metavar="N,…", help="(8)")
    cells.add_argument(
        "--size", type=_numbers(SMALL), metavar="N,…", help=f"of a value in bytes ({SMALL})"
    )
    cells.add_argument(
        "--misses", action="store_true", default=None, help="ask for keys that are not there"
    )
    cells.add_argument("--threads", type=counts, metavar="N,…", help="(1)")
    cells.add_argument(
        "--tasks", type=_numbers(0), metavar="N,…", help="of an event loop (0: none)"
    )
    cells.add_argument("--rtt", type=_times, metavar="MS,…", help="in ms, by a proxy (0)")
    out = parser.add_argument_group("what comes of it")
    out.add_argument("--format", choices=["table", "json"], default="table")
    out.add_argument(
        "--save", type=Path, metavar="FILE", help="the JSON as well, after each race"
    )
    out.add_argument(
        "--from", type=_saved, metavar="FILE", dest="saved",
        help="measure nothing: take what --save has written",
    )  # fmt: skip
    out.add_argument(
        "--docs", action="store_true", help="rewrite the figures in docs/performance.md"
    )
    out.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVGs")
    parser.add_argument(
        "--here", action="store_true",
        help="make no environments: those take part whose packages this Python has",
    )  # fmt: skip
    return parser


def _mistake(options: argparse.Namespace) -> str | None:
    """Return what does not go together, and the way out."""
    for name in CELLS:
        if getattr(options, name) is not None and not options.only:
            return f"argument --{name}: it goes with --only, as in --only get_many"
    measuring = ("only", "full", "contestants", "rounds", "here")
    if options.saved and (given := [name for name in measuring if getattr(options, name)]):
        return f"argument --from: it measures nothing, so --{given[0]} goes without it"
    if options.docs and (options.only or options.full):
        return (
            "argument --docs: docs/performance.md shows the judged run: it goes without "
            "--only and --full"
        )
    if options.only and (mistake := _mistake_in_cells(options)):
        return mistake
    return _unwritable("save", options.save) or _unwritable("plots", options.plots)


def _mistake_in_cells(options: argparse.Namespace) -> str | None:
    if options.misses and not READING & set(options.only):
        return (
            f"argument --misses: {', '.join(options.only)} reads nothing; get and get_many do"
        )
    if max(options.tasks or [0]) and max(options.threads or [1]) > 1:
        return "argument --tasks: an event loop has one thread; leave --threads away"
    keys = max(options.keys or [1]) if set(MANY) & set(options.only) else 1
    stored = keys * max(options.size or [SMALL])
    if stored > plan.MOST_STORED:
        return (
            f"argument --keys: {keys:,} values of {max(options.size or [SMALL]):,} B are "
            f"{stored >> 20:,} MiB, at most {plan.MOST_STORED >> 20} are stored; take fewer "
            "keys or a smaller --size"
        )
    return None


def _unwritable(name: str, path: Path | None) -> str | None:
    """Return why a file or folder cannot be written; makes folders on the way."""
    if path is None:
        return None
    try:
        (path if name == "plots" else path.parent).mkdir(parents=True, exist_ok=True)
        if name == "save":
            path.open("a").close()
    except OSError as error:
        return f"argument --{name}: {path} cannot be written: {error.strerror}"
    return None


def words(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return what takes known words, separated by commas, each once."""

    def choose(text: str) -> list[str]:
        chosen = text.split(",")
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(
                    f"there is no {word!r}, only {', '.join(known)}"
                )
        return list(dict.fromkeys(chosen))

    return choose


def _numbers(least: int, most: float = math.inf) -> Callable[[str], list[int]]:
    def numbers(text: str) -> list[int]:
        return [_number(word, least, most) for word in text.split(",")]

    return numbers


def _number(word: str, least: int, most: float = math.inf) -> int:
    wanted = f"{least} or more" if most == math.inf else f"from {least} to {most}"
    try:
        number = int(word)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number, {wanted}")
    return number


def count(text: str) -> int:
    """Take a whole number, 1 or more."""
    return _number(text, 1)


def _times(text: str) -> list[float]:
    return [milliseconds(word) for word in text.split(",")]


def milliseconds(text: str) -> float:
    """Take a time, 0 or more."""
    return _decimal(text, "milliseconds, 0 or more")


def _seconds(text: str) -> float:
    seconds = _decimal(text, "seconds, more than 0")
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, more than 0")
    return seconds


def _decimal(word: str, wanted: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of {wanted}")
    return number


def _saved(text: str) -> dict[str, Any]:
    try:
        run: Any = json.loads(Path(text).read_text(encoding="utf-8"))
        found = isinstance(run, dict) and "races" in run
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error.strerror}") from None
    except ValueError:
        found = False
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not what --save has written")
    return dict(run)
