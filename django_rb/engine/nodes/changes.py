"""What changes in a cluster: the health of its nodes, and primaries; and who is told."""

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

# Seconds for which what was logged is not logged again.
QUIET_SECONDS = 60.0

# How many different things are remembered at most.
MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A node went from one state to another, or stays in its state and has a complaint.

    A complaint is an error reply that tells of the node, such as LOADING or OOM, or a
    failure for which the node is not to blame. It is told once per kind, and again when
    it was not heard of for a minute.

    Attributes:
        host_id, address: the node.
        state, previous: "up", "failing" or "down"; the same for a complaint.
        failures: how many calls had failed in a row.
        error: the failure that led to it; None for a node that is up again.
        seconds: how long the previous state lasted; None for the state at the start.
        alias: that of the node's cluster; None for a cluster that no setting names.
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
    """A shard has another primary.

    Attributes:
        host_id: the shard.
        address: where its primary is by now.
        previous: where it was before.
        said_by: who says so: the address of a Sentinel.
        alias: that of the cluster; None for a cluster that no setting names.
    """

    host_id: int
    address: str
    previous: str
    said_by: str
    alias: str | None = None


class RecentlyLogged:
    """Tells what is new from what was logged a moment ago."""

    def __init__(self) -> None:
        self._logged_at: dict[Hashable, float] = {}

    def is_new(self, what: Hashable) -> bool:
        """Return whether this did not come up for a minute, or never."""
        now = monotonic()
        last = self._logged_at.get(what)
        if len(self._logged_at) >= MOST_REMEMBERED:
            self._logged_at.clear()
        self._logged_at[what] = now
        return last is None or now - last >= QUIET_SECONDS


class HealthChanges:
    """The changes of a cluster's nodes, from where they happen to those who want to know.

    They are told when the call that saw them is over, so that nobody's slowness or
    failure gets between the nodes.

    Attributes:
        waiting: what was not told yet.
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
        """Let `callback(change)` be called with each change of a kind from now on."""
        self._callbacks[kind].append(callback)

    def tell(self) -> None:
        """Tell what is waiting. A callback that raises is logged."""
        if getattr(self._telling, "is_on", False):
            return
        self._telling.is_on = True
        try:
            self._tell()
        finally:
            self._telling.is_on = False

    def _tell(self) -> None:
        # A callback that uses the cluster comes back to tell(), and adds to what is waiting.
        while self.waiting:
            try:
                change = self.waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            for callback in self._callbacks[type(change)]:
                try:
                    callback(change)
                except Exception:  # a caller's call must not fail for it
                    logger.exception("A callback failed that is told of changes: %r", callback)


def log_primary(change: PrimaryChange) -> None:
    """Write one line about a shard that has another primary."""
    text = (
        f"Node {change.host_id} is {change.address} by now and no longer {change.previous}, "
        f"says {change.said_by}"
    )
    topology_logger.warning("%s", at_node(text, change.host_id, change.address, change.alias))


def log_change(change: HealthChange) -> None:
    """Write one line about a node's change of state."""
    host_id, error = change.host_id, change.error
    if change.state == change.previous:
        logger.warning("%s complains: %s", _named(change), error)
    elif change.state == FAILING:
        logger.warning("%s fails: %s", _named(change), error)
    elif change.state == DOWN:
        logger.error(
            "%s is down after %d failures in a row: %s", _named(change), change.failures, error
        )
    else:
        # The address is no part of the format: fe80::1%eth0 is one.
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
