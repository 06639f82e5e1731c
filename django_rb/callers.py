"""Finds the line of the site's own code that made a call."""

from __future__ import annotations

import asyncio
import inspect
import os
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_OWN = str(Path(__file__).parent) + os.sep

# The folders of Python, of installed packages, and of the programs that serve a site.
_LIBRARIES = (
    _OWN,
    *(
        sysconfig.get_path(name) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    ),
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Caller(NamedTuple):
    """A line of code that called something.

    Attributes:
        path: the file.
        line: the line number.
        function: the function that contains it.
    """

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} in {self.function}"


def find_caller() -> Caller | None:
    """Return the innermost line of the site's own code on the stack.

    If there is none, return the innermost line outside of django-rb, for example in Django's
    sessions; None if a task starts with a call of django-rb:
    ``asyncio.gather(cache.aget("a"))``.
    """
    frame = inspect.currentframe()
    bottom = _first_frame_of_task()
    nearest: FrameType | None = None
    while frame is not None:
        path = frame.f_code.co_filename
        if not _is_library(path):
            return _to_caller(frame)
        if nearest is None and not path.startswith(_OWN):
            nearest = frame
        if frame is bottom:  # its caller is the event loop
            break
        frame = frame.f_back
    return None if nearest is None else _to_caller(nearest)


def _first_frame_of_task() -> FrameType | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop is running in this thread
        return None
    frame: FrameType | None = getattr(task and task.get_coro(), "cr_frame", None)
    return frame


def _to_caller(frame: FrameType) -> Caller:
    return Caller(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


@lru_cache(maxsize=4096)
def _is_library(path: str) -> bool:
    return path.startswith(("<", *_LIBRARIES)) or any(name in path for name in _PACKAGES)
