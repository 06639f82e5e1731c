"""Rates: a number of requests per number of seconds, and their text form."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured

from ..engine.wording import masked

# The scripts count in products of a count and a time. Numbers in Lua are doubles, which are
# exact for integers up to 2**53, and so for the sum of two of these.
MAX_UNITS = 2**52

_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}

_RATE = re.compile(
    r"(\d{1,20})/(\d{0,20})(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests in a period.

    Rate(100, 600)              # 100 in ten minutes; as text "100/10m"

    Attributes:
        count: how many requests, or units of cost; 0 for none.
        period: whole seconds, 1 or more; a timedelta of whole seconds is converted.

    Raises:
        ImproperlyConfigured: these are not such numbers, or too large to be counted exactly:
            `count * period` is at most 2**52.
    """

    count: int
    period: int

    def __post_init__(self) -> None:
        given: object = self.period
        count, period = whole_number(self.count), _whole_seconds(given)
        if count is None or count < 0:
            raise ImproperlyConfigured(
                f"A rate of {masked(self.count)} requests: give a whole number, 0 or more."
            )
        if period is None or period < 1:
            shown = given if isinstance(given, timedelta) else masked(given)
            raise ImproperlyConfigured(
                f"A rate for {shown} seconds: give a whole number, 1 or more."
            )
        # Python's own integers, which do not overflow as numpy's do.
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "period", period)
        if max(self.count, 1) * self.period > MAX_UNITS:
            raise ImproperlyConfigured(
                f"The rate {self} cannot be counted exactly: {self.count} times its "
                f"{self.period} seconds is more than 2**52. Use a larger unit or a shorter "
                "period."
            )

    def __str__(self) -> str:
        unit = next(unit for unit in "dhms" if self.period % _UNITS[unit] == 0)
        number = self.period // _UNITS[unit]
        return f"{self.count}/{'' if number == 1 else number}{unit}"


def whole_number(number: object) -> int | None:
    """Return an integer of any type, such as numpy's, as an int; None for others."""
    if type(number) is int:
        return number
    try:
        return None if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        return None


def _whole_seconds(period: object) -> int | None:
    if not isinstance(period, timedelta):
        return whole_number(period)
    seconds, rest = divmod(period, timedelta(seconds=1))
    return None if rest else seconds


def parse_rate(rate: object) -> Rate | None:
    """Return a `Rate`, None for no limit.

    parse_rate("100/10m")       # Rate(count=100, period=600)
    parse_rate((5, 60))         # Rate(count=5, period=60)

    Args:
        rate: ``"count/period"``, a pair ``(count, seconds)`` of integers or with a timedelta,
            a `Rate` or None. A period is a unit (s, m, h or d; sec, second, min, minute, hour
            and day as well, and their plurals), a number of them, or a number of seconds.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    if rate is None or isinstance(rate, Rate):
        return rate
    if isinstance(rate, str) and (match := _RATE.fullmatch(rate)):
        count, number, unit = match.groups()
        seconds = _UNITS[unit[0].lower()] if unit else 1
        return Rate(int(count), int(number or 1) * seconds)
    if isinstance(rate, tuple | list) and len(rate) == 2:
        return Rate(*rate)
    raise ImproperlyConfigured(
        f"{masked(rate)} is not a rate. Use '100/m', '100/10m', or (100, 600) for 100 in 600 "
        "seconds; the units are s, m, h and d. Use None for no limit, and '0/s' to refuse "
        "all requests."
    )
