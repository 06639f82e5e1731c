"""Slots of a Redis Cluster that move from node to node while something is measured."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from threading import Event

from django_rb.testing import LocalNodes
from tests.rediscluster.admin import Admin, slot_of

SCANNED = 10_000  # keys, among whose slots some are chosen that move
MOVED_AT_ONCE, PACE = 10, 0.1  # so many slots, each so many seconds: all of them in 3 minutes


@contextmanager
def moving(nodes: LocalNodes) -> Iterator[list[int]]:
    """Move slots that have keys for as long as the block runs.

    Yields a list of those that have moved, which grows.
    """
    moved: list[int] = []
    has_begun, is_over = Event(), Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(_move_slots, nodes, moved, has_begun, is_over)
        future.add_done_callback(lambda _: has_begun.set())  # or it has failed
        try:
            has_begun.wait()
            yield moved
        finally:
            is_over.set()
        future.result()


def _move_slots(nodes: LocalNodes, moved: list[int], has_begun: Event, is_over: Event) -> None:
    with Admin(nodes) as admin:
        for source in cycle(range(nodes.count)):
            next_at = time.monotonic() + PACE
            _, keys = admin.ask(source, "SCAN", 0, "COUNT", SCANNED)
            used = list({slot_of(key.decode()) for key in keys})
            slots = random.sample(used, min(MOVED_AT_ONCE, len(used)))
            admin.move_many(slots, source, (source + 1) % nodes.count)
            moved += slots
            has_begun.set()
            if is_over.wait(max(0.0, next_at - time.monotonic())):
                return
