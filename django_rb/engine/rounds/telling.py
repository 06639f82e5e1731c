"""Calling a cluster's observers for the batches that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol, TypeVar

import redis

from ..errors import at_node
from ..protocol.exchange import Batch, Exchange
from ..protocol.interludes import Interlude
from .again import asks_for_more, look_again, with_second_looks
from .observing import BatchEvent, ExchangeEvent, Observed, Observer, begin_use, here, tell
from .outcomes import error_in
from .port import Port, Rounds

T = TypeVar("T")

_TOLD = ("batch_began", "round_began", "exchange_ended", "batch_ended", "call_ended")

_ABOUT_EXCHANGES = ("exchange_ended", "call_ended")


class ObservedPort(Observed, Port, Protocol):
    """The part of a cluster that this module uses."""


def observed(cluster: ObservedPort, batch: Batch[T]) -> Batch[T]:
    """Return a batch with second looks that calls the cluster's observers."""
    observers = begin_use(cluster)
    if not observers:
        return with_second_looks(cluster, batch)
    event = BatchEvent(operation=batch.__name__.lstrip("_"))  # type: ignore[attr-defined]
    return _told(cluster, observers, event, batch)


class _Attempt(ExchangeEvent):
    """The event of an exchange that is sent once, and the `Watcher` that fills it in."""

    __slots__ = ("has_ended",)

    def __init__(
        self, batch: BatchEvent, exchange: Exchange, began: float, redirects: int
    ) -> None:
        self.batch = batch
        self.host_id = exchange.host_id
        self.bytes_out = self.bytes_in = 0
        self.began = began
        self.seconds = 0.0
        self.redirects = redirects
        self.error = None
        self.round = batch.rounds
        self._exchange = exchange
        self.has_ended = False
        exchange.watcher = self
        exchange.may_join = False  # joined with others, it would be sent as another exchange

    def connected(self) -> None:
        self.began = perf_counter()

    def sent(self, size: int) -> None:
        self.bytes_out += size

    def received(self, size: int) -> None:
        self.bytes_in += size

    def ended(self) -> None:
        self.seconds = perf_counter() - self.began
        self.has_ended = True

    def complete(self, cluster: ObservedPort, cut_off: BaseException | None) -> bool:
        """Add what is known after the round; return whether the exchange has failed."""
        exchange = self._exchange
        exchange.watcher = None
        self.count = exchange.count
        self.address = cluster.get_address(self.host_id)
        if not self.has_ended:
            self.ended()
            self.error = cut_off
        if exchange.is_stale:
            text = "The node had closed the connection"
            text = at_node(text, self.host_id, self.address, cluster.alias)
            self.error = redis.ConnectionError(text)
        if exchange.has_errors and (error := error_in(exchange)) is not None:
            self.error = error
            return True
        return False

    def find_error(self) -> BaseException | None:
        """Return the error of the exchange that no second look has resolved so far."""
        return error_in(self._exchange)


@lru_cache(maxsize=256)
def _heard_by(*kinds: Any) -> frozenset[str]:
    """Return the names of the methods that some classes of observers override."""
    return frozenset(
        name
        for name in _TOLD
        for kind in kinds
        if getattr(kind, name, None) is not getattr(Observer, name)
    )


def _told(  # noqa: PLR0912, PLR0915 (each function call would slow down each get)
    cluster: ObservedPort, observers: Sequence[Observer], event: BatchEvent, batch: Batch[T]
) -> Batch[T]:
    """Return a batch with second looks that calls observers.

    Args:
        event: the event of the batch, which its `tell_found` calls update.
    """
    heard = _heard_by(*map(type, observers))
    attempts: list[_Attempt] = []
    failed: list[_Attempt] = []
    again: Rounds | None = None  # the second looks after the last round of the batch
    if "batch_began" in heard:
        tell(observers, "batch_began", event)
    try:
        while True:
            following = None if again is None else next(again, None)
            redirects = 1
            if following is None:
                redirects = 0
                here.batch, outer = event, getattr(here, "batch", None)
                try:
                    following = next(batch)
                finally:
                    here.batch = outer
            is_round = not isinstance(following, Interlude)
            for exchange in following:
                if exchange.is_question:
                    is_round = False
                elif not redirects:
                    event.commands += exchange.count
            if is_round:
                event.rounds += 1
                if "round_began" in heard:
                    tell(observers, "round_began", event)
            now = perf_counter()
            latest: list[_Attempt] = []
            for exchange in following:  # in a comprehension, it would take longer
                latest.append(_Attempt(event, exchange, now, redirects))  # noqa: PERF401
            cut_off: BaseException | None = None
            try:
                yield following
            except GeneratorExit as closed:
                # The transport closes the batch because of the error in the context.
                event.error = cut_off = closed.__context__ or closed
                raise
            finally:
                for attempt in latest:
                    if attempt.complete(cluster, cut_off):
                        failed.append(attempt)
                    if "exchange_ended" in heard:
                        tell(observers, "exchange_ended", attempt)
                attempts += latest
            if not redirects:
                again = look_again(cluster, following) if asks_for_more(following) else None
    except StopIteration as end:
        if failed:
            event.error = next(filter(None, [attempt.find_error() for attempt in failed]), None)
        result: T = end.value
        return result
    except BaseException as error:
        event.error = event.error or error
        raise
    finally:
        if again is not None:
            again.close()
        batch.close()
        event.seconds = perf_counter() - event.began
        if "batch_ended" in heard:
            tell(observers, "batch_ended", event)
        if "call_ended" in heard:
            tell(observers, "call_ended", event, attempts)
