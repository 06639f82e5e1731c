"""The near copies of one cache: stored bytes by key. No I/O.

The order of these steps keeps copies correct:

    reserve     before a read is sent, a placeholder is stored for each of its keys
    fill        when the reply has come, it replaces the placeholders that are still there
    drop        when a change is reported, or this process writes, what is stored is removed

So a reply that is older than a change is not kept. And a read that did not use the copy
(`learned`) drops it if it differs: no caller gets an older value after another one had a newer
one.

Hits take no lock, unless their copy moves to another table. New copies, and those that are used
again, are in the youngest of several tables; a new table begins after each quarter of the
bytes. The oldest table is evicted. Tables that only grow take less memory than one in which
keys are replaced, and small ones need little additional memory while they grow.
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


# The data of a copy for a key that does not exist.
ABSENT: Final = _Absent()

# Bytes of memory that a copy takes in addition to its key, its data and its share of a table,
# on 64-bit CPython: two bytes objects, a tuple, and most of a float, as keys that were read
# together share theirs.
OVERHEAD = 168

_POINTER_BYTES = 8

# The approximate number of tables when MAX_BYTES is reached.
_TABLES = 4

# The copy of a key: the stored bytes, ABSENT for none; until when it is valid, as monotonic();
# and its term. A tuple, which is fast to create, as many are created together.
Copy = tuple[bytes, float, Term]

# A node's replies to a read: keys; for each its bytes, or None if there is no such key; until
# when all of them, or each, are valid, 0 for not at all; and their term.
Share = tuple[Sequence[bytes], Sequence[Any], float | Sequence[float], Term]

# The placeholder of keys while they are read, with a number of its own.
Place = tuple[None, float, int]


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
        """Return sizes and counts."""
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
        """Return the valid copy of a key, None if there is none.

        Args:
            now: as monotonic(); the nodes' pushes were read by then.
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
        """Move a key from an older table to the youngest one; return its copy, if any."""
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
        """Store a placeholder for keys that are about to be read, and return it."""
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
                if copies.get(key) is not place:  # either value may be the older one
                    self._learned(key, data)
                    return
            if data is None or not end:
                copies.pop(key, None)
                return
            size = OVERHEAD + len(key) + len(data)
            copies[key] = (data, end, term)
            self._filled((key,), size, changes)

    def fill(self, place: Place, shares: Iterable[Share]) -> None:
        """Store the replies of nodes for keys that still have the placeholder."""
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
        """Remove a placeholder from keys that still have it."""
        with self._lock:
            for key in keys:
                copies = self._table_of(key)
                if copies.get(key) is place:
                    del copies[key]

    def _filled(self, keys: Iterable[bytes], size: int, changes: int) -> None:
        """Count copies that were put where a place was, as seen after so many changes."""
        self._bytes += size
        if self._changes != changes:  # a signal handler has removed a placeholder
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
            self._older = (*others, {**oldest, **older})
            self._order = deque(self._older[-1])  # without the keys that are gone
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
        """Drop copies that differ from the replies to reads that did not use them.

        Args:
            values: bytes, None if there is no such key, or an exception if unknown.
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
        """Drop the copies of keys, reserved ones included."""
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
            spared: placeholders, by key, of keys that are read after the change.
        """
        with self._lock:
            self._changes += 1
            for key in keys:
                self.invalidations += 1
                if key not in spared or self._young.get(key) is not spared[key]:
                    self._drop(key)

    def clear(self) -> None:
        """Drop all copies, reserved ones included."""
        with self._lock:
            self._empty()
