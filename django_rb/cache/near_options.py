"""Reading OPTIONS["NEAR"] of a cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from django.core.exceptions import ImproperlyConfigured

from ..engine.near.copies import Copies
from ..engine.protocol.exchange import Batch
from ..engine.wording import did_you_mean, number_of
from ..times import to_seconds

NEAR_OPTIONS = ("KEEP_MISSES", "MAX_AGE", "MAX_BYTES", "PREFIXES")
DEFAULT_MAX_BYTES = 32 * 2**20
DEFAULT_MAX_AGE = 10.0  # seconds


class NearOptions(NamedTuple):
    """The settings of near copies.

    Attributes:
        max_bytes: bytes of memory for all of them in a process.
        max_age: seconds for which a copy is valid at most.
        prefixes: copies are kept of keys with one of these prefixes; None for all keys.
        keeps_misses: whether misses are kept as well.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    max_age: float = DEFAULT_MAX_AGE
    prefixes: tuple[str, ...] | None = None
    keeps_misses: bool = False


class Near(Protocol):
    """What a cache keeps near; see `django_rb.cache.near`."""

    copies: Copies

    def get_or_begin(
        self, key: object, default: Any, version: int | None
    ) -> tuple[Any, Batch[Any] | None]:
        """Return the value of a key, or `default`, if it is near; if not, the batch for it."""


def near_options_of(options: Mapping[str, Any]) -> NearOptions | None:
    """Return the settings of near copies in OPTIONS of a cache; None if there are none.

    Raises:
        ImproperlyConfigured: with the setting, the value and what to do.
    """
    near = options.get("NEAR")
    if near is None:
        return None
    if not isinstance(near, Mapping):
        raise _mistake("", near, 'Give a dictionary, such as {"MAX_AGE": 10}.')
    for name in near:
        if name not in NEAR_OPTIONS:
            raise ImproperlyConfigured(
                f"OPTIONS['NEAR'][{name!r}] of a cache is unknown. "
                f"{did_you_mean(name, NEAR_OPTIONS)}"
            )
    keeps_misses = near.get("KEEP_MISSES", False)
    if not isinstance(keeps_misses, bool):
        raise _mistake("KEEP_MISSES", keeps_misses, "Give True or False.")
    return NearOptions(
        _max_bytes(near.get("MAX_BYTES", DEFAULT_MAX_BYTES)),
        _max_age(near.get("MAX_AGE", DEFAULT_MAX_AGE)),
        _prefixes(near.get("PREFIXES")),
        keeps_misses,
    )


def _max_bytes(value: object) -> int:
    size = number_of(value)
    if type(size) is not int or size <= 0:
        raise _mistake("MAX_BYTES", value, "Give a number of bytes, such as 32 * 2**20.")
    return size


def _max_age(value: object) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        seconds = float(to_seconds(number_of(value), "MAX_AGE"))
        if not 0 < seconds < math.inf:
            raise ValueError
    except (TypeError, ValueError):
        raise _mistake(
            "MAX_AGE", value, "Give a number of seconds above 0, or a timedelta."
        ) from None
    return seconds


def _prefixes(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple | set | frozenset)
        or not value
        or not all(isinstance(prefix, str) and prefix for prefix in value)
    ):
        raise _mistake(
            "PREFIXES",
            value,
            'Give a list of prefixes of keys, such as ["menu:"]. Leave it out for all keys.',
        )
    return tuple(sorted(value))


def _mistake(name: str, value: object, way_out: str) -> ImproperlyConfigured:
    of = f"[{name!r}]" if name else ""
    return ImproperlyConfigured(f"OPTIONS['NEAR']{of} of a cache is {value!r}. {way_out}")
