"""What OPTIONS and TIMEOUT of a cache may say. Neither the engine nor redis-py is imported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..times import to_milliseconds, to_seconds
from .signing import SIGNING_OPTIONS, Secret

OPTIONS = (
    "COMPRESSOR",
    "COMPRESS_MIN_BYTES",
    "CULL_FREQUENCY",  # Django's own; the server evicts by its maxmemory-policy
    "DEADLINE",
    "MAX_ENTRIES",  # likewise
    "ON_NODE_ERROR",
    "REVERSE_KEY_FUNCTION",
    "SERIALIZER",
    *SIGNING_OPTIONS,
)


def without_secrets(options: Any) -> Any:
    """Return OPTIONS, secret values and those of misspelt options as Secret objects."""
    if not isinstance(options, Mapping):
        return options
    shown = frozenset(OPTIONS).difference(SIGNING_OPTIONS)
    return {name: value if name in shown else Secret(value) for name, value in options.items()}


def deadline_of(options: Mapping[str, Any]) -> Any:
    """Return DEADLINE, a timedelta in seconds and all else as it is."""
    deadline = options.get("DEADLINE")
    return deadline.total_seconds() if isinstance(deadline, timedelta) else deadline


def seconds_of(timeout: Any) -> int | float | None:
    """Return TIMEOUT as a number of seconds; None for keys that never expire.

    Raises:
        ImproperlyConfigured: it is no time.
    """
    if timeout is None:
        return None
    try:
        # Django reads text as well, for settings that come from the environment.
        if isinstance(timeout, str):
            number: int | float = float(timeout) if "." in timeout else int(timeout)
        else:
            number = to_seconds(timeout, "TIMEOUT")
        to_milliseconds(number, "TIMEOUT")
    except (TypeError, ValueError):
        raise ImproperlyConfigured(
            f"TIMEOUT of a cache is {timeout!r}. Give a number of seconds or a timedelta. "
            "None is for keys that never expire."
        ) from None
    return number
