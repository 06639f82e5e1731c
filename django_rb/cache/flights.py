"""Flights: the computations that are running in this process, and the callers that wait.

Threads and tasks that want the same key find its flight and wait for it, without asking the
node. There is no lock: the table is changed by atomic operations on a dictionary, and if two
callers begin a flight for one key, the lease on the node decides.
"""

from __future__ import annotations

import asyncio
import weakref
from concurrent.futures import Future
from contextlib import suppress
from threading import get_ident
from time import monotonic

from ..engine import Cluster
from ..engine.forks import register_at_fork


class Flight:
    """One computation, or one wait for another process that computes.

    Its outcome is the stored data at its end; None if waiting callers have to look again.

    Attributes:
        began: when it began, as monotonic().
        is_missed: there was no value that could be served in the meantime.
    """

    def __init__(self, *, is_missed: bool) -> None:
        self.is_missed = is_missed
        self.began = monotonic()
        self._outcome: Future[bytes | None] = Future()
        self.belongs_here()

    def belongs_here(self) -> None:
        """Set the calling thread and task as the ones that compute."""
        self._thread, self._task = get_ident(), _current_task()

    def is_of_this_thread(self) -> bool:
        """Return whether the calling thread computes it, and so must not block on it."""
        return self._thread == get_ident()

    def is_of_this_task(self) -> bool:
        """Return whether the calling task computes it, and so must not await it."""
        return self._thread == get_ident() and self._task is _current_task()

    def end(self, data: bytes | None = None, error: Exception | None = None) -> None:
        """Wake the waiting callers. Only the first call counts."""
        if not self._outcome.done():
            if error is None:
                self._outcome.set_result(data)
            else:
                self._outcome.set_exception(error)

    def wait(self, seconds: float) -> bool:
        """Wait for the end in a thread; return whether it came."""
        with suppress(TimeoutError):
            self._outcome.exception(max(0, seconds))
        return self._outcome.done()

    async def await_end(self, seconds: float) -> bool:
        """Wait for the end on an event loop; return whether it came."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def wake(_outcome: object) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(ended.set)

        self._outcome.add_done_callback(wake)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), max(0, seconds))
        return self._outcome.done()

    def outcome(self) -> bytes | None:
        """Return the stored data, None if one has to look again; or raise the error."""
        return self._outcome.result(0)


class Flights:
    """The flights of one cluster's keys in this process.

    Attributes:
        by_key: the running flights.
    """

    def __init__(self) -> None:
        self.by_key: dict[bytes, Flight] = {}
        _tables.add(self)

    def begin(self, key: bytes, *, is_missed: bool) -> Flight | None:
        """Begin the flight of a key; return None if there is one."""
        flight = Flight(is_missed=is_missed)
        return flight if self.by_key.setdefault(key, flight) is flight else None

    def replace(self, key: bytes, old: Flight) -> Flight | None:
        """Begin a flight that replaces another; return None if another caller did so first."""
        if self.by_key.get(key, old) is not old:
            return None
        flight = self.by_key[key] = Flight(is_missed=True)
        return flight

    def end(
        self,
        key: bytes,
        flight: Flight,
        data: bytes | None = None,
        error: Exception | None = None,
    ) -> None:
        """End a flight and remove it."""
        if self.by_key.get(key) is flight:
            self.by_key.pop(key, None)
        flight.end(data, error)

    def clear(self) -> None:
        """Remove the flights of threads that no longer exist."""
        self.by_key.clear()


_tables: weakref.WeakSet[Flights] = weakref.WeakSet()
_of_clusters: weakref.WeakKeyDictionary[Cluster, Flights] = weakref.WeakKeyDictionary()


def flights_of(cluster: Cluster) -> Flights:
    """Return the flights of a cluster, which all of its caches share."""
    flights = _of_clusters.get(cluster)
    return _of_clusters.setdefault(cluster, Flights()) if flights is None else flights


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return None


def _start_over_after_fork() -> None:
    for table in list(_tables):
        table.clear()


register_at_fork(_start_over_after_fork)
