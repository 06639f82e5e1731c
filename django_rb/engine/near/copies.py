"""The near copies of one cache: bytes as nodes have them, by key. No I/O.

The order in which things happen decides:

    reserve     before a read is sent, its place is put where the copies of its keys will be
    fill        with the reply they are filled, where the place is still there
    drop        whoever learns of a change, or writes, takes away what is there

So a reply that was overtaken by a change is not kept. And who reads a key past its copy
(`learned`) drops a copy that differs: nobody is served an older value after somebody had a
newer one.

Hits take no lock, unless their copy moves. What comes, and what is used again, is in the
youngest of some tables; when a quarter of the bytes has come, a new one begins. The oldest makes
room. A table that only grows takes less memory than one from which keys go as others come, and
small ones need little room beside them when they grow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from sys import getsizeof
from typing import Any, Final

from .tracking import NearInfo, Term


class _Absent(bytes):
    """Equals nothing else."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    __hash__ = bytes.__hash__


# What is kept of a key that does not exist.
ABSENT: Final = _Absent()

# Bytes of memory that a copy takes beside those of its key and its data, without its part of a
# table, on CPython of 64 bits: two bytes objects, a tuple, and half a float, as keys that were
# read together share theirs.
OVERHEAD = 160

_POINTER_BYTES = 8

# Into how many tables copies go, about, once their bytes are used up.
_TABLES = 4

# What is kept of a key: what is stored, ABSENT for nothing; until when it counts, as monotonic();
# and the term in which it does. A tuple, as many are made at once.
Copy = tuple[bytes, float, Term]

# What stands in the place of a key while it is read. Each is only equal to itself.
Place = tuple[None, float, object]


class Copies:
    """Near copies, bounded by bytes; those that were not used for longest make room.

    Args:
        max_bytes: bytes of memory for all of them.
        max_age: seconds for which a copy counts at most.
        keeps_misses: whether it is kept, too, that a key does not exist.

    Counts are of this process; where threads count at the same moment, some get lost.
    """

    def __init__(self, max_bytes: int, max_age: float, *, keeps_misses: bool = False) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.keeps_misses = keeps_misses
        self.hits = self.misses = self.invalidations = self.evictions = 0
        self._bytes = self._changes = 0
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: drop all copies; another thread may have held the lock."""
        self._lock = threading.RLock()  # a signal handler may use the cache
        self._empty()

    def _empty(self) -> None:
        self._young: dict[bytes, Copy | Place] = {}
        self._older: tuple[dict[bytes, Copy | Place], ...] = ()
        self._order: deque[bytes] = deque()  # of the keys of the oldest; these make room next
        self._bytes = self._bytes_came = 0

    def __len__(self) -> int:
        return sum(map(len, self._older), len(self._young))

    def info(self) -> NearInfo:
        """Return what there is, and what was done."""
        copies = len(self)
        return NearInfo(
            self.hits,
            self.misses,
            copies,
            self._bytes + self._table_bytes() if copies else 0,
            self.max_bytes,
            self.invalidations,
            self.evictions,
        )

    def get(self, key: bytes, now: float) -> bytes | None:
        """Return the copy of a key that counts, None if there is none.

        Args:
            now: as monotonic(); the changes that nodes told of were looked at by then.
        """
        copy = self._young.get(key)
        if copy is None and self._older:
            copy = self._renew(key)
        if copy is None or now >= copy[1] or now >= copy[2].until:  # type: ignore[union-attr]
            self.misses += 1
            return None
        self.hits += 1
        return copy[0]

    def get_many(self, keys: Sequence[bytes], now: float) -> tuple[list[bytes | None], int]:
        """Return for each key what `get` returns, and how many are not near. A hot loop."""
        get = self._young.get
        found = [
            None
            if (copy := get(key)) is None or now >= copy[1] or now >= copy[2].until  # type: ignore[union-attr]
            else copy[0]
            for key in keys
        ]
        misses = found.count(None)
        self.hits += len(found) - misses
        if misses and any(not copies.keys().isdisjoint(keys) for copies in self._older):
            for place, data in enumerate(found):
                if data is None:
                    found[place] = self.get(keys[place], now)
            return found, found.count(None)
        self.misses += misses
        return found, misses

    def _renew(self, key: bytes) -> Copy | Place | None:
        """Return what an older table has of a key; from now on the youngest has it."""
        if any(key in copies for copies in self._older):
            with self._lock:
                copy = self._table_of(key).pop(key, None)
                if copy is not None:
                    self._young[key] = copy
                return copy
        return None

    def _table_of(self, key: bytes) -> dict[bytes, Copy | Place]:
        """Return the table that has a key; the youngest, if none has it."""
        for copies in self._older:
            if key in copies:
                return copies
        return self._young

    def reserve(self, keys: Sequence[bytes]) -> Place:
        """Return the place of keys that are about to be read."""
        place = (None, 0.0, object())
        with self._lock:
            self._changes += 1
            for copies in (self._young, *self._older):
                if copies and not copies.keys().isdisjoint(keys):
                    self.drop(keys)
            self._young.update(dict.fromkeys(keys, place))
        return place

    def reserve_one(self, key: bytes) -> Place:
        """Do what `reserve` does for one key."""
        place = (None, 0.0, object())
        with self._lock:
            self._changes += 1
            self._drop(key)
            self._young[key] = place
        return place

    def fill_one(
        self, key: bytes, place: Place, data: bytes | None, end: float, term: Term
    ) -> None:
        """Do what `fill` does for one key."""
        if data is None and self.keeps_misses:
            data = ABSENT
        with self._lock:
            changes = self._changes
            copies = self._table_of(key)
            if copies.get(key) is not place:  # it may be old, or what is there may be
                self._learned(key, data)
                return
            if data is None or not end:
                del copies[key]
                return
            size = OVERHEAD + len(key) + len(data)
            copies[key] = (data, end, term)
            self._filled((key,), size, changes)

    def fill(
        self,
        keys: Sequence[bytes],
        place: Place,
        values: Sequence[Any],
        ends: float | Sequence[float],
        term: Term,
    ) -> None:
        """Take what nodes replied to where the place of a read still is.

        Args:
            place: of all keys, as `reserve` returned it.
            values: bytes, or None where there is no such key.
            ends: until when they count, as monotonic(); or until when each does, 0 for not at
                all.
            term: in which they do.
        """
        young, count = self._young, len(keys)
        if isinstance(ends, float):
            with self._lock:
                changes = self._changes
                copies = dict(zip(keys, zip(values, repeat(ends), repeat(term))))
                if (
                    len(copies) == list(map(young.get, keys)).count(place) == count
                    and None not in values
                ):
                    size = count * OVERHEAD + sum(map(len, keys)) + sum(map(len, values))
                    young.update(copies)
                    self._filled(keys, size, changes)
                    return
            ends = [ends] * count
        for key, data, end in zip(keys, values, ends, strict=True):
            self.fill_one(key, place, data, end, term)

    def _filled(self, keys: Iterable[bytes], size: int, changes: int) -> None:
        """Count copies that were put where a place was, as seen after so many changes."""
        self._bytes += size
        if self._changes != changes:  # a signal handler has taken a place away
            self.drop(keys)
        self._bytes_came += size
        if self._bytes_came * _TABLES > self.max_bytes:
            self._begin_table()
        if self._bytes * 2 > self.max_bytes:
            self._make_room()

    def _begin_table(self) -> None:
        self._bytes_came = 0
        self._older = (self._young, *self._older)
        self._young = {}
        if len(self._older) > _TABLES + 1:  # changes have left little in them
            *others, older, oldest = self._older
            self._order.extend(older)
            self._older = (*others, {**oldest, **older})
        elif len(self._older) == 1:
            self._order = deque(self._older[0])

    def _make_room(self) -> None:
        room = self.max_bytes - self._table_bytes()
        while self._bytes > room:
            if self._order:
                key = self._order.popleft()
                copy = self._older[-1].pop(key, None)
                if copy is not None and copy[0] is not None:
                    size = OVERHEAD + len(key) + len(copy[0])
                    self._bytes -= size
                    self.evictions += 1
            elif self._older:
                self._older = self._older[:-1]
                self._order = deque(self._older[-1] if self._older else ())
                room = self.max_bytes - self._table_bytes()
            elif self._young:
                self._begin_table()
            else:
                break

    def _table_bytes(self) -> int:
        tables = (self._young, *self._older)
        return sum(map(getsizeof, tables)) + _POINTER_BYTES * len(self._order)

    def learned(self, keys: Iterable[bytes], values: Iterable[Any]) -> None:
        """Drop copies that differ from what nodes replied past them.

        Args:
            values: bytes, None where there is no such key, or an exception for not known.
        """
        with self._lock:
            self._changes += 1
            for key, data in zip(keys, values, strict=True):
                self._learned(key, ABSENT if data is None else data)

    def _learned(self, key: bytes, data: object) -> None:
        copy = self._table_of(key).get(key)
        if copy is not None and (copy[0] is None or copy[0] != data):
            self._drop(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the copies of keys, and those that are awaited."""
        with self._lock:
            self._changes += 1
            for key in keys:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        copy = self._table_of(key).pop(key, None)
        if copy is not None and copy[0] is not None:
            size = OVERHEAD + len(key) + len(copy[0])
            self._bytes -= size

    def invalidate(self, keys: Iterable[bytes], spared: object = None) -> None:
        """Drop the copies of keys that were changed.

        Args:
            spared: the place of what will be read after the change.
        """
        with self._lock:
            self._changes += 1
            for key in keys:
                self.invalidations += 1
                if spared is None or self._young.get(key) is not spared:
                    self._drop(key)

    def clear(self) -> None:
        """Drop all copies, and those that are awaited."""
        with self._lock:
            self._changes += 1
            self._empty()
