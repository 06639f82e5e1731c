"""Rounds that are not just exchanges side by side.

A batch yields one in place of exchanges. Whoever drives the batch does what it is for, within
the time that the call has left, and then goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from ..errors import LostRace
from .exchange import Batch, Exchange

T = TypeVar("T")


class Interlude(list[Exchange]):
    """A round without exchanges."""


class Pause(Interlude):
    """A round in which so many seconds pass, if the call has as many left.

    Attributes:
        is_over: the call has no time left.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_over = False


class Runner(Protocol):
    """A cluster, as far as a visit knows it."""

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch in the thread that calls."""

    def arun(self, batch: Batch[T], timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Run a batch on the event loop that runs, once awaited."""


class Visit(Interlude, Generic[T]):
    """A round in which a batch runs on another cluster.

    Its observers are told of it, and its nodes' health counts what fails.

    Args:
        cluster: the other cluster.
        batch: what is asked of it.
        seconds: for how long at most.

    Attributes:
        result: what the batch has returned; None if it did not run, as the first cluster's
            call was over or had failed.
        began: when, as monotonic().
    """

    def __init__(self, cluster: Runner, batch: Batch[T], seconds: float) -> None:
        super().__init__()
        self._cluster = cluster
        self._batch = batch
        self._seconds = seconds
        self.result: T | None = None
        self.began = 0.0

    def run(self, left: float) -> None:
        """Run the batch in this thread; `left` is how many seconds the call has."""
        self.began = monotonic()
        self.result = self._cluster.run(self._batch, min(self._seconds, left))

    async def arun(self, left: float) -> None:
        """Run the batch on the event loop that runs."""
        self.began = monotonic()
        self.result = await self._cluster.arun(self._batch, min(self._seconds, left))


class Race(list[Exchange]):
    """A round that is over as soon as one node has said what was asked for, or none will.

    What the others would say is not waited for: their exchanges fail.

    Args:
        exchanges: those that race.
        is_good: whether the replies of one are what was asked for.
    """

    def __init__(
        self, exchanges: Iterable[Exchange], is_good: Callable[[Exchange], bool]
    ) -> None:
        super().__init__(exchanges)
        self._is_good = is_good

    def is_decided_by(self, exchange: Exchange) -> bool:
        """Return whether an exchange that has ended is the first with a good answer."""
        return not exchange.has_errors and self._is_good(exchange)

    def lose(self, exchange: Exchange) -> None:
        """End an exchange whose answer is no longer waited for."""
        exchange.fail(LostRace("Another node answered first"))
