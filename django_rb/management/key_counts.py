"""Counts the keys that this process uses most, independent of the servers' statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from ..engine import Cluster, UnroutableCommand
from ..engine.protocol.commands import keys_of
from ..engine.protocol.encoding import encode_key
from ..engine.rounds.observing import ExchangeEvent, Observer, add_observer, remove_observer

_MOST_COUNTED = 10_000
# Commands that inspect keys, and do not count as use.
_LOOKS = {"OBJECT", "MEMORY", "TYPE"}


class Counted(Observer):
    """How often this process has used keys; see `counting`."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._lock = Lock()

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Count the keys of commands that were sent to a node."""
        if exchange.is_question or exchange.redirects:
            return
        keys: list[bytes] = []
        for command in exchange.commands() if _LOOKS.isdisjoint(exchange.names) else ():
            with suppress(UnroutableCommand):
                keys += map(encode_key, keys_of(command))
        with self._lock:
            self._counts.update(keys)
            if len(self._counts) > _MOST_COUNTED:
                self._counts = Counter(dict(self._counts.most_common(_MOST_COUNTED // 2)))

    def top(self, count: int) -> list[tuple[bytes, int]]:
        """Return the keys that were used most, and how often."""
        with self._lock:
            return self._counts.most_common(count)


@contextmanager
def counting(cluster: Cluster) -> Iterator[Counted]:
    """Count the keys that all threads and tasks of this process use on a cluster.

    with counting(clusters["default"]) as counted:
        time.sleep(5)
    counted.top(10)      # [(b":1:page:1", 412), …]

    Whenever there are 10,000 keys, the less frequent half is dropped, to save memory.
    """
    counted = Counted()
    add_observer(cluster, counted)
    try:
        yield counted
    finally:
        remove_observer(cluster, counted)
