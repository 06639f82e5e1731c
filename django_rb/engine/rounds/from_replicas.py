"""Reads that begin at replicas: READ_FROM "prefer-replica"."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from ..protocol.exchange import Batch, Exchange
from .port import Layout

T = TypeVar("T")


def from_replicas(layout: Layout, batch: Batch[T]) -> Batch[T]:
    """Return a batch whose exchanges go to replicas first, if any copy of their keys will do.

    An exchange that writes as well goes to the primary as a whole: its commands keep their
    order. The batch itself knows primaries only: where its exchanges went to is told to nobody
    but second looks, which try the other nodes of a shard.
    """
    moved = _moved(layout, batch)
    name: str = cast(Any, batch).__name__
    cast(Any, moved).__name__ = name  # observers are told what was called
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
