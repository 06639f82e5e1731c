"""Rounds that are not just parallel exchanges: pauses, visits and races.

A batch yields one in place of exchanges. The transport does what it stands for, within the time
that the call has left, and then continues the batch.
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
    """A round that waits for some seconds, if the call has as many left.

    Attributes:
        is_over: the call has no time left.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_over = False


class Runner(Protocol):
    """The part of a cluster that a visit uses."""

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch in the calling thread."""

    def arun(self, batch: Batch[T], timeout: float | None = None) -> Coroutine[Any, Any, T]:
        """Return a coroutine that runs a batch on the running event loop."""


class Visit(Interlude, Generic[T]):
    """A round in which a batch runs on another cluster.

    The other cluster's observers are called, and failures count for its nodes' health.

    Args:
        cluster: the other cluster.
        batch: the batch to run there.
        seconds: how long it may take.

    Attributes:
        result: the result of the batch; None if it did not run, because the first cluster's
            call was over or had failed.
        began: when it began, as monotonic().
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
        """Run the batch on the running event loop; `left` as above."""
        self.began = monotonic()
        self.result = await self._cluster.arun(self._batch, min(self._seconds, left))


class Race(list[Exchange]):
    """A round that ends with the first good answer, or when all exchanges have ended.

    Other answers are not awaited: their exchanges fail with LostRace.

    Args:
        exchanges: the exchanges.
        is_good: whether the replies of an exchange are a good answer.
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
        """End an exchange whose answer is no longer awaited."""
        exchange.fail(LostRace("Another node answered first"))
