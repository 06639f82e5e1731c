"""The limits that the shop shows: one visitor's, counted by each of the algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from django_rb.ratelimit import Limit, Usage, limiter, parse_rate

RATE = parse_rate("10/20s")
ALGORITHMS = {
    "sliding-window": "Stays full until its window ends, and drains evenly in the next one.",
    "fixed-window": "Stays full until its window ends, and is empty at once.",
    "token-bucket": "Gives back one after the other, every two seconds.",
}


@dataclass(frozen=True)
class Gauge:
    """What one algorithm says, as it is shown."""

    algorithm: str
    words: str
    usage: Usage

    @property
    def percent(self) -> float:
        """How full it is."""
        return 100 * self.usage.used / self.usage.limit.capacity

    @property
    def seconds(self) -> int:
        """After how long it is empty."""
        return ceil(self.usage.reset)


def ask(visitor: str, times: int) -> list[Gauge]:
    """Return what the limits say of a visitor after so many requests; 0 only looks."""
    limits = list(_limits(visitor))
    usages = limiter.check(limits, charge=False) if times == 0 else []
    for _ in range(times):
        usages = limiter.check(limits)
    return [
        Gauge(usage.limit.algorithm, words, usage)
        for usage, words in zip(usages, ALGORITHMS.values(), strict=True)
    ]


def _limits(visitor: str) -> Iterator[Limit]:
    assert RATE is not None
    for algorithm in ALGORITHMS:
        # None of them blocks, so that each counts whatever the others say.
        yield Limit(f"shown:{visitor}", RATE, algorithm=algorithm, block=False)
