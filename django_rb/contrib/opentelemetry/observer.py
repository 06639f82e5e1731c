"""The observer that makes spans and measurements of calls.

A span is made when its call has ended, with the times that were taken: all its attributes are
there when samplers see it, and nothing of a call is left in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter, time_ns

import redis
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from ...engine.rounds.calls import CallObserver
from ...engine.rounds.observing import BatchEvent, ExchangeEvent
from ...engine.wording import shown_command
from .metrics import Metrics, describe_error, describe_server

# What a batch of commands is called, of the same ones with their name behind it.
_PIPELINE = "PIPELINE"

# So many commands are recorded at most, where they are.
_MOST_COMMANDS = 20


class Telemetry(CallObserver):
    """Makes a span and measurements of each call of a cluster.

    Args:
        alias: the cluster's.
        slow_seconds: a node that takes longer has a span of its own.
        record_commands: whether keys and values may be recorded.
    """

    def __init__(
        self,
        alias: str,
        tracer: Tracer,
        metrics: Metrics,
        *,
        slow_seconds: float,
        record_commands: bool,
    ) -> None:
        super().__init__()
        self._alias = alias
        self._tracer = tracer
        self._metrics = metrics
        self._slow_seconds = slow_seconds
        self._record_commands = record_commands

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Make a span and measurements."""
        if not is_instrumentation_enabled():
            return
        if not exchanges and batch.error is None:  # nothing was asked of any node
            return
        name, is_pipeline = _name(batch, exchanges)
        addresses = tuple(dict.fromkeys([exchange.address for exchange in exchanges]))
        attributes = _describe(self._alias, batch.operation, name, addresses)
        # A ValueError is how caches say that a key is not there.
        error = None if type(batch.error) is ValueError else batch.error
        if error is not None:
            attributes = {**attributes, **describe_error(error)}
        self._metrics.call_seconds.record(batch.seconds, attributes)
        self._metrics.add(self._alias, batch, exchanges)
        recorded = dict(attributes)
        if len({address.rpartition("/")[2] for address in addresses}) == 1:
            recorded["db.namespace"] = addresses[0].rpartition("/")[2]
        recorded |= _found(batch)
        if is_pipeline:
            recorded["db.operation.batch.size"] = batch.commands
        if len(addresses) > 1:
            recorded["django_rb.nodes"] = len(addresses)
        if self._record_commands:
            recorded["db.query.text"] = _shown(exchanges)
        at_zero = time_ns() - int(perf_counter() * 1e9)  # when perf_counter() was 0
        span = self._tracer.start_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=recorded,
            start_time=at_zero + int(batch.began * 1e9),
        )
        if error is not None:
            span.set_status(_failed(error))
        if len(exchanges) > 1 and span.is_recording():
            for exchange in exchanges:
                if (
                    exchange.error is not None
                    or exchange.redirects
                    or exchange.seconds > self._slow_seconds
                ):
                    self._add_node(span, exchange, at_zero + int(exchange.began * 1e9))
        span.end(at_zero + int((batch.began + batch.seconds) * 1e9))

    def _add_node(self, parent: Span, exchange: ExchangeEvent, began: int) -> None:
        """Add the span of one node."""
        name, is_pipeline = _name(exchange.batch, (exchange,))
        attributes = {
            **_describe(self._alias, None, name, (exchange.address,)),
            "db.namespace": exchange.address.rpartition("/")[2],
            "django_rb.node": exchange.host_id,
            "django_rb.round": exchange.round,
        }
        if is_pipeline:
            attributes["db.operation.batch.size"] = exchange.count
        if exchange.redirects:
            attributes["django_rb.redirects"] = exchange.redirects
        if exchange.error is not None:
            attributes.update(describe_error(exchange.error))
        span = self._tracer.start_span(
            f"{name} {exchange.address}",
            context=set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=began,
        )
        if exchange.error is not None:
            span.set_status(_failed(exchange.error))
        span.end(began + int(exchange.seconds * 1e9))


def _found(batch: BatchEvent) -> dict[str, int]:
    """Return what a cache has found, and not."""
    if not batch.hits and not batch.misses:
        return {}
    found = {"django_rb.hits": batch.hits, "django_rb.misses": batch.misses}
    return {**found, "django_rb.warmed": batch.warmed} if batch.warmed else found


def _name(batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> tuple[str, bool]:
    """Return the name of the command, as the conventions want it, and whether it is a batch."""
    if len(exchanges) == 1:
        names = exchanges[0].names
        is_pipeline = exchanges[0].count > 1
    else:
        asked = [exchange for exchange in exchanges if not exchange.redirects]
        names = tuple(dict.fromkeys(name for exchange in asked for name in exchange.names))
        # A command of many keys that is split over nodes is no batch.
        is_pipeline = len(names) > 1 or any(exchange.count > 1 for exchange in asked)
    name = names[0] if len(names) == 1 else ""
    if is_pipeline:
        return f"{_PIPELINE} {name}".rstrip(), True
    return name or batch.operation, False


@lru_cache(maxsize=4096)
def _describe(
    alias: str, operation: str | None, name: str, addresses: tuple[str, ...]
) -> dict[str, str | int]:
    """Return the attributes that like calls have in common. To be copied, not changed."""
    attributes: dict[str, str | int] = {
        "db.system.name": "redis",
        "db.operation.name": name,
        "django_rb.cluster": alias,
    }
    if operation is not None:
        attributes["django_rb.operation"] = operation
    if len(addresses) == 1:
        attributes.update(describe_server(addresses[0]))
    return attributes


def _failed(error: BaseException | None) -> Status:
    """Return the status of what failed. Only some errors are known to name no key."""
    is_safe = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    return Status(StatusCode.ERROR, str(error) if is_safe else None)


def _shown(exchanges: Sequence[ExchangeEvent]) -> str:
    commands = [command for exchange in exchanges for command in exchange.commands()]
    lines = [shown_command(command) for command in commands[:_MOST_COMMANDS]]
    if len(commands) > _MOST_COMMANDS:
        lines.append(f"… ({len(commands) - _MOST_COMMANDS} more)")
    return "; ".join(lines)
