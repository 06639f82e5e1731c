"""The observer that records spans and metrics of calls.

A span is created after its call has ended, with the times that were measured: samplers see all
its attributes, and nothing remains in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter, time_ns
from typing import NamedTuple

import redis
from opentelemetry.context import get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from ...engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from ...engine.wording import shown_command
from .metrics import Metrics, describe_error, describe_server

# The name of a batch of commands; if they are all the same, followed by their name.
_PIPELINE = "PIPELINE"

# The maximum number of commands that are recorded, with `record_commands`.
_MOST_COMMANDS = 20


class Telemetry(Observer):
    """Records a span and metrics of each call of a cluster.

    Args:
        alias: the alias of the cluster.
        slow_seconds: a node that takes longer gets its own span.
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
        self._alias = alias
        self._tracer = tracer
        self._call_seconds = metrics.call_seconds
        self._sums = metrics.sums_of(alias)
        self._slow_seconds = slow_seconds
        self._record_commands = record_commands

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Record a span and metrics."""
        if not is_instrumentation_enabled():
            return
        if not exchanges and batch.error is None:  # there was no I/O
            self._sums.add(batch, exchanges)  # for near copies
            return
        asked = frozenset(map(_asked, exchanges))
        plan = _plan(self._alias, batch.operation, asked)
        measured = plan.measured
        recorded = plan.recorded.copy()
        if batch.hits or batch.misses:
            recorded["django_rb.hits"] = batch.hits
            recorded["django_rb.misses"] = batch.misses
        if batch.near:
            recorded["django_rb.near"] = batch.near
        if batch.warmed:
            recorded["django_rb.warmed"] = batch.warmed
        if plan.is_pipeline:
            recorded["db.operation.batch.size"] = batch.commands
        if self._record_commands:
            recorded["db.query.text"] = _shown(exchanges)
        # Caches raise ValueError if a key does not exist.
        error = None if type(batch.error) is ValueError else batch.error
        if error is not None:
            described = describe_error(error)
            measured = {**measured, **described}
            recorded.update(described)
        context = get_current()  # looked up once: the SDK would do so each time
        self._call_seconds.record(batch.seconds, measured, context)
        self._sums.add(batch, exchanges)
        at_zero = time_ns() - int(perf_counter() * 1e9)  # when perf_counter() was 0
        began = at_zero + int(batch.began * 1e9)
        span = self._tracer.start_span(
            plan.name, context, SpanKind.CLIENT, recorded, start_time=began
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
        span.end(began + int(batch.seconds * 1e9))

    def _add_node(self, parent: Span, exchange: ExchangeEvent, began: int) -> None:
        """Add the span of one node."""
        plan = _plan(self._alias, None, frozenset([_asked(exchange)]))
        attributes: dict[str, str | int] = {
            **plan.recorded,
            "django_rb.node": exchange.host_id,
            "django_rb.round": exchange.round,
        }
        if plan.is_pipeline:
            attributes["db.operation.batch.size"] = exchange.count
        if exchange.redirects:
            attributes["django_rb.redirects"] = exchange.redirects
        if exchange.error is not None:
            attributes.update(describe_error(exchange.error))
        span = self._tracer.start_span(
            f"{plan.name} {exchange.address}",
            context=set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=began,
        )
        if exchange.error is not None:
            span.set_status(_failed(exchange.error))
        span.end(began + int(exchange.seconds * 1e9))


class _Plan(NamedTuple):
    """What similar calls have in common.

    Attributes:
        name: of the command, according to the conventions.
        is_pipeline: whether a node was sent several commands, or nodes different ones. A
            command with many keys that is split by node is not a pipeline.
        measured: attributes of the measurement. To be copied, not changed.
        recorded: attributes of the span. To be copied, not changed.
    """

    name: str
    is_pipeline: bool
    measured: dict[str, str | int]
    recorded: dict[str, str | int]


# The address of a node, the names of its commands, whether they are many, and whether they
# were sent again.
_Asked = tuple[str, tuple[str, ...], bool, bool]


def _asked(exchange: ExchangeEvent) -> _Asked:
    return exchange.address, exchange.names, exchange.count > 1, exchange.redirects > 0


@lru_cache(maxsize=4096)
def _plan(alias: str, operation: str | None, asked: frozenset[_Asked]) -> _Plan:
    """Return the plan for calls that send the same commands to the same nodes.

    Args:
        operation: None for the span of one node.
    """
    firsts = [share for share in asked if len(asked) == 1 or not share[3]]
    names = tuple({name for _, some, *_ in firsts for name in some})
    is_pipeline = any(is_many for _, _, is_many, _ in firsts) or (
        len(names) > 1 and len(asked) > 1
    )
    name = names[0] if len(names) == 1 else ""
    if is_pipeline:
        name = f"{_PIPELINE} {name}".rstrip()
    name = name or operation or ""
    addresses = list({address for address, *_ in asked})
    measured: dict[str, str | int] = {
        "db.system.name": "redis",
        "db.operation.name": name,
        "django_rb.cluster": alias,
    }
    if operation is not None:
        measured["django_rb.operation"] = operation
    if len(addresses) == 1:
        measured.update(describe_server(addresses[0]))
    recorded = dict(measured)
    databases = {address.rpartition("/")[2] for address in addresses}
    if len(databases) == 1:
        recorded["db.namespace"] = databases.pop()
    if len(addresses) > 1:
        recorded["django_rb.nodes"] = len(addresses)
    return _Plan(name, is_pipeline, measured, recorded)


def _failed(error: BaseException | None) -> Status:
    """Return the status of a failed call. Only the text of some errors is free of keys."""
    is_safe = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    return Status(StatusCode.ERROR, str(error) if is_safe else None)


def _shown(exchanges: Sequence[ExchangeEvent]) -> str:
    commands = [command for exchange in exchanges for command in exchange.commands()]
    lines = [shown_command(command) for command in commands[:_MOST_COMMANDS]]
    if len(commands) > _MOST_COMMANDS:
        lines.append(f"… ({len(commands) - _MOST_COMMANDS} more)")
    return "; ".join(lines)
