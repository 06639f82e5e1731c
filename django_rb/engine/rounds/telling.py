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


class _Attempt:
    """The `Watcher` of an exchange, each time that it is sent."""

    __slots__ = ("bytes_in", "bytes_out", "exchange", "since", "until")

    def __init__(self, exchange: Exchange, since: float) -> None:
        self.exchange = exchange
        self.since = since
        self.until: float | None = None
        self.bytes_out = self.bytes_in = 0
        exchange.watcher = self
        exchange.may_join = False  # joined with others, it would be sent as another exchange

    def began(self) -> None:
        self.since = perf_counter()

    def sent(self, size: int) -> None:
        self.bytes_out += size

    def received(self, size: int) -> None:
        self.bytes_in += size

    def ended(self) -> None:
        self.until = perf_counter()


@lru_cache(maxsize=256)
def _heard_by(kind: Any) -> frozenset[str]:
    """Return the names of the methods that a class of observers overrides."""
    return frozenset(
        name for name in _TOLD if getattr(kind, name, None) is not getattr(Observer, name)
    )


class _Telling:
    """Calls some observers for one batch."""

    def __init__(
        self, cluster: ObservedPort, observers: Sequence[Observer], event: BatchEvent
    ) -> None:
        self._cluster = cluster
        self._observers = observers
        kinds: Sequence[Any] = list(map(type, observers))
        self._heard = _heard_by(kinds[0])
        for kind in kinds[1:]:
            self._heard |= _heard_by(kind)
        self._event = event
        self._failed: list[Exchange] = []
        self._exchanges: list[ExchangeEvent] = []
        self._is_telling_of_exchanges = not self._heard.isdisjoint(_ABOUT_EXCHANGES)

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
            self._end()

    def _end(self) -> None:
        event = self._event
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
        attempts = [_Attempt(exchange, now) for exchange in exchanges]
        cut_off: BaseException | None = None
        try:
            yield exchanges
        except GeneratorExit as closed:
            # The transport closes the batch because of the error in the context.
            event.error = cut_off = closed.__context__ or closed
            raise
        finally:
            for attempt in attempts:
                self._tell_of(attempt, cut_off, redirects)

    def _tell_of(
        self, attempt: _Attempt, cut_off: BaseException | None, redirects: int
    ) -> None:
        exchange = attempt.exchange
        exchange.watcher = None
        host_id = exchange.host_id
        address = self._cluster.get_address(host_id)
        error: BaseException | None = None
        if exchange.has_errors:
            error = error_in(exchange)
        if error is not None:
            self._failed.append(exchange)
        elif exchange.is_stale:
            text = at_node(
                "The node had closed the connection", host_id, address, self._cluster.alias
            )
            error = redis.ConnectionError(text)
        elif attempt.until is None:
            error = cut_off
        if not self._is_telling_of_exchanges:
            return
        until = perf_counter() if attempt.until is None else attempt.until
        event = ExchangeEvent(
            batch=self._event,
            host_id=host_id,
            address=address,
            count=exchange.count,
            bytes_out=attempt.bytes_out,
            bytes_in=attempt.bytes_in,
            began=attempt.since,
            seconds=until - attempt.since,
            redirects=redirects,
            error=error,
            round=self._event.rounds,
            _exchange=exchange,
        )
        if "call_ended" in self._heard:
            self._exchanges.append(event)
        if "exchange_ended" in self._heard:
            tell(self._observers, "exchange_ended", event)
