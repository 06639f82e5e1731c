"""The arguments for computing values, and what is known of a stored value.

Neither the engine nor redis-py is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from inspect import isawaitable, iscoroutine
from typing import Any, NamedTuple

from ..times import to_milliseconds, to_seconds
from .codec import MISSING

DEFAULT_LOCK = DEFAULT_RETRY_AFTER = 5  # seconds


class Terms(NamedTuple):
    """How a value is computed.

    Attributes:
        stale: for how many milliseconds a value may be served after its time.
        lock: for how many seconds others wait for whoever computes.
        beta: how early a value is computed again before it expires; 0 for never.
        is_aside: whether that is done by another thread or task.
        rest: for how many milliseconds the function is not called again after a failure.
    """

    stale: int
    lock: float
    beta: float
    is_aside: bool
    rest: int


def get_terms(*arguments: Any, **named: Any) -> Terms:
    """Return the arguments of `get_or_set` as `Terms`, cached; see `make_terms`."""
    try:
        return _get_terms(*arguments, **named)
    except TypeError:  # one of them is not hashable, and so cannot be
        return make_terms(*arguments, **named)


def make_terms(
    early: Any = False,
    stale: Any = None,
    lock: Any = None,
    background: bool = False,
    retry_after: Any = None,
) -> Terms:
    """Return the arguments of `get_or_set` as `Terms`.

    Raises:
        TypeError, ValueError: one of them is invalid; the message names it.
    """
    seconds = to_seconds(DEFAULT_LOCK if lock is None else lock, "lock")
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"lock={lock!r}: give the seconds that other callers wait for the computation, "
            "more than the function takes."
        )
    beta = float(to_seconds(early, "early")) if not isinstance(early, bool) else float(early)
    if not 0 <= beta < math.inf:
        raise ValueError(
            f"early={early!r}: give True or a number: 1 is the same as True, more than 1 "
            "computes earlier."
        )
    return Terms(
        to_milliseconds(0 if stale is None else stale, "stale"),
        seconds,
        beta,
        bool(background),
        to_milliseconds(
            DEFAULT_RETRY_AFTER if retry_after is None else retry_after, "retry_after"
        ),
    )


_get_terms = lru_cache(maxsize=256)(make_terms)  # a site has few


class Seen(NamedTuple):
    """The stored data of a key whose value has to be computed.

    Attributes:
        value: the value that may be served in the meantime; MISSING if there is none.
        print: the fingerprint of the stored data.
        until: when that expires, in Unix milliseconds; 0 if unknown.
        is_unknown: the node has failed, and is not asked again.
    """

    value: Any = MISSING
    print: bytes = b""
    until: float = 0
    is_unknown: bool = False


NOTHING = Seen()
UNKNOWN = Seen(is_unknown=True)


# The largest value of -log() of a number above 0 that random() may return.
MOST = 37


def is_early(took: float, left: float, beta: float, get_chance: Callable[[], float]) -> bool:
    """Return whether to compute a fresh value early, before it expires for all callers.

    Args:
        took: how long it took to compute.
        left: for how long it is fresh, in the same unit.
        beta: 1; more for earlier.
        get_chance: returns a random number, from 0 to below 1, equally distributed.

    XFetch of Vattani, Chierichetti and Lowenstein, "Optimal probabilistic cache stampede
    prevention", PVLDB 8(8), 2015.
    """
    eagerness = took * beta
    return left < eagerness * MOST and -eagerness * math.log(1 - get_chance()) >= left


def refuse_awaitable(value: Any, function: object) -> None:
    """Raise a TypeError for an awaitable, which a synchronous method cannot await."""
    if isawaitable(value):
        if iscoroutine(value):
            value.close()  # or Python would warn that it was never awaited
        raise TypeError(
            f"The default {function!r} is asynchronous. Use aget_or_set(), or give a "
            "synchronous function."
        )
