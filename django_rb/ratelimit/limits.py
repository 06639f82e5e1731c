"""A limit, and what a request uses of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from ..engine.wording import masked
from .algorithms import SLIDING_WINDOW, Answer, Rule, get_rule, make_rule
from .rates import Rate, whole_number

_KEY_TYPES = (str, bytes)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and what a request would be charged.

    Limit("login:10.0.0.1", Rate(5, 60))

    Attributes:
        key: what is limited; of any length and any bytes.
        rate: how many requests in which period.
        cost: what is charged, 0 or more.
        algorithm: "sliding-window", "fixed-window" or "token-bucket".
        burst: how many requests a full bucket has room for; None for the rate's count.
            For "token-bucket" alone.
        block: whether its refusal keeps the other limits of a call from being charged. One
            that only tells does not: the request passes.

    Raises:
        ImproperlyConfigured: there is no such algorithm, or it has no such burst.
        TypeError: the key is neither text nor bytes, or the rate is no `Rate`.
        ValueError: the cost is not a whole number of 0 or more.
    """

    key: str | bytes
    rate: Rate
    cost: int = 1
    algorithm: str = SLIDING_WINDOW
    burst: int | None = None
    block: bool = True
    rule: Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.key, _KEY_TYPES):
            raise TypeError(
                f"{masked(self.key)} cannot be the key of a limit. Give text or bytes; "
                "str(value) makes text of most things."
            )
        cost = whole_number(self.cost)
        if cost is None or cost < 0:
            raise ValueError(
                f"{masked(self.cost)} is not a cost. Give a whole number, 0 or more; "
                "reset() gives back what was charged."
            )
        try:
            rule = get_rule(self.algorithm, self.rate, self.burst)
        except TypeError:  # what cannot be hashed is none of them
            rule = make_rule(self.algorithm, self.rate, self.burst)
        # Python's own integers, which do not overflow as those of numpy do.
        for name, value in (("cost", cost), ("burst", rule.burst), ("rule", rule)):
            object.__setattr__(self, name, value)

    @property
    def capacity(self) -> int:
        """How many requests there is room for at once."""
        return self.rule.capacity


class Usage(NamedTuple):
    """What a limit said.

    Attributes:
        limit: the limit.
        allowed: whether the request may pass, as far as this limit is concerned.
        used: how much of the limit is used up, with this request if it was charged.
        remaining: how much is left.
        reset: seconds until the limit is wholly unused again if nothing more is charged;
            for "fixed-window" that is when the window ends.
        retry_after: seconds until this cost could be allowed; 0 if it is, infinite if it
            never can be.
        error: why the limit's node could not be asked; then `allowed` is what the settings
            say, and the numbers are those of an unused limit.
    """

    limit: Limit
    allowed: bool
    used: int
    remaining: int
    reset: float
    retry_after: float
    error: Exception | None = None


def make_usage(limit: Limit, answer: Answer) -> Usage:
    """Return what an algorithm's script answered for a limit."""
    allowed, used, reset, retry, _, _ = answer
    rule = limit.rule
    ticks = rule.ticks_per_second
    count = int(used)
    retry_after = 0.0 if allowed else retry / ticks if retry >= 0 else math.inf
    return Usage(limit, allowed == 1, count, rule.capacity - count, reset / ticks, retry_after)
