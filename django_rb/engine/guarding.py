"""Who may be connected to: everybody, unless somebody set a guard.

A test run sets one, to keep to the servers that are for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Is called with a connection of redis-py's before it connects; what it raises is raised by
# whoever wanted the connection, and is no failure of the node's.
guard: Callable[[Any], None] | None = None


def check(connection: Any) -> None:
    """Let the guard look at a connection that is about to connect."""
    if guard is not None:
        guard(connection)
