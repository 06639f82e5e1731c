"""The near copies of one cache: stored bytes by key. No I/O.

The order of these steps keeps copies correct:

    begin       before a read is sent, the number of the latest change is noted
    fill        when the reply has come, it is stored for keys that were not changed since
    drop        when a change is reported, or this process writes, the copy is removed, and the
                change gets a number

So a reply that is older than a change is not kept. And a read that did not use the copy
(`learned`) drops it if it differs: no caller gets an older value after another one had a newer
one. A read that never ends leaves nothing behind.

Hits take no lock, unless their copy moves to another table. New copies, and those that are used
again, are in the youngest of several tables; a new table begins after each quarter of the
bytes. The oldest table is evicted. Tables that only grow take less memory than one in which
keys are replaced, and small ones need little additional memory while they grow.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from sys import getsizeof
from typing import Any, Final

from .tracking import NearInfo, Read, Term


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

# Changes are numbered for so many groups of keys. If a key of the same group changes while a
# key is read, that counts as a change of both. A power of two.
_GROUPS = 4096

# The copy of a key: the stored bytes, ABSENT for none; until when it is valid, as monotonic();
# and its term. A tuple, which is fast to create, as many are created together.
Copy = tuple[bytes, float, Term]


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
        self._changes = 0  # how many there were, new copies and new tables included
        self._changed_at = array("Q", bytes(8 * _GROUPS))  # the latest of each group of keys
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: drop all copies; another thread may have held the lock."""
        self._lock = threading.RLock()  # a signal handler may use the cache
        self._empty()

    def _empty(self) -> None:
        self._young: dict[bytes, Copy] = {}
        self._older: tuple[dict[bytes, Copy], ...] = ()
        self._order: deque[bytes] = deque()  # of the keys of the oldest; these make room next
        self._bytes = self._bytes_came = 0
        self._end_reads()

    def _end_reads(self) -> None:
        """Let reads that are under way store no copies."""
        self._changes += 1
        self._first_kept = self._changes

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
        if copy is None or now >= copy[1] or now >= copy[2].until:
            self.misses += 1
            return None
        self.hits += 1
        return copy[0]

    def get_many(self, keys: Sequence[bytes], now: float) -> tuple[list[bytes | None], int]:
        """Return for each key what `get` returns, and how many are not near. A hot loop."""
        get = self._young.get
        found = [
            None
            if (copy := get(key)) is None or now >= copy[1] or now >= copy[2].until
            else copy[0]
            for key in keys
        ]
        misses = found.count(None)
        self.hits += len(found) - misses
        if misses and self._older and self._are_older(keys):
            for place, data in enumerate(found):
                if data is None:
                    found[place] = self.get(keys[place], now)
            return found, found.count(None)
        self.misses += misses
        return found, misses

    def _renew(self, key: bytes) -> Copy | None:
        """Move a key from an older table to the youngest one; return its copy, if any."""
        if any(key in copies for copies in self._older):
            with self._lock:
                latest, table = self._changes, self._table_of(key)
                copy = table.get(key)
                if self._changes != latest:  # of a signal handler, as for new copies below
                    return None
                if copy is not None and table is not self._young:
                    self._young[key] = copy
                    del table[key]
                    self._changes += 1
                return copy
        return None

    def _are_older(self, keys: Sequence[bytes]) -> bool:
        """Return whether older tables have some of the keys."""
        return any(not copies.keys().isdisjoint(keys) for copies in self._older)

    def _table_of(self, key: bytes) -> dict[bytes, Copy]:
        """Return the table that has a key; the youngest, if none has it."""
        for copies in self._older:
            if key in copies:
                return copies
        return self._young

    def begin(self, keys: Sequence[bytes]) -> int:
        """Return the number of the latest change, for `fill`, before keys are read."""
        since = self._changes  # before the tables are looked at: what is stored then is newer
        if self._young.keys().isdisjoint(keys) and not (self._older and self._are_older(keys)):
            return since
        with self._lock:
            self.drop(keys)  # they are not valid any more
            return self._changes

    def fill_one(
        self, since: int, key: bytes, data: bytes | None, end: float, term: Term
    ) -> None:
        """Do what `fill` does for one key.

        Args:
            end: 0 if it is not known until when the reply is valid.
        """
        with self._lock:
            self._put(since, key, data, end, term)
            self._make_room()

    def fill(
        self,
        since: int,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        ends: Sequence[float],
        terms: Sequence[Term],
    ) -> None:
        """Store the replies to a read for keys that were not changed since it began.

        Args:
            since: what `begin` returned.
            keys: the keys. The other arguments have as many elements.
            values: bytes, or None if there is no such key.
            ends: until when they are valid, as monotonic().
            terms: their terms.
        """
        with self._lock:
            if not self._put_all(since, keys, values, ends, terms):
                replies = list(zip(keys, values, ends, terms, strict=True))
                found = [reply for reply in replies if reply[1] is not None]
                if 0 < len(found) < len(replies) and self._put_all(
                    since, *zip(*found, strict=True)
                ):
                    replies = [reply for reply in replies if reply[1] is None]
                for reply in replies:
                    self._put(since, *reply)
            self._make_room()

    # A signal handler may use the cache when any function returns, and reads begin without the
    # lock. So where copies are stored, no function is called between the last look at the
    # latest change and the end of it; and they are numbered when they are there.

    def _put_all(
        self,
        since: int,
        keys: Sequence[bytes],
        values: Sequence[Any],
        ends: Sequence[float],
        terms: Sequence[Term],
    ) -> bool:
        """Store what was read, if it is the latest that is known of all keys; return whether.

        It takes a fifth of the time of `_put` for each.
        """
        latest, young = self._changes, self._young
        if since != latest and self._may_differ(keys, since):
            return False
        try:
            size = OVERHEAD * len(keys) + sum(map(len, keys)) + sum(map(len, values))
        except TypeError:  # some of the keys do not exist
            return False
        count = len(young) + len(keys)
        copies = zip(keys, zip(values, ends, terms, strict=True), strict=True)
        if self._changes != latest:
            return False
        self._bytes += size
        self._bytes_came += size
        try:
            young.update(copies)
        finally:  # also if a signal handler raises
            self._changes += 1
        if len(young) != count:  # keys that were named twice are counted once
            kept = dict(zip(keys, values, strict=True))
            sizes = map(len, chain(kept, kept.values()))
            self._bytes += OVERHEAD * len(kept) + sum(sizes) - size
        return True

    def _put(self, since: int, key: bytes, data: bytes | None, end: float, term: Term) -> None:
        """Store what was read of a key, if it is the latest that is known of it."""
        if data is None and self.keeps_misses:
            data = ABSENT
        if data is None or not end:
            self._learned(key, data)
            return
        size = OVERHEAD + len(key) + len(data)
        latest = self._changes
        if (since != latest and self._may_differ((key,), since)) or self._changes != latest:
            self._learned(key, data)
            return
        self._bytes += size
        self._bytes_came += size
        self._young[key] = (data, end, term)
        self._changes += 1

    def _may_differ(self, keys: Sequence[bytes], since: int) -> bool:
        """Return whether something newer than a read of keys may be known of one of them."""
        changed_at, groups = self._changed_at, _GROUPS - 1
        return (
            since < self._first_kept
            or max([changed_at[hash(key) & groups] for key in keys], default=0) > since
            or not self._young.keys().isdisjoint(keys)
        )

    def _make_room(self) -> None:
        """Drop the copies that were not used for the longest time, if there are too many."""
        if self._bytes_came * _TABLES > self.max_bytes:
            self._begin_table()
        if self._bytes * 2 > self.max_bytes:
            self._evict()

    def _begin_table(self) -> None:
        self._end_reads()  # what was changed meanwhile is not in the youngest any more
        self._bytes_came = 0
        self._older = (self._young, *self._older)
        self._young = {}
        if len(self._older) > _TABLES + 1:  # changes have left little in them
            *others, older, oldest = self._older
            self._older = (*others, {**oldest, **older})
            self._order = deque(self._older[-1])  # without the keys that are gone
        elif len(self._older) == 1:
            self._order = deque(self._older[0])

    def _evict(self) -> None:
        room = self.max_bytes - self._table_bytes()
        while self._bytes > room:
            if self._order:
                key = self._order.popleft()
                copy = self._older[-1].pop(key, None)
                if copy is not None:
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
            for key, data in zip(keys, values, strict=True):
                self._learned(key, ABSENT if data is None else data)

    def _learned(self, key: bytes, data: object) -> None:
        copy = self._table_of(key).get(key)
        if copy is None or copy[0] != data:
            self._drop(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the copies of keys that may have changed."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        group = hash(key) & (_GROUPS - 1)
        self._changes += 1
        self._changed_at[group] = self._changes
        copy = self._table_of(key).pop(key, None)
        if copy is not None:
            size = OVERHEAD + len(key) + len(copy[0])
            self._bytes -= size

    def invalidate(self, keys: Sequence[bytes], read: Read | None = None) -> None:
        """Drop the copies of keys that were changed.

        Args:
            read: a read under way that is newer than these changes.
        """
        with self._lock:
            after = self._changes + len(keys)
            is_latest = read is not None and read.copies is self and read.since == self._changes
            self.invalidations += len(keys)
            for key in keys:
                self._drop(key)
            if read is not None and is_latest and self._changes == after:
                read.since = after

    def clear(self) -> None:
        """Drop all copies."""
        with self._lock:
            self._empty()
