"""A check of every connection before it is opened; none by default.

A test run sets one, so that tests connect only to servers meant for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Called with a redis-py connection before it connects. Its exceptions are raised to the
# caller, and do not count as failures of the node.
guard: Callable[[Any], None] | None = None


def check(connection: Any) -> None:
    """Call the guard, if one is set, with a connection that is about to connect."""
    if guard is not None:
        guard(connection)
