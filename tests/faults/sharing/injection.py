"""Do something at each moment in which Python would run a signal handler.

CPython looks for signals when a function begins, after a function written in C was called,
and when a loop begins anew. The first two are the events of sys.setprofile(); what a
profile function raises comes out where a handler's error would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Where Python itself does not survive an error: it is lost ("Exception ignored in …"), or a
# lock stays locked.
_FRAGILE_MODULES = {"_weakrefset", "threading", "weakref"}
_FRAGILE_FUNCTIONS = {"__del__"}


class Moment:
    """Runs `action` at one moment of what is done in its block, counted from 1.

    Args:
        within: the beginning of the names of the modules whose moments count.

    Attributes:
        seen: how many moments there were up to then.
        where: which moment it was; empty if the block ended before its turn.
        is_lost: what the action raised went nowhere, as when a generator is collected.
    """

    def __init__(
        self, number: int, action: Callable[[], object], within: tuple[str, ...] = ("",)
    ) -> None:
        self.number = number
        self.action = action
        self.seen = 0
        self.where = ""
        self.is_lost = False
        self._within = within
        # Kept, for Python calls it once more where it raised in what the collector runs.
        self._kept = self._profile

    def __enter__(self) -> Moment:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lose
        sys.setprofile(self._kept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)
        sys.unraisablehook = self._hook

    def _lose(self, lost: Any) -> None:
        if self.where:
            self.is_lost = True
        else:
            self._hook(lost)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if self.where or event not in {"call", "c_return"} or frame.f_code in _OWN:
            return
        if not str(frame.f_globals.get("__name__")).startswith(self._within):
            return
        self.seen += 1
        if self.seen >= self.number and not _is_fragile(frame):
            code = frame.f_code
            self.where = f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno}), {event}"
            self.action()


_OWN = {Moment.__exit__.__code__, Moment.__enter__.__code__}


def _is_fragile(frame: FrameType | None) -> bool:
    while frame is not None:
        if (
            frame.f_globals.get("__name__") in _FRAGILE_MODULES
            or frame.f_code.co_name in _FRAGILE_FUNCTIONS
        ):
            return True
        frame = frame.f_back
    return False


def every_moment(
    action: Callable[[], object], step: int = 1, within: tuple[str, ...] = ("",)
) -> Iterator[Moment]:
    """Yield moments to be entered, until what is done inside them is over before its turn."""
    number = 1
    while True:
        moment = Moment(number, action, within)
        yield moment
        if not moment.where:
            return
        number = moment.seen + step
