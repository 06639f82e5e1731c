"""The algorithms again, in plain Python and exact fractions, to compare the scripts with.

They share no formula with the scripts: each keeps what it is asked for, not how that is
computed best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from math import ceil

from django_rb.ratelimit import Rate


class FixedWindow:
    def __init__(self, rate: Rate, burst: int | None) -> None:
        self.rate = rate
        self.charged: dict[int, int] = defaultdict(int)

    def used(self, now: Fraction) -> Fraction:
        return Fraction(self.charged[now // self.rate.period])

    def is_allowed(self, now: Fraction, cost: int) -> bool:
        return self.used(now) + cost <= self.rate.count

    def charge(self, now: Fraction, cost: int) -> None:
        self.charged[now // self.rate.period] += cost


class SlidingWindow(FixedWindow):
    def used(self, now: Fraction) -> Fraction:
        window, period = now // self.rate.period, self.rate.period
        weight = 1 - (now - window * period) / period
        return self.charged[window] + self.charged[window - 1] * weight


class TokenBucket:
    """GCRA in its other form, virtual scheduling: one theoretical arrival time."""

    def __init__(self, rate: Rate, burst: int | None) -> None:
        self.interval = Fraction(rate.period, rate.count)
        self.burst = burst or rate.count
        self.arrival = Fraction(0)

    def used(self, now: Fraction) -> Fraction:
        return max(Fraction(0), self.arrival - now) / self.interval

    def is_allowed(self, now: Fraction, cost: int) -> bool:
        arrival = max(now, self.arrival) + (cost - 1) * self.interval
        return now >= arrival - (self.burst - 1) * self.interval

    def charge(self, now: Fraction, cost: int) -> None:
        self.arrival = max(now, self.arrival) + cost * self.interval


Model = FixedWindow | TokenBucket

MODELS: dict[str, Callable[[Rate, int | None], Model]] = {
    "fixed-window": FixedWindow,
    "sliding-window": SlidingWindow,
    "token-bucket": TokenBucket,
}


def decide(model: Model, now: Fraction, cost: int, *, charge: bool) -> tuple[bool, int]:
    """Return whether a request passes, and how much is used then, rounded up."""
    allowed = model.is_allowed(now, cost)
    if allowed and charge:
        model.charge(now, cost)
    return allowed, ceil(model.used(now))
