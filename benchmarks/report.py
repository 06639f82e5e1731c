"""What a run found out, from its JSON: for the terminal, and for docs/performance.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, DJANGO_RB, PROMISES
from benchmarks.plan import WITH_THE_FLOOR
from benchmarks.workloads import Workload

WIDTH = 80
_CLOCKS = {"cpu": "CPU", "wall": "wall"}
Told = Mapping[str, Any]

# One kind of table serves both: cells as text, the first column to the left.
Table = list[list[str]]


def for_terminal(run: Told) -> str:
    """Return all tables, at most 80 columns wide."""
    parts = [
        textwrap.fill(about(run), WIDTH),
        "Medians; ± is half the distance of the quartiles; the ratio is that to the\n"
        "hand-written loop, the median of the rounds.",
    ]
    for race in run["races"]:
        workloads = _by_workload(race)
        parts += [
            f"{one.title}\n{aligned(_timings(lanes))}" for one, lanes in workloads.items()
        ]
        if not workloads:
            parts.append(race["name"])
        parts += [wrapped(note, "") for note in _notes(race)]
    if run["sent"]:
        parts.append(f"What a call sends, batches of 100 keys\n{aligned(_sent(run))}")
    parts += [f"{title}\n{aligned(table)}" for title, table in _once(run)]
    parts += [wrapped(note, "") for note in _once_notes(run)]
    if run["bars"]:
        parts.append(_judged(run["bars"]))
    parts += [
        wrapped(f"LEFT OUT: {CONTESTANTS[name].title}: {reason}", "  ")
        for name, reason in run["left_out"].items()
    ]
    if run.get("not_run"):
        parts.append(wrapped(f"NOT MEASURED to its end: {'; '.join(run['not_run'])}", "  "))
    return "\n\n".join(parts)


def for_docs(run: Told) -> dict[str, str]:
    """Return the generated parts of docs/performance.md by the names in its markers."""
    peers = []
    for race in run["races"]:
        if race["name"].endswith(" peers"):
            for workload, lanes in _by_workload(race).items():
                table = _markdown(_timings(lanes))
                peers.append(f"**{workload.title}**, µs per call:\n\n{table}")
                peers += _notes(race)
    others = [f"{title}:\n\n{_markdown(table)}" for title, table in _once(run)]
    for race in run["races"]:
        if race["name"] in {"network", "threads", "per key", "aget_many", "agets"}:
            for workload, lanes in _by_workload(race).items():
                table = _markdown(_timings(lanes))
                others.append(f"{workload.title}, µs per call:\n\n{table}")
    left_out = [
        f"Left out: {CONTESTANTS[name].title}: {reason}"
        for name, reason in run["left_out"].items()
    ]
    return {
        "about": "\n\n".join([textwrap.fill(about(run), 96), *left_out]),
        "bars": _markdown(_bars(run["bars"])),
        "peers": "\n\n".join(peers),
        "sent": _markdown(_sent_by_contestant(run)),
        "others": "\n\n".join([*others, *_once_notes(run)]),
        "behind": "\n".join(_behind(run)),
        "floor": _markdown(_floor(run)),
    }


def rewrite(page: Path, run: Told) -> None:
    """Put a run's figures between the markers of a page, in place of those of another.

    Raises:
        ValueError: the page lacks a part's markers.
    """
    text = page.read_text(encoding="utf-8")
    for name, part in for_docs(run).items():
        begin, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        if text.count(begin) != 1:
            raise ValueError(f"{page} needs the line {begin.strip()!r} once.")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{part}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")


# Tables.


def _timings(lanes: Sequence[Told]) -> Table:
    rows = [["", "CPU µs", "±", "ratio", "wall µs", "±", "ratio"]]
    for lane in lanes:
        row = [CONTESTANTS[lane["contestant"]].title]
        for clock in ("cpu", "wall"):
            seconds = lane["seconds"][clock]
            spread = (seconds["high"] - seconds["low"]) / 2 / seconds["median"]
            ratio = lane.get("ratio", {}).get(clock, {}).get("median")
            row += [
                microseconds(seconds["median"]),
                f"{spread:.0%}",
                "" if ratio is None else f"{ratio:.2f}",
            ]
        rows.append(row)
    return rows


def _bars(bars: Sequence[Told]) -> Table:
    rows = [["what", "bar", "this run", "met"]]
    for bar in bars:
        limit = f"{'at least' if bar['least'] else 'at most'} {bar['limit']}"
        if bar["figure"] is None:
            rows.append([bar["what"], limit, "…", f"not measured: {bar['why']}"])
            continue
        why = f" ({bar['why']})" if bar["why"] else ""
        rows.append(
            [bar["what"], limit, f"{bar['figure']}{why}", "yes" if bar["met"] else "**no**"]
        )
    return rows


def _floor(run: Told) -> Table:
    """Return what promises cost a hand-written loop, and what django-rb takes for the same."""
    columns = [(name, clock) for clock in ("cpu", "wall") for name in (PROMISES, DJANGO_RB)]
    titles = [f"{CONTESTANTS[name].title}, {_CLOCKS[clock]}" for name, clock in columns]
    rows = [["", *titles]]
    for race in run["races"]:
        lanes = {lane["contestant"]: lane for lane in race["lanes"]}
        if set(lanes) == set(WITH_THE_FLOOR):
            title = Workload(**lanes[PROMISES]["workload"]).title
            ratios = [lanes[name]["ratio"][clock]["median"] for name, clock in columns]
            rows.append([title, *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def _sent(run: Told) -> Table:
    rows = [["", "call", "commands", "nodes", "trips"]]
    for told in run["sent"]:
        title = CONTESTANTS[told["contestant"]].title
        operation = told["workload"]["operation"]
        rows.append([title, operation, _commands(told), str(told["nodes"]), _trips(told)])
    return rows


def _sent_by_contestant(run: Told) -> Table:
    """Return a row for each contestant, a column for each call."""
    titles: dict[str, str] = {}
    rows: dict[str, dict[str, str]] = {}
    for told in run["sent"]:
        workload = Workload(**told["workload"])
        operation = workload.operation
        titles[operation] = operation + ("" if workload.is_single else f" of {workload.keys}")
        trips = _trips(told)
        plural = "" if trips == "1" else "s"
        rows.setdefault(CONTESTANTS[told["contestant"]].title, {})[operation] = (
            f"{_commands(told)}; {trips} trip{plural}"
        )
    return [
        ["", *titles.values()],
        *([name, *(cells.get(one, "") for one in titles)] for name, cells in rows.items()),
    ]


def _commands(told: Told) -> str:
    """Return what was sent: "100 EXPIRE, MULTI, EXEC"."""
    counts = told["commands"].items()
    return ", ".join(name if count == 1 else f"{count:,} {name}" for name, count in counts)


def _trips(told: Told) -> str:
    return f"{max(1, told['round_trips']):.0f}"


def _behind(run: Told) -> Iterator[str]:
    """Yield a line for each workload at which somebody was quicker than django-rb."""
    measured: dict[str, list[Told]] = {}
    for race in run["races"]:
        for workload, lanes in _by_workload(race).items():
            if len(lanes) > len(measured.get(workload.title, ())):
                measured[workload.title] = lanes
    for title, lanes in measured.items():
        quicker = list(_quicker(lanes))
        if quicker:
            text = f"- {title}: {'; '.join(quicker)}"
            yield textwrap.fill(text, 96, subsequent_indent="  ")
    yield from _ahead_once(run)


def _ahead_once(run: Told) -> Iterator[str]:
    """Yield a line for each thing that is no race and in which somebody needed less."""
    for what, title in (
        ("first_batch", "first batch of a process, wall"),
        ("peak_memory", "memory at its peak"),
    ):
        taken = {
            told["contestant"]: told["wall"]["median"] if "wall" in told else told["grown"]
            for told in run["once"].get(what, ())
            if "left_out" not in told
        }
        less = [
            f"{CONTESTANTS[name].title} {value / taken[DJANGO_RB]:.2f}"
            for name, value in taken.items()
            if DJANGO_RB in taken and value < taken[DJANGO_RB]
        ]
        if less:
            yield textwrap.fill(f"- {title}: {'; '.join(less)}", 96, subsequent_indent="  ")


def _quicker(lanes: Sequence[Told]) -> Iterator[str]:
    """Yield who took what share of django-rb's time, where it is less."""
    ours = {lane["contestant"]: lane["seconds"] for lane in lanes}.get(DJANGO_RB)
    if ours is None:
        return
    for lane in lanes:
        shares = {
            name: lane["seconds"][clock]["median"] / ours[clock]["median"]
            for clock, name in _CLOCKS.items()
        }
        said = [f"{name} {share:.2f}" for name, share in shares.items() if share < 1]
        if said:
            yield f"{CONTESTANTS[lane['contestant']].title} {', '.join(said)}"


_IMPORTED = {
    "ms": "django_rb.cache",
    "first_use_ms": "first use of a cache, which imports redis",
    "redis_ms": "redis alone",
}


def _once(run: Told) -> Iterator[tuple[str, Table]]:
    once = run["once"]
    if batches := once.get("first_batch"):
        rows = [["", "round trips", "wall ms", "CPU ms"]]
        title = ""
        for told in batches:
            if "left_out" in told:
                continue
            name = CONTESTANTS[told["contestant"]].title
            title = Workload(**{**told["workload"], "rtt": told["rtt"]}).title
            walls, cpus = told["wall"]["median"] * 1000, told["cpu"]["median"] * 1000
            rows.append([name, f"{told['round_trips']:.1f}", f"{walls:.1f}", f"{cpus:.1f}"])
        yield f"First batch of a process: {title}", rows
    if memory := once.get("peak_memory"):
        rows = [["", "grown, MiB", "payloads"]]
        title = ""
        for told in memory:
            if "left_out" in told:
                continue
            name = CONTESTANTS[told["contestant"]].title
            title = Workload(**told["workload"]).title
            grown = told["grown"]
            rows.append([name, f"{grown / 2**20:.0f}", f"{grown / told['payload']:.2f}"])
        yield f"Growth of a process at its peak: {title}", rows
    if told := once.get("import"):
        rows = [["", "ms"]]
        rows += [[_IMPORTED[name], f"{spread['median']:.0f}"] for name, spread in told.items()]
        yield "Importing after Django", rows


def _once_notes(run: Told) -> Iterator[str]:
    """Yield who did not take part in what is measured once, and why."""
    for what, words in (("first_batch", "first batches"), ("peak_memory", "peaks of memory")):
        for told in run["once"].get(what, ()):
            if "left_out" in told:
                title = CONTESTANTS[told["contestant"]].title
                yield f"{title} is not among the {words}: {told['left_out']}."


def _by_workload(race: Told) -> dict[Workload, list[Told]]:
    lanes: dict[Workload, list[Told]] = {}
    for lane in race["lanes"]:
        lanes.setdefault(Workload(**lane["workload"]), []).append(lane)
    return lanes


def _notes(race: Told) -> list[str]:
    return [
        f"{CONTESTANTS[name].title} is not among them: {reason}."
        for name, reason in race["left_out"].items()
    ]


def about(run: Told) -> str:
    """Return on what a run was measured, as one line."""
    about = run["about"]
    if not about["versions"]:
        return "Nobody took part."
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Python {about['python']}, {about['server']}, {about['cores']} cores, "
        f"{about['system']}, {about['date']}, load average {about['load']:g} when it began; "
        f"{versions}."
    )


# How tables are written.


def aligned(table: Table) -> str:
    """Return a table whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= WIDTH else " "
    return "\n".join(
        gap.join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _markdown(table: Table) -> str:
    head, *rows = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([head, f"|{'---|' * len(table[0])}", *rows])


def _judged(bars: Sequence[Told]) -> str:
    """Return the judged table; what does not fit on a line goes on below."""
    lines = [f"{'THE BARS':46} {'bar':>6} {'this run':>9}  met"]
    for bar in bars:
        what = textwrap.wrap(bar["what"], 46, subsequent_indent="  ")
        limit = f"{'≥' if bar['least'] else '≤'} {bar['limit']}"
        met = {True: "yes", False: "NO", None: "not measured"}[bar["met"]]
        lines.append(f"{what[0]:46} {limit:>6} {bar['figure'] or '…':>9}  {met}")
        lines += what[1:]
        if bar["why"]:
            lines.append(wrapped(f"    {bar['why']}", "    "))
    return "\n".join(lines)


def wrapped(text: str, indent: str) -> str:
    """Return a text on lines that fit a terminal, all but the first indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent)


def microseconds(seconds: float) -> str:
    """Return a time as text, without its unit."""
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
