"""What a forked child does before anything else: it must not use its parent's connections."""

from __future__ import annotations

import os
from collections.abc import Callable


def register_at_fork(hook: Callable[[], None]) -> None:
    """Call `hook` in every forked child, before anything else is done there."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=hook)
