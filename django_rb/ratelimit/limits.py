"""A limit, and its usage after a request."""

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
    """A limit, and the cost of a request.

    Limit("login:10.0.0.1", Rate(5, 60))

    Attributes:
        key: what is limited; any length and any bytes are allowed.
        rate: how many requests in which period.
        cost: what is charged, 0 or more.
        algorithm: "sliding-window", "fixed-window" or "token-bucket".
        burst: how many requests a full bucket allows at once; None for the rate's count.
            Only for "token-bucket".
        block: whether the other limits of a call are not charged if this one refuses. With
            False they are charged, because the request passes.

    Raises:
        ImproperlyConfigured: there is no such algorithm, or it does not allow this burst.
        TypeError: the key is neither text nor bytes, or the rate is not a `Rate`.
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
                f"{masked(self.key)} cannot be the key of a limit. Use a str or bytes; "
                "str(value) converts most values."
            )
        cost = whole_number(self.cost)
        if cost is None or cost < 0:
            raise ValueError(
                f"{masked(self.cost)} is not a cost. Give a whole number, 0 or more. To undo "
                "charges, use reset()."
            )
        try:
            rule = get_rule(self.algorithm, self.rate, self.burst)
        except TypeError:  # an unhashable value is not an algorithm
            rule = make_rule(self.algorithm, self.rate, self.burst)
        # Python's own integers, which do not overflow as numpy's do.
        for name, value in (("cost", cost), ("burst", rule.burst), ("rule", rule)):
            object.__setattr__(self, name, value)

    @property
    def capacity(self) -> int:
        """How many requests are allowed at once."""
        return self.rule.capacity


class Usage(NamedTuple):
    """The result of checking a limit.

    Attributes:
        limit: the limit.
        allowed: whether the request may pass, as far as this limit is concerned.
        used: how much of the limit is used up, including this request if it was charged.
        remaining: how much is left.
        reset: seconds until the limit is completely unused again if nothing more is charged;
            for "fixed-window", until the window ends.
        retry_after: seconds until this cost could be allowed; 0 if it is, infinite if it
            never can be.
        error: why the limit's node could not be asked; then `allowed` depends on the settings,
            and the numbers are those of an unused limit.
    """

    limit: Limit
    allowed: bool
    used: int
    remaining: int
    reset: float
    retry_after: float
    error: Exception | None = None


def make_usage(limit: Limit, answer: Answer) -> Usage:
    """Return the usage from the reply of an algorithm's script."""
    allowed, used, reset, retry, _, _ = answer
    rule = limit.rule
    ticks = rule.ticks_per_second
    count = int(used)
    retry_after = 0.0 if allowed else retry / ticks if retry >= 0 else math.inf
    return Usage(limit, allowed == 1, count, rule.capacity - count, reset / ticks, retry_after)
