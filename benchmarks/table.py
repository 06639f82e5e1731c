"""The judged table: what django-rb is to reach, and whether this run reached it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.plan import Row
from benchmarks.turns import Result, Timing

WIDTH = 110
Told = dict[str, Any]
Table = list[list[str]]
SHOWN = {
    "cpu": "CPU",
    "wall": "wall",
    "mean": "mean",
    "median": "median",
    "p99": "99th percentile",
}


def judge(rows: Iterable[Row], results: Mapping[str, Result]) -> Iterator[Told]:
    """Yield a line for each row whose race was run.

    Times are in seconds. A line whose sides did not all take part has "why" instead.
    """
    for row in rows:
        if row.race not in results:
            continue
        result = results[row.race]
        told: Told = {"table": row.table, "what": row.what, "measures": row.measures}
        if row.headline:
            told["headline"] = True
        missing = [name for name, _ in (row.ours, *row.peers) if name in result.left_out]
        peers = [peer for peer in row.peers if peer in result.timings]
        if row.ours not in result.timings or not peers:
            reasons = {
                f"{CONTESTANTS[name].title}: {result.left_out[name]}" for name in missing
            }
            yield {**told, "met": None, "why": "; ".join(sorted(reasons)) or "not measured"}
            continue
        ours = result.timings[row.ours]
        cells = [
            _compare(ours, [(result.timings[peer], peer[0]) for peer in peers], row, measure)
            for measure in row.measures
        ]
        bars = row.bars[: len(cells)]
        judged = [
            cell["ratio"] <= bar
            for cell, bar in zip(cells, bars, strict=True)
            if bar is not None
        ]
        yield {
            **told,
            **{name: [cell[name] for cell in cells] for name in cells[0]},
            "bars": [bar and short(bar) for bar in bars],
            "met": all(judged) if judged else None,
        }


def _compare(ours: Timing, peers: Sequence[tuple[Timing, str]], row: Row, measure: Any) -> Told:
    """Return our figure, that of the quickest peer, their ratio and half its quartiles."""
    theirs, peer = min(peers, key=lambda one: one[0].figure(measure))
    ratio, low, high = ours.over(theirs, measure)
    figure, limit = ours.figure(measure), theirs.figure(measure) + row.allowance
    if row.allowance:
        ratio = low = high = figure / limit
    return {
        "ours": short(figure),
        "theirs": short(limit),
        "peers": CONTESTANTS[peer].title,
        "ratio": short(ratio),
        "spread": short((high - low) / 2),
    }


def short(value: float) -> float:
    """Return a number as exact as it can be trusted to be."""
    return float(f"{value:.3g}")


def about(run: Told) -> str:
    """Return on what a run was measured, as one sentence."""
    told = run["about"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    cores = f"{told['cores']} cores, " if told["cores"] else ""
    quick = "few rounds (--quick), " if run["quick"] else ""
    return (
        f"{quick}Python {told['python']}, {told['server']}, {cores}{told['system']}, "
        f"{told['date']}, load average {told['load']} when it began; {versions}."
    )


def tables(run: Told) -> Iterator[tuple[str, Table]]:
    """Yield title and lines of each table of a run."""
    told_tables: dict[tuple[str, tuple[str, ...]], list[Told]] = {}
    for told in run["rows"]:
        told_tables.setdefault((told["table"], tuple(told["measures"])), []).append(told)
    for (name, measures), lines in told_tables.items():
        title = f"{name[0].upper()}{name[1:]}: {' / '.join(SHOWN[one] for one in measures)}"
        head = ["what", "django-rb", "peer", "ratio", "bar", "met"]
        if run["before"]:
            head = ["what", "now", "before", "ratio", "±"]
        yield title, [head, *(_line(told, bool(run["before"])) for told in lines)]


def _line(told: Told, before: bool) -> list[str]:
    if "why" in told:
        return [told["what"], f"not measured: {told['why']}", "", "", *([""] * (2 - before))]
    theirs = times(told["theirs"])
    names = [*dict.fromkeys(told["peers"])]
    if not before:
        theirs = f"{theirs} ({' / '.join(names)})"
    line = [told["what"], times(told["ours"]), theirs, " / ".join(map(ratio, told["ratio"]))]
    if before:
        return [*line, " / ".join(f"{spread:.1%}" for spread in told["spread"])]
    bars = " / ".join("-" if bar is None else f"{bar:.3g}" for bar in told["bars"])
    met = {True: "yes", False: "**no**", None: ""}[told["met"]]
    return [*line, bars if any(told["bars"]) else "", met]


def headlines(run: Told) -> Table:
    """Return the lines of README.md's table."""
    lines = [told for told in run["rows"] if told.get("headline") and "why" not in told]
    table = [["what", "django-rb", "peer", "ratio"]]
    for told in lines:
        which = 0  # the mean, or the CPU time
        peer = f"{times(told['theirs'][:1])} ({told['peers'][which]})"
        table.append(
            [
                f"{told['what']} ({SHOWN[told['measures'][which]]})",
                times(told["ours"][:1]),
                peer,
                ratio(told["ratio"][which]),
            ]
        )
    return table


def ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def times(seconds: Sequence[float]) -> str:
    """Return times in one unit: "0.24 / 0.3 ms"."""
    unit, name = (1e3, "ms") if max(seconds) >= 1e-3 else (1e6, "µs")
    return f"{' / '.join(f'{_three(one * unit)}' for one in seconds)} {name}"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def for_terminal(run: Told) -> str:
    """Return everything, as text."""
    parts = [textwrap.fill(about(run), WIDTH)]
    if run["before"]:
        parts.append(f"before: {run['before']}")
    parts += [f"{title}\n{_aligned(table)}" for title, table in tables(run)]
    judged = [told for told in run["rows"] if told["met"] is not None]
    if judged:
        met = sum(told["met"] for told in judged)
        parts.append(f"{met} of {len(judged)} bars are met.")
    return "\n\n".join(parts).replace("**", "")


def _aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def markdown(table: Table) -> str:
    """Return a table as Markdown has it."""
    head, *lines = table
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in rows)


def for_docs(run: Told) -> dict[str, str]:
    """Return the parts of pages that a run writes, by the names in their markers."""
    judged = "\n\n".join(f"**{title}**\n\n{markdown(table)}" for title, table in tables(run))
    return {
        "tables": f"{textwrap.fill(about(run), 100)}\n\n{judged}",
        "headlines": markdown(headlines(run)),
    }


def rewrite(page: Path, run: Told) -> None:
    """Put a run's tables between a page's ``<!-- bench: NAME -->`` and ``<!-- end -->``."""
    text = page.read_text(encoding="utf-8")
    for name, part in for_docs(run).items():
        before, marker, rest = text.partition(f"<!-- bench: {name} -->\n")
        if marker:
            _, end, after = rest.partition("<!-- end -->")
            text = f"{before}{marker}\n{part}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")
