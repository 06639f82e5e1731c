"""The exception for refused requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from django.core.exceptions import PermissionDenied

from .limits import Usage


class Ratelimited(PermissionDenied):
    """A limit refuses the request.

    Attributes:
        usages: the `Usage` of each of the request's limits, in the order of the decorators.
        policies: the names of the limits that refuse it.
        unavailable: it is refused because a limit's node failed, not because it is over a
            limit.
        retry_after: whole seconds after which it may be tried again; None if unknown or never.
    """

    def __init__(
        self, *args: object, usages: Sequence[Usage] = (), policies: Sequence[str] = ()
    ) -> None:
        super().__init__(*args)
        self.usages = list(usages)
        self.policies = list(policies)

    def __str__(self) -> str:
        return super().__str__() or self._describe()

    def _describe(self) -> str:
        named = f" ({', '.join(self.policies)})" if self.policies else ""
        text = f"This request is over a limit{named}."
        if self.unavailable:
            text = "The limits of this request cannot be checked at the moment."
        seconds = self.retry_after
        return text if seconds is None else f"{text} {say_when(seconds)}"

    @property
    def unavailable(self) -> bool:
        """Whether a node failed and none of the other limits refuses."""
        refusing = [usage for usage in self.usages if not usage.allowed]
        return bool(refusing) and all(usage.error for usage in refusing)

    @property
    def status_code(self) -> int:
        """The status of the response: 429, or 503 if a node failed."""
        return 503 if self.unavailable else 429

    @property
    def retry_after(self) -> int | None:
        """Whole seconds after which the request may be tried again, rounded up."""
        waits = [usage.retry_after for usage in self.usages if not usage.allowed]
        longest = max(waits, default=math.inf)
        if math.isinf(longest):
            return None
        return max(1, math.ceil(longest))


def say_when(seconds: int) -> str:
    """Return the sentence that says when to try again."""
    return f"Try again in {seconds} {'second' if seconds == 1 else 'seconds'}."
