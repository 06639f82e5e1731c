"""When nodes or Sentinels are asked about the shards, and by which caller."""

from __future__ import annotations

import random
import threading
from time import monotonic

# Seconds between two looks: at least, after an unexpected reply or failure; and normally.
LEAST_SECONDS, PERIOD = 1.0, 60.0

# While nothing changes, the next look comes after this share of the time since trouble began.
TROUBLE_PART = 1 / 30

# Calls wait for nodes that cannot answer yet, but only during this many seconds of trouble.
_HOPE_SECONDS = 10.0

# A look that has not ended after this many seconds counts as interrupted.
_LONGEST_LOOK = 15.0

_NEVER = float("-inf")


class LookTimes:
    """Looks are taken by one caller at a time, at a bounded rate.

    Times are those of monotonic().

    Args:
        least: seconds between two looks, at least; LEAST_SECONDS by default.
        period: seconds between two looks where all is well; PERIOD by default.

    Attributes:
        look_at: when it is time for the next look.
    """

    def __init__(self, least: float | None = None, period: float | None = None) -> None:
        self._given = least, period
        self.look_at = self._not_before = _NEVER
        self._trouble_since: float | None = None
        self._refused_since = self._refused_at = _NEVER
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: forget a look that is running in the parent."""
        self._changing = threading.RLock()  # a signal handler may come at any time
        self._looking_since = _NEVER

    @property
    def _least(self) -> float:
        return self._given[0] or LEAST_SECONDS

    @property
    def _period(self) -> float:
        return self._given[1] or PERIOD

    @property
    def is_due(self) -> bool:
        """Whether it is time for a look; the next caller takes it."""
        return monotonic() >= self.look_at

    @property
    def is_too_early(self) -> bool:
        """Whether the last look was too recent for another one."""
        return monotonic() < self._not_before

    @property
    def is_wanted(self) -> bool:
        """Whether a look was requested that has not been taken successfully yet."""
        return self._trouble_since is not None

    def want(self) -> None:
        """Request a look soon."""
        now = monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        self.look_at = min(self.look_at, max(now, self._not_before))

    def begin(self) -> bool:
        """Return whether to look now: not if another caller does, or has just done so.

        If a caller is interrupted before it calls `end`, its look counts as failed after a
        while.
        """
        with self._changing:
            now = monotonic()
            if now - self._looking_since < _LONGEST_LOOK or now < self._not_before:
                return False
            self._looking_since = now
            # Requests from now on are for another look.
            self.look_at = now + max(self._period, _LONGEST_LOOK)
            return True

    def end(self) -> None:
        """End a look that has begun."""
        self._looking_since = _NEVER

    def plan(self, has_changed: bool | None, *, is_cut_short: bool, is_calm: bool) -> None:
        """Plan the next look.

        Args:
            has_changed: whether an answer was new; None if there was no answer.
            is_cut_short: an interrupt or a deadline ended it: the next caller tries.
            is_calm: there are no unexpected replies or failures.
        """
        now = monotonic()
        if is_cut_short:
            self.look_at = now
            return
        is_wanted_again = self.look_at < now  # while this one was under way
        was_routine = self._trouble_since is None and has_changed is False
        pause = self._least
        if has_changed or self._trouble_since is None:
            self._trouble_since = None
        else:
            lasted = now - self._trouble_since
            pause = min(self._period, max(self._least, lasted * TROUBLE_PART))
        # After a routine look, a requested one need not wait.
        self._not_before = now if was_routine else now + pause * random.uniform(1, 1.2)
        self.look_at = now + self._period * random.uniform(0.9, 1)
        if is_wanted_again or has_changed is None:
            self.want()
        elif is_calm:
            self._trouble_since = None

    def may_wait(self) -> bool:
        """Return whether it still makes sense to wait for nodes that cannot answer yet.

        It does not if they have been replying so for long.
        """
        now = monotonic()
        if now - self._refused_at > _HOPE_SECONDS:
            self._refused_since = now
        self._refused_at = now
        return now - self._refused_since < _HOPE_SECONDS
