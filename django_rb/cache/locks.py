"""redis-py's locks, with the cache's types for times."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..engine.clients import locks
from ..times import to_seconds


class _Extends:
    """Converts times to numbers, before redis-py multiplies them."""

    def extend(self, additional_time: float | timedelta, replace_ttl: bool = False) -> Any:
        """Add to the time after which the lock ends by itself, in seconds or a timedelta."""
        seconds = to_seconds(additional_time, "additional_time")
        return super().extend(seconds, replace_ttl)  # type: ignore[misc]


class Lock(_Extends, locks.Lock):
    """A lock for threads."""


class AioLock(_Extends, locks.AioLock):
    """A lock for event loops."""
