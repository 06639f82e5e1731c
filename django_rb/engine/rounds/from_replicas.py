"""Sending reads to replicas first: READ_FROM "prefer-replica"."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from ..protocol.exchange import Batch, Exchange
from .port import Layout

T = TypeVar("T")


def from_replicas(layout: Layout, batch: Batch[T]) -> Batch[T]:
    """Return a batch whose exchanges go to replicas first, if they only read keys.

    An exchange that also writes goes to the primary as a whole, to keep the order of its
    commands. The batch itself deals with primaries only; second looks try the other nodes of
    a shard.
    """
    moved = _moved(layout, batch)
    name: str = cast(Any, batch).__name__
    cast(Any, moved).__name__ = name  # observers get the name of the original batch
    return moved


def _moved(layout: Layout, batch: Batch[T]) -> Batch[T]:
    try:
        while True:
            exchanges = next(batch)
            shards: list[tuple[Exchange, int]] = []
            for exchange in exchanges:
                if exchange.only_reads_keys:
                    shards.append((exchange, exchange.host_id))
                    exchange.host_id = layout.get_readers(exchange.host_id)[0]
            yield exchanges
            for exchange, shard in shards:
                exchange.host_id = shard
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        batch.close()
