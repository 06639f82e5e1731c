"""Callbacks for forked children, which must not use their parent's connections."""

from __future__ import annotations

import os
from collections.abc import Callable


def register_at_fork(hook: Callable[[], None]) -> None:
    """Call `hook` in every forked child, before any other code runs there."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=hook)
