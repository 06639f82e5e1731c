"""Calling a cluster's observers for the batches that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

import redis

from ..errors import at_node
from ..protocol.exchange import Batch, Exchange
from ..protocol.interludes import Interlude
from .again import asks_for_more, look_again, with_second_looks
from .observing import BatchEvent, ExchangeEvent, Observed, Observer, begin_use, go_on, tell
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
    event = BatchEvent(operation=cast(Any, batch).__name__.lstrip("_"))
    return _Telling(cluster, observers, event).told(batch)


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


@lru_cache(maxsize=256)
def _heard_by(*kinds: Any) -> frozenset[str]:
    """Return the names of the methods that some classes of observers override."""
    return frozenset(
        name
        for name in _TOLD
        for kind in kinds
        if getattr(kind, name, None) is not getattr(Observer, name)
    )


class _Telling:
    """Calls some observers for one batch."""

    def __init__(
        self, cluster: ObservedPort, observers: Sequence[Observer], event: BatchEvent
    ) -> None:
        self._cluster = cluster
        self._observers = observers
        self._heard = _heard_by(*map(type, observers))
        self._event = event
        self._failed: list[Exchange] = []
        self._exchanges: list[ExchangeEvent] = []

    def told(self, batch: Batch[T]) -> Batch[T]:
        """Return a batch that calls the observers."""
        event = self._event
        if "batch_began" in self._heard:
            tell(self._observers, "batch_began", event)
        try:
            while True:
                exchanges = go_on(batch, event)
                is_question = False
                for exchange in exchanges:
                    if exchange.is_question:
                        is_question = True
                    else:
                        event.commands += exchange.count
                yield from self._round(exchanges, redirects=0, is_question=is_question)
                if asks_for_more(exchanges):
                    with closing(look_again(self._cluster, exchanges)) as rounds:
                        for following in rounds:
                            is_question = any(one.is_question for one in following)
                            yield from self._round(
                                following, redirects=1, is_question=is_question
                            )
        except StopIteration as end:
            if self._failed:
                event.error = next(filter(None, map(error_in, self._failed)), None)
            result: T = end.value
            return result
        except BaseException as error:
            event.error = event.error or error
            raise
        finally:
            batch.close()
            event.seconds = perf_counter() - event.began
            if "batch_ended" in self._heard:
                tell(self._observers, "batch_ended", event)
            if "call_ended" in self._heard:
                tell(self._observers, "call_ended", event, self._exchanges)

    def _round(
        self, exchanges: Sequence[Exchange], *, redirects: int, is_question: bool
    ) -> Rounds:
        """Run a round, and call the observers."""
        event = self._event
        if not is_question:
            if isinstance(exchanges, Interlude):
                yield exchanges
                return
            event.rounds += 1
            if "round_began" in self._heard:
                tell(self._observers, "round_began", event)
        now = perf_counter()
        attempts = [_Attempt(event, exchange, now, redirects) for exchange in exchanges]
        cut_off: BaseException | None = None
        try:
            yield exchanges
        except GeneratorExit as closed:
            # The transport closes the batch because of the error in the context.
            event.error = cut_off = closed.__context__ or closed
            raise
        finally:
            for attempt, exchange in zip(attempts, exchanges, strict=True):
                if attempt.complete(self._cluster, cut_off):
                    self._failed.append(exchange)
                if "exchange_ended" in self._heard:
                    tell(self._observers, "exchange_ended", attempt)
            self._exchanges += attempts
