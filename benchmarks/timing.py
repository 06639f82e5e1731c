"""Interleaved rounds and what they say: A B A B …, medians, spread, ratios."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds of one contestant, in seconds per call; spreads are IQRs."""

    wall: float
    wall_spread: float
    cpu: float
    cpu_spread: float


def time_interleaved(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, Timing]:
    """Time contestants in turn, `rounds` times `calls` calls each.

    What disturbs the machine for a while disturbs all of them. CPU time is the process's
    own, in user and system mode.
    """
    walls: dict[str, list[float]] = {name: [] for name in contestants}
    cpus: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contestant in contestants.items():
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(calls):
                    contestant()
                cpus[name].append((time.process_time() - cpu) / calls)
                walls[name].append((time.perf_counter() - wall) / calls)
    finally:
        gc.enable()
    return {
        name: Timing(
            median(walls[name]), _spread(walls[name]), median(cpus[name]), _spread(cpus[name])
        )
        for name in contestants
    }


def _spread(samples: list[float]) -> float:
    low, _, high = quantiles(samples, n=4)
    return high - low
