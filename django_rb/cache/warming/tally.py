"""How many of a cache's reads still come from the old layout, counted over all processes.

Each process adds its numbers every few seconds to a hash on a node of the new layout, with two
fields for each minute: `<minute>:reads` and `<minute>:warmed`. Fields that are an hour old are
deleted.
"""

from __future__ import annotations

from time import monotonic, time
from typing import NamedTuple

from ...engine.protocol.answers import is_anything
from ...engine.protocol.exchange import Batch
from ...engine.rounds.batch import pipeline
from ...engine.rounds.port import Port
from ..keys import TALLY

STORE_SECONDS = 5.0
KEPT_MINUTES = 60


class WarmShare(NamedTuple):
    """How many keys a cache has looked up, and how many of them came from the old layout.

    Attributes:
        reads: keys that were looked up.
        warmed: those that only the old layout had.
    """

    reads: int
    warmed: int

    @property
    def share(self) -> float:
        """The share of the reads that came from the old layout, from 0 to 1."""
        return self.warmed / self.reads if self.reads else 0.0


class Tally:
    """The numbers of one cache.

    Args:
        port: the new layout.
        name: a stored key of the cache.
    """

    def __init__(self, port: Port, name: bytes) -> None:
        self._port = port
        self._key = name + TALLY
        self._reads = self._warmed = 0
        self._store_at = monotonic() + STORE_SECONDS

    def count(self, reads: int, warmed: int) -> bool:
        """Count reads; return whether it is time to `store`."""
        # If threads count at the same moment, one count may be lost: only the share matters.
        self._reads += reads
        self._warmed += warmed
        return monotonic() >= self._store_at

    def store(self) -> Batch[None]:
        """Add the numbers to those of the other processes. If that fails, they are lost."""
        self._store_at = monotonic() + STORE_SECONDS
        reads, self._reads = self._reads, 0
        warmed, self._warmed = self._warmed, 0
        minute, key = int(time()) // 60, self._key
        gone = minute - KEPT_MINUTES
        yield from pipeline(
            self._port,
            key,
            (b"HINCRBY", key, b"%d:reads" % minute, reads),
            (b"HINCRBY", key, b"%d:warmed" % minute, warmed),
            (b"HDEL", key, b"%d:reads" % gone, b"%d:warmed" % gone),
            (b"EXPIRE", key, KEPT_MINUTES * 60),
            answers=(is_anything,),
        )

    def fetch(self, minutes: int) -> Batch[WarmShare]:
        """Return the numbers of all processes for the last minutes and the current one."""
        now, key = int(time()) // 60, self._key
        names = [b"%d" % (now - ago) for ago in range(minutes + 1)]
        fields = [name + end for end in (b":reads", b":warmed") for name in names]
        (values,), failures = yield from pipeline(self._port, key, (b"HMGET", key, *fields))
        if failures:
            raise failures[0].error
        numbers = [int(value or 0) for value in values]
        return WarmShare(sum(numbers[: len(names)]), sum(numbers[len(names) :]))
