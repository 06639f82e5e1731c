"""Which keys this process asks for most, whatever its servers can tell."""

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
# Questions about keys that use none of them.
_LOOKS = {"OBJECT", "MEMORY", "TYPE"}


class Counted(Observer):
    """How often this process has asked for keys; see `counting`."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._lock = Lock()

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Count the keys that a node was asked for."""
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
        """Return the keys that were asked for most, and how often."""
        with self._lock:
            return self._counts.most_common(count)


@contextmanager
def counting(cluster: Cluster) -> Iterator[Counted]:
    """Count what this process asks a cluster for, by whichever thread or task.

    with counting(clusters["default"]) as counted:
        time.sleep(5)
    counted.top(10)      # [(b":1:page:1", 412), …]

    Of 10,000 keys the less frequent half is forgotten, so that little is kept.
    """
    counted = Counted()
    add_observer(cluster, counted)
    try:
        yield counted
    finally:
        remove_observer(cluster, counted)
