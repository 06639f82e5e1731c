"""Says how far a run is, and guesses how long it still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from benchmarks.conductor import LONG_TURN_SECONDS, TURN_SECONDS, Race
from benchmarks.contestants import KNOWN
from benchmarks.workloads import Workload

# What things cost, roughly; what they did cost so far corrects it.
SECONDS_PER_START, SECONDS_PER_KEY, SECONDS_PER_BYTE = 0.6, 20e-6, 2e-9
UNTIMED_CALLS = 5  # to store, to check, to warm up

Say = Callable[[str], None]


def start_clock() -> Say:
    """Return what says things on standard error, with the seconds since now."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    return say


class Progress:
    """Counts races.

    Args:
        guess: returns how many seconds a race takes; by default guess_seconds().
    """

    def __init__(
        self,
        races: Mapping[str, Race],
        say: Say,
        guess: Callable[[Race], float] | None = None,
    ) -> None:
        self._races = races
        self._say = say
        self._began = time.monotonic()
        self._guessed = {name: (guess or guess_seconds)(race) for name, race in races.items()}
        self._count = 0
        self._behind = 0.0  # guessed seconds of the races that are over

    def begin(self, name: str) -> None:
        """Say which race begins, and how long it and those after it will take."""
        self._count += 1
        ahead = sum(self._guessed.values()) - self._behind
        # The first race's worth of guessing is believed as much as what was seen.
        first = next(iter(self._guessed.values()))
        took = time.monotonic() - self._began
        left = ahead * (took + first) / (self._behind + first)
        number, lanes = f"{self._count} of {len(self._races)}", len(self._races[name].lanes)
        self._say(f"{number}: {name}, {lanes} lanes; some {_duration(left)} left")
        self._behind += self._guessed[name]

    def tell(self, left_out: Mapping[str, str]) -> None:
        """Say who is not among a race's contestants."""
        for name, reason in left_out.items():
            self._say(f"  without {KNOWN[name].title}: {reason}")


def guess_seconds(race: Race) -> float:
    """Return how many seconds a race takes, if nothing is out of the ordinary."""
    return sum(_guess(lane.workload, race.rounds) for lane in race.lanes)


def _guess(workload: Workload, rounds: int) -> float:
    calls = max(1, workload.tasks) * workload.threads
    call = calls * workload.keys * (SECONDS_PER_KEY + workload.size * SECONDS_PER_BYTE)
    turn = max(TURN_SECONDS * workload.threads, call)
    turns = turn + rounds * min(turn, LONG_TURN_SECONDS * workload.threads)
    return SECONDS_PER_START + UNTIMED_CALLS * call + turns


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
