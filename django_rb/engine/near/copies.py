"""The near copies of one cache: bytes as nodes have them, by key. No I/O.

The order in which things happen decides:

    reserve     before a read is sent, its place is put where the copies of its keys will be
    fill        with the reply they are filled, where the place is still there
    drop        whoever learns of a change, or writes, takes away what is there

So a reply that was overtaken by a change is not kept. And who reads a key past its copy
(`learned`) drops a copy that differs: nobody is served an older value after somebody had a
newer one.

Hits take no lock, unless their copy moves. What comes, and what is used again, is in the
youngest of some tables; a new one begins when a quarter of the bytes has come. The oldest
makes room. A table that only grows takes less memory than one from which keys go as others
come, and small ones need little room beside them when they grow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
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

# What is kept of a key: what is stored, ABSENT for nothing; until when it counts, as
# monotonic(); and the term in which it does. A tuple, as many are made at once.
Copy = tuple[bytes, float, Term]

# What a node replied to a read: keys; for each bytes, or None where there is no such key; until
# when all of them count, or each, 0 for not at all; and the term in which they do.
Share = tuple[Sequence[bytes], Sequence[Any], float | Sequence[float], Term]

# What stands in the place of a key while it is read, with a number that no other place has.
Place = tuple[None, float, int]


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
        self._changes = 0  # how often copies or places may have gone
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
        self._changes += 1

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
        with self._lock:
            for copies in (self._young, *self._older):
                if copies and not copies.keys().isdisjoint(keys):
                    self.drop(keys)
            self._changes += 1
            place = (None, 0.0, self._changes)
            places = dict.fromkeys(keys, place)
            self._young.update(places)
            if len(places) < len(keys):
                self.drop(places)  # none of them is kept: it would be counted twice
        return place

    def reserve_one(self, key: bytes) -> Place:
        """Do what `reserve` does for one key."""
        with self._lock:
            if self._older or key in self._young:
                self._drop(key)
            self._changes += 1
            self._young[key] = place = (None, 0.0, self._changes)
        return place

    def fill_one(
        self, key: bytes, place: Place, data: bytes | None, end: float, term: Term
    ) -> None:
        """Do what `fill` does for one key."""
        if data is None and self.keeps_misses:
            data = ABSENT
        with self._lock:
            changes, copies = self._changes, self._young
            if copies.get(key) is not place:
                copies = self._table_of(key)
                if copies.get(key) is not place:  # it may be old, or what is there may be
                    self._learned(key, data)
                    return
            if data is None or not end:
                copies.pop(key, None)
                return
            size = OVERHEAD + len(key) + len(data)
            copies[key] = (data, end, term)
            self._filled((key,), size, changes)

    def fill(self, place: Place, shares: Iterable[Share]) -> None:
        """Take what nodes replied to where the place of their keys still is."""
        for keys, values, ends, term in shares:
            if not isinstance(ends, float):
                self._fill_each(keys, place, values, ends, term)
                continue
            with self._lock:
                changes, get = self._changes, self._young.get
                if None in values or not (
                    place[2] == changes or [*map(get, keys)].count(place) == len(keys)
                ):
                    self._fill_each(keys, place, values, repeat(ends, len(keys)), term)
                    continue
                copies = zip(values, repeat(ends), repeat(term), strict=False)
                self._young.update(zip(keys, copies, strict=True))
                size = OVERHEAD * len(keys) + sum(map(len, keys)) + sum(map(len, values))
                self._filled(keys, size, changes)

    def _fill_each(
        self,
        keys: Iterable[bytes],
        place: Place,
        values: Iterable[Any],
        ends: Iterable[float],
        term: Term,
    ) -> None:
        for key, data, end in zip(keys, values, ends, strict=True):
            self.fill_one(key, place, data, end, term)

    def leave(self, place: Place, keys: Iterable[bytes]) -> None:
        """Take away what is left of a place."""
        with self._lock:
            for key in keys:
                copies = self._table_of(key)
                if copies.get(key) is place:
                    del copies[key]

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
        self._changes += 1  # places are not in the youngest any more
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

    def invalidate(self, keys: Iterable[bytes], spared: Mapping[bytes, object]) -> None:
        """Drop the copies of keys that were changed.

        Args:
            spared: places by key of what is read after the change.
        """
        with self._lock:
            self._changes += 1
            for key in keys:
                self.invalidations += 1
                if key not in spared or self._young.get(key) is not spared[key]:
                    self._drop(key)

    def clear(self) -> None:
        """Drop all copies, and those that are awaited."""
        with self._lock:
            self._empty()
