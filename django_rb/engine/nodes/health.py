"""When a node counts as down, and when it is tried again.

A node that failed several times in a row is down: calls to it fail at once, without any I/O.
After a pause one caller may probe it. If that succeeds, the node is up again; if not, a longer
pause begins. This is the circuit breaker of Michael Nygard's *Release It!*, with the pauses of
exponential backoff and "equal jitter"
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that processes
do not all probe a node at the same time.

Only failures of a connection count: refused, reset, no answer in time, a failed handshake,
bytes that are not RESP. An error reply is no failure, as the node does answer.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import redis
from redis.sentinel import MasterNotFoundError

from ..errors import BadHostSetup, NodeDown, at_node
from ..wording import about_unknown, masked, number_of
from .changes import DOWN, FAILING, UP, HealthChange, HealthChanges, RecentlyLogged

DEFAULT_HEALTH = {"FAILURES": 3, "PAUSE": 1.0, "MAX_PAUSE": 30.0}

_PATH = ("HEALTH",)


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """When nodes count as down; HEALTH in the settings.

    Attributes:
        failures: this many in a row mark a node as down; None for never.
        pause: seconds of the first pause, before jitter; it doubles from probe to probe.
        max_pause: the longest pause, in seconds.
    """

    failures: int | None
    pause: float
    max_pause: float


def check_health(health: object) -> HealthOptions:
    """Return the options in HEALTH, ``{"FAILURES": 3, "PAUSE": 1.0, "MAX_PAUSE": 30.0}``.

    Missing keys have these defaults; with None, no node ever counts as down.

    Raises:
        BadHostSetup: with the key, its value and what to do.
    """
    if health is None:
        return HealthOptions(None, 0.0, 0.0)
    if not isinstance(health, Mapping):
        raise BadHostSetup(
            f"{masked(health)} is not a dictionary such as {DEFAULT_HEALTH}. Use None if no "
            "node should count as down.",
            _PATH,
        )
    if unknown := [name for name in health if name not in DEFAULT_HEALTH]:
        raise BadHostSetup(
            about_unknown("key", unknown, list(DEFAULT_HEALTH)),
            (*_PATH, str(unknown[0])) if len(unknown) == 1 else _PATH,
        )
    options: dict[str, Any] = {**DEFAULT_HEALTH}
    options.update((name, number_of(value)) for name, value in health.items())
    failures = options["FAILURES"]
    if type(failures) is not int or failures < 1:
        raise BadHostSetup(
            f"{masked(failures)} is not a number of failures, 1 or more. Use HEALTH = None if "
            "no node should count as down.",
            (*_PATH, "FAILURES"),
        )
    for name in ("PAUSE", "MAX_PAUSE"):
        seconds = options[name]
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not 0 < seconds < 1e9
        ):
            raise BadHostSetup(
                f"{masked(seconds)} is not a time in seconds above 0.", (*_PATH, name)
            )
    if "MAX_PAUSE" not in health:
        options["MAX_PAUSE"] = max(options["MAX_PAUSE"], options["PAUSE"])
    if options["MAX_PAUSE"] < options["PAUSE"]:
        raise BadHostSetup(
            f"{options['MAX_PAUSE']} s is shorter than PAUSE, which is {options['PAUSE']} s. "
            "Give it at least the same value.",
            (*_PATH, "MAX_PAUSE"),
        )
    return HealthOptions(failures, options["PAUSE"], options["MAX_PAUSE"])


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The health of a node, as this process sees it.

    Attributes:
        state: "up"; "failing": its last calls failed; "down": it is not asked for a while.
        failures: how many calls failed in a row.
        since: when the state began, in Unix seconds; None if it never changed.
        error: the last failure, None if there is none.
        retry_in: seconds until it is probed, for a node that is down.
    """

    state: str
    failures: int = 0
    since: float | None = None
    error: str | None = None
    retry_in: float | None = None


class Health:
    """The circuit breaker of one node, in this process.

    Its lock is held for a few assignments only, never during I/O. It is reentrant, as a signal
    handler may use the node while the interrupted code holds the lock.

    Args:
        host_id, address: the node.
        options: when it counts as down.
        probe_seconds: how long a probe may take before another caller may try; None
            for no limit.
        changes: collects the changes of its state.
        alias: the alias of its cluster.

    Attributes:
        is_well: the node is up and has no failures. Then calls need neither `refusal()`
            before nor `answered()` after them.
    """

    def __init__(
        self,
        host_id: int,
        address: str,
        options: HealthOptions,
        probe_seconds: float | None,
        changes: HealthChanges,
        alias: str | None = None,
    ) -> None:
        self.is_well = True
        self._host_id = host_id
        self._address = address
        self._alias = alias
        self._options = options
        self._probe_seconds = probe_seconds or options.max_pause
        self._changes = changes
        self._state = UP
        self._began: float | None = None
        self._failures = 0
        self._error: str | None = None
        self._probes = 0  # how many failed since the node is down
        self._is_probed = False
        self._retry_at = 0.0
        self._barred: str | None = None
        self._recently_logged = RecentlyLogged()
        self.start_over()

    def bar(self, why: str) -> None:
        """Mark the node as unusable: its address is unknown, or another node has replaced it.

        Args:
            why: the reason, for errors.
        """
        with self._lock:
            self.is_well = False
            self._state, self._error, self._barred = DOWN, why, why

    def succeed(self, before: Health) -> None:
        """Mark the node as up; it replaces the node that `before` belongs to."""
        with self._lock:
            if before._barred is None:
                self._state, self._began = before._state, before._began
            self._go_to(UP, None)

    def rename(self, host_id: int) -> None:
        """Use another host id in errors and changes from now on."""
        self._host_id = host_id

    @property
    def is_down(self) -> bool:
        """Whether the node counts as down."""
        return self._state == DOWN

    @property
    def may_be_asked(self) -> bool:
        """Whether the node is up, or it is time to probe it."""
        return self._state != DOWN or monotonic() >= self._retry_at

    def start_over(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = threading.RLock()

    def refusal(self) -> redis.ConnectionError | None:
        """Return the error for a node that must not be asked now, else None.

        With None, the caller may ask the node. If the node is down, that is the probe: for a
        while no other caller gets None, and this one has to call `answered` or `failed`.
        """
        with self._lock:
            if self._barred is not None:
                return MasterNotFoundError(self._named(self._barred))
            if self._state != DOWN:
                return None
            now = monotonic()
            if now >= self._retry_at:
                self._is_probed = True
                self._retry_at = now + self._probe_seconds
                return None
            if self._is_probed:
                further = "it is being probed"
            else:
                further = f"next try in {self._retry_at - now:.1f} s"
            text = (
                f"Node is down, {further}. It failed {self._failures} times, last with: "
                f"{self._error}"
            )
            return NodeDown(self._named(text))

    def failed(self, error: Exception) -> None:
        """Count a connection that failed."""
        with self._lock:
            if self._barred is not None or (self._state == DOWN and not self._is_probed):
                return  # the call began before the node was down
            self.is_well = False
            self._failures += 1
            self._error = str(error).removesuffix(self._named(""))
            limit = self._options.failures
            if limit is None or self._failures < limit:
                self._go_to(FAILING, error)
            else:
                self._probes = self._probes + 1 if self._state == DOWN else 0
                self._rest()
                self._go_to(DOWN, error)

    def complained(self, error: Exception) -> None:
        """Report an error reply about the node, or a failure that is not its fault.

        It does not change the state.
        """
        if self._recently_logged.is_new(type(error).__name__):
            with self._lock:
                self._announce(self._state, error)

    def answered(self, *, is_ready: bool = True) -> None:
        """Reset the failures after a reply; the node is up.

        Args:
            is_ready: False if the node cannot run commands now, for example because it is
                loading its data. Then failures stay, and a probe counts as failed.
        """
        with self._lock:
            if self._barred is not None:
                return
            if is_ready:
                self._failures, self._error, self._is_probed = 0, None, False
                self._go_to(UP, None)
                self.is_well = True
            elif self._state == DOWN and self._is_probed:
                self._probes += 1
                self._rest()

    def get(self) -> NodeHealth:
        """Return the current health."""
        with self._lock:
            is_down = self._state == DOWN
            return NodeHealth(
                self._state,
                self._failures,
                None if self._began is None else time() - (monotonic() - self._began),
                self._error,
                max(0.0, self._retry_at - monotonic())
                if is_down and self._barred is None
                else None,
            )

    def _rest(self) -> None:
        """Begin a pause, during which the node is not asked."""
        options = self._options
        # 2.0**1000 does not overflow, and is longer than any MAX_PAUSE.
        pause = min(options.max_pause, options.pause * 2.0 ** min(self._probes, 1000))
        self._is_probed = False
        self._retry_at = monotonic() + pause * random.uniform(0.5, 1)

    def _go_to(self, state: str, error: Exception | None) -> None:
        if state != self._state:
            self._announce(state, error)
            self._state, self._began = state, monotonic()

    def _announce(self, state: str, error: Exception | None) -> None:
        seconds = None if self._began is None else monotonic() - self._began
        self._changes.waiting.append(
            HealthChange(
                self._host_id,
                self._address,
                state,
                self._state,
                self._failures,
                error,
                seconds,
                self._alias,
            )
        )

    def _named(self, text: str) -> str:
        return at_node(text, self._host_id, self._address, self._alias)
