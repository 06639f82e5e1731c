"""The near copies of one cache: stored bytes by key. No I/O.

The order of these steps keeps copies correct:

    reserve     before a read is sent, an empty copy is put in the key's place
    fill        when the reply has come, that copy is filled, if it is still in place
    drop        when a change is reported, or this process writes, the copy is removed

So a reply that is older than a change fills a copy that is no longer in place. And a read that
did not use the copy (`learned`) drops it if it differs: no caller gets an older value after
another one had a newer one.

Hits take no lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, Final

from .tracking import NearInfo, Term


class _Absent(bytes):
    """Equals nothing else."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    __hash__ = bytes.__hash__


# The data of a copy for a key that does not exist.
ABSENT: Final = _Absent()

# Bytes of memory that a copy takes in addition to its key and data, on 64-bit CPython: two
# bytes objects, the copy, a float, and its share of the table. The share is 30 to 340 bytes: it
# depends on how full the table is, and while it grows, the old and the new one exist together.
# This is close to the maximum, so that MAX_BYTES holds within 10 %.
OVERHEAD = 460


class Copy:
    """The copy of one key's value.

    Attributes:
        data: the stored bytes, ABSENT for none; None until the reply has come.
        term: the copy is valid as long as this term is.
        expires: and until then, as monotonic().
    """

    __slots__ = ("data", "expires", "term")

    def __init__(self, term: Term) -> None:
        self.data: bytes | None = None
        self.term = term
        self.expires = 0.0


class Copies:
    """Near copies with a limit in bytes; the least recently used ones are evicted.

    Args:
        max_bytes: bytes of memory for all of them.
        max_age: seconds for which a copy is valid at most.
        keeps_misses: whether misses are kept as well.

    Counts are those of this process; concurrent threads may lose some.
    """

    def __init__(self, max_bytes: int, max_age: float, *, keeps_misses: bool = False) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.keeps_misses = keeps_misses
        self.hits = self.misses = self.invalidations = self.evictions = 0
        self._bytes = 0
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: drop all copies; another thread may have held the lock."""
        self._lock = threading.RLock()  # a signal handler may use the cache
        self._copies: OrderedDict[bytes, Copy] = OrderedDict()
        self._use = self._copies.move_to_end
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def info(self) -> NearInfo:
        """Return sizes and counts."""
        return NearInfo(
            self.hits,
            self.misses,
            len(self._copies),
            self._bytes,
            self.max_bytes,
            self.invalidations,
            self.evictions,
        )

    def get(self, key: bytes, now: float) -> bytes | None:
        """Return the valid copy of a key, None if there is none.

        Args:
            now: as monotonic(); the nodes' pushes were read by then.
        """
        copy = self._copies.get(key)
        if copy is None or now >= copy.expires or now >= copy.term.until:
            self.misses += 1
            return None
        try:
            self._use(key)
        except KeyError:  # dropped at this moment
            self.misses += 1
            return None
        self.hits += 1
        return copy.data

    def get_many(self, keys: Sequence[bytes], now: float) -> tuple[list[bytes | None], int]:
        """Return for each key what `get` returns, and how many are not near. A hot loop."""
        get = self._copies.get
        found = [
            None
            if (copy := get(key)) is None or now >= copy.expires or now >= copy.term.until
            else copy.data
            for key in keys
        ]
        misses = found.count(None)
        self.misses += misses
        self.hits += len(found) - misses
        used = keys if not misses else compress(keys, [data is not None for data in found])
        with suppress(KeyError):  # dropped at this moment; the order of the rest may wait
            deque(map(self._use, used), maxlen=0)
        return found, misses

    def reserve(self, keys: Sequence[bytes], term: Term) -> list[Copy]:
        """Put empty copies in place for keys that are about to be read, and return them."""
        copies, reserved = self._copies, []
        with self._lock:
            for key in keys:
                if key in copies:
                    self._drop(key)
                copies[key] = copy = Copy(term)
                reserved.append(copy)
        return reserved

    def reserve_one(self, key: bytes, term: Term) -> Copy:
        """Do what `reserve` does for one key."""
        copy, copies = Copy(term), self._copies
        with self._lock:
            if key in copies:
                self._drop(key)
            copies[key] = copy
        return copy

    def fill_one(self, key: bytes, copy: Copy, data: bytes | None, end: float) -> None:
        """Do what `fill` does for one key."""
        if data is None and self.keeps_misses:
            data = ABSENT
        copies = self._copies
        with self._lock:
            if copies.get(key) is not copy:  # either value may be the older one
                self._learned(key, data)
            elif data is None or not end:
                del copies[key]
            else:
                copy.data = data
                copy.expires = end
                self._bytes += OVERHEAD + len(key) + len(data)
                if self._bytes > self.max_bytes:
                    self._make_room()

    def fill(
        self,
        keys: Sequence[bytes],
        reserved: Sequence[Copy],
        values: Sequence[Any],
        ends: Sequence[float],
    ) -> None:
        """Fill reserved copies with the replies.

        Args:
            values: bytes, or None if there is no such key.
            ends: until when each is valid, as monotonic(); 0 for not at all.
        """
        get, size = self._copies.get, 0
        with self._lock:
            for key, copy, data, end in zip(keys, reserved, values, ends, strict=True):
                if data is None or not end or get(key) is not copy:
                    self.fill_one(key, copy, data, end)
                else:
                    copy.data = data
                    copy.expires = end
                    size += OVERHEAD + len(key) + len(data)
            self._bytes += size
            if self._bytes > self.max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        copies = self._copies
        while self._bytes > self.max_bytes:
            key, copy = copies.popitem(last=False)
            if copy.data is not None:
                self._bytes -= OVERHEAD + len(key) + len(copy.data)
                self.evictions += 1

    def learned(self, keys: Iterable[bytes], values: Iterable[Any]) -> None:
        """Drop copies that differ from the replies to reads that did not use them.

        Args:
            values: bytes, None if there is no such key, or an exception if unknown.
        """
        with self._lock:
            for key, data in zip(keys, values, strict=True):
                self._learned(key, ABSENT if data is None else data)

    def _learned(self, key: bytes, data: object) -> None:
        copy = self._copies.get(key)
        if copy is not None and (copy.data is None or copy.data != data):
            self._drop(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the copies of keys, reserved ones included."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None and copy.data is not None:
            self._bytes -= OVERHEAD + len(key) + len(copy.data)

    def invalidate(self, keys: Iterable[bytes], spared: Collection[object]) -> None:
        """Drop the copies of keys that were changed.

        Args:
            spared: the empty copies of what will be read after the change.
        """
        copies = self._copies
        with self._lock:
            for key in keys:
                self.invalidations += 1
                if not spared or copies.get(key) not in spared:
                    self._drop(key)

    def clear(self) -> None:
        """Drop all copies, reserved ones included."""
        with self._lock:
            self._copies.clear()
            self._bytes = 0
