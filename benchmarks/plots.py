"""Draws a run as SVG: python -m benchmarks.plots run.json docs/

It runs in the environment that has matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.workloads import Workload

PEERS, KEYS = "performance-peers.svg", "performance-keys.svg"
OURS, THEIRS, CLOCKS = "#0b6e4f", "#8d99ae", {"cpu": "CPU", "wall": "wall"}

Told = Mapping[str, Any]


def draw(run: Told, folder: Path) -> None:
    """Write the plots of a run."""
    mpl.rcParams.update({"svg.hashsalt": "django-rb", "font.size": 9, "svg.fonttype": "none"})
    _draw_peers(run, folder / PEERS)
    _draw_keys(run, folder / KEYS)


def _draw_peers(run: Told, path: Path) -> None:
    """Draw the CPU time of get_many and of get, a bar for each contestant."""
    wanted = (Workload("get_many"), Workload("get", 1))
    races = [_fullest(run, workload) for workload in wanted]
    races = [lanes for lanes in races if lanes]
    if not races:
        _say_none(path, "neither get_many of 1,000 keys nor get was measured on 8 nodes")
        return
    figure, axes = plt.subplots(1, len(races), figsize=(9, 4), squeeze=False)
    for axis, race in zip(axes[0], races, strict=True):
        lanes = sorted(race, key=lambda lane: -lane["seconds"]["cpu"]["median"])
        names = [CONTESTANTS[lane["contestant"]].title for lane in lanes]
        values = [lane["seconds"]["cpu"]["median"] * 1e6 for lane in lanes]
        colours = [OURS if lane["contestant"] == DJANGO_RB else THEIRS for lane in lanes]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f" {value:,.0f}" for value in values], fontsize=7)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 2, max(values) * 3)
        axis.set_title(Workload(**lanes[0]["workload"]).title, fontsize=9)
        axis.set_xlabel("CPU time of a call in µs, logarithmic")
    _save(figure, path)


def _fullest(run: Told, workload: Workload) -> list[Told]:
    """Return the lanes of the race in which the most had a workload."""
    races = [
        [lane for lane in race["lanes"] if Workload(**lane["workload"]) == workload]
        for race in run["races"]
    ]
    return max(races, key=len, default=[])


def _draw_keys(run: Told, path: Path) -> None:
    """Draw the CPU time per key over the number of keys."""
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for race in run["races"]:
        for lane in race["lanes"]:
            workload = Workload(**lane["workload"])
            if workload == Workload(workload.operation, workload.keys) and (
                workload.operation in {"get_many", "set_many"}
                and not race["name"].endswith(" peers")
                and lane["contestant"] in {HAND_WRITTEN, DJANGO_RB}
                and "ratio" in lane
            ):
                line = lines.setdefault((workload.operation, lane["contestant"]), {})
                line[workload.keys] = lane["seconds"]["cpu"]["median"] / workload.keys * 1e6
    if not lines:
        _say_none(path, "no batches of the hand-written loop and django-rb on 8 nodes")
        return
    figure, axis = plt.subplots(figsize=(6, 3.5))
    for (operation, contestant), points in sorted(lines.items()):
        axis.plot(
            *zip(*sorted(points.items()), strict=True),
            marker="o",
            color=OURS if contestant == DJANGO_RB else THEIRS,
            linestyle="-" if operation == "get_many" else "--",
            label=f"{CONTESTANTS[contestant].title}, {operation}",
        )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("keys of a call, on 8 nodes")
    axis.set_ylabel("CPU time per key in µs")
    axis.legend(fontsize=8)
    _save(figure, path)


def _say_none(path: Path, reason: str) -> None:
    print(f"No {path.name}: {reason}.", file=sys.stderr)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
