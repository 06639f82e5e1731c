"""Calling observers for what redis-py's own clients send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from ..protocol.exchange import Exchange
from .observing import BatchEvent, ExchangeEvent, Observed, Observer, begin_use, tell


class LocalWatch:
    """Calls a cluster's observers for what redis-py's own clients send to a node."""

    def __init__(self, cluster: Observed, host_id: int, address: str) -> None:
        self._cluster = cluster
        self._host_id = host_id
        self._address = address

    def begin_use(self) -> Sequence[Observer]:
        """Return the observers to call; raise what `before_use` raises."""
        return begin_use(self._cluster)

    def send(
        self, observers: Sequence[Observer], pieces: Sequence[bytes], send: Callable[[], Any]
    ) -> None:
        """Call `send`, which sends the pieces of some commands, and then the observers."""
        exchange = Exchange(self._host_id, b"".join(pieces))
        count = len(exchange.commands())
        batch = BatchEvent(operation="local", commands=count)
        tell(observers, "batch_began", batch)
        batch.rounds = 1
        tell(observers, "round_began", batch)
        began = perf_counter()
        try:
            send()
        except BaseException as error:
            batch.error = error
            raise
        finally:
            batch.seconds = perf_counter() - began
            event = ExchangeEvent(
                batch=batch,
                host_id=self._host_id,
                address=self._address,
                count=count,
                bytes_out=0 if batch.error else sum(map(len, pieces)),
                bytes_in=0,
                began=began,
                seconds=batch.seconds,
                redirects=0,
                error=batch.error,
                round=1,
                _exchange=exchange,
            )
            tell(observers, "exchange_ended", event)
            tell(observers, "batch_ended", batch)
            tell(observers, "call_ended", batch, [event])
