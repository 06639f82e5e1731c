"""Changes of nodes' health and of primaries, and the callbacks for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..errors import at_node
from ..wording import get_logger

logger = get_logger("django_rb.health")
topology_logger = get_logger("django_rb.topology")

UP, FAILING, DOWN = "up", "failing", "down"

# The same thing is not logged again for this many seconds.
QUIET_SECONDS = 60.0

# How many things are remembered at most.
MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A node changed its state, or has a complaint in an unchanged state.

    A complaint is an error reply about the node itself, such as LOADING or OOM, or a failure
    that is not the node's fault. Each kind is reported once, and again if it did not occur
    for a minute.

    Attributes:
        host_id, address: the node.
        state, previous: "up", "failing" or "down"; the same for a complaint.
        failures: how many calls had failed in a row.
        error: the failure that led to it; None for a node that is up again.
        seconds: how long the previous state lasted; None for the state at the start.
        alias: the alias of the node's cluster; None for a cluster without one.
    """

    host_id: int
    address: str
    state: str
    previous: str
    failures: int
    error: Exception | None
    seconds: float | None
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class PrimaryChange:
    """A shard has a new primary.

    Attributes:
        host_id: the shard.
        address: the address of the new primary.
        previous: the address of the previous one.
        said_by: the address of the Sentinel that reported it.
        alias: the alias of the cluster; None for a cluster without one.
    """

    host_id: int
    address: str
    previous: str
    said_by: str
    alias: str | None = None


class RecentlyLogged:
    """Keeps log lines from being repeated within a minute."""

    def __init__(self) -> None:
        self._logged_at: dict[Hashable, float] = {}

    def is_new(self, what: Hashable) -> bool:
        """Return whether this was not seen for a minute, or never."""
        now = monotonic()
        last = self._logged_at.get(what)
        if len(self._logged_at) >= MOST_REMEMBERED:
            self._logged_at.clear()
        self._logged_at[what] = now
        return last is None or now - last >= QUIET_SECONDS


class HealthChanges:
    """The changes of a cluster's nodes, and the callbacks for them.

    Callbacks are called at the end of the call that noticed a change, so that a slow or
    failing callback does not delay the nodes' replies.

    Attributes:
        waiting: the changes that callbacks have not been called with yet.
    """

    def __init__(self) -> None:
        self.waiting: deque[Any] = deque()  # HealthChange, PrimaryChange
        self._callbacks: dict[type, list[Callable[[Any], object]]] = {
            HealthChange: [log_change],
            PrimaryChange: [log_primary],
        }
        self._telling = threading.local()

    def add_callback(
        self, callback: Callable[[Any], object], kind: type = HealthChange
    ) -> None:
        """Call `callback(change)` for each change of a kind from now on."""
        self._callbacks[kind].append(callback)

    def tell(self) -> None:
        """Call the callbacks with the waiting changes. Their exceptions are logged."""
        if getattr(self._telling, "is_on", False):
            return
        self._telling.is_on = True
        try:
            self._tell()
        finally:
            self._telling.is_on = False

    def _tell(self) -> None:
        # A callback that uses the cluster calls tell() again, and may add changes.
        while self.waiting:
            try:
                change = self.waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            for callback in self._callbacks[type(change)]:
                try:
                    callback(change)
                except Exception:  # it must not make the caller's own call fail
                    logger.exception("A callback for changes of nodes failed: %r", callback)


def log_primary(change: PrimaryChange) -> None:
    """Log that a shard has a new primary."""
    text = (
        f"Node {change.host_id} is now {change.address}, not {change.previous}, according to "
        f"{change.said_by}"
    )
    topology_logger.warning("%s", at_node(text, change.host_id, change.address, change.alias))


def log_change(change: HealthChange) -> None:
    """Log that a node has changed its state."""
    host_id, error = change.host_id, change.error
    if change.state == change.previous:
        logger.warning("%s reports an error: %s", _named(change), error)
    elif change.state == FAILING:
        logger.warning("%s fails: %s", _named(change), error)
    elif change.state == DOWN:
        logger.error(
            "%s is down after %d failures in a row: %s", _named(change), change.failures, error
        )
    else:
        # The address is an argument, not part of the format: fe80::1%eth0 has a "%".
        logger.log(
            logging.WARNING if change.previous == DOWN else logging.INFO,
            "%s",
            at_node(
                f"{_named(change)} is up again after {change.seconds:.1f} s",
                host_id,
                change.address,
                change.alias,
            ),
        )


def _named(change: HealthChange) -> str:
    return f"Node {change.host_id}" if change.host_id >= 0 else "A node"
