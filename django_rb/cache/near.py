"""The operations of a cache with near copies; see `django_rb.engine.near`.

Copies are stored bytes, which are decoded for each caller. Operations that write drop the
copies of their keys when they end, also after an error.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import compress
from time import monotonic
from typing import Any, TypeVar, cast

from ..engine import Cluster
from ..engine.near.copies import ABSENT, Copies
from ..engine.protocol.exchange import Batch, Exchange
from ..engine.rounds.batch import find, keep_found
from ..engine.rounds.by_slot import Decode
from ..engine.rounds.observing import tell_found
from ..engine.rounds.outcomes import Outcome
from ..engine.rounds.tracked_get import get_tracked
from . import leases
from .computed import Computed
from .near_options import NearOptions
from .operations import Fetching
from .signing import BadSignature
from .terms import Terms

T = TypeVar("T")


class NearOperations(Computed):
    """The operations of one cache with near copies on one cluster.

    Args:
        near: the settings of the copies.
    """

    def __init__(self, *args: Any, near: NearOptions, **options: Any) -> None:
        super().__init__(*args, **options)
        self.near = self
        self.copies = copies_of(self.cluster, near)
        self._trackings = self.cluster.trackings
        # Whether a copy may be kept of a stored key; None if of all.
        self._takes = None if near.prefixes is None else self._keys.matcher(near.prefixes)

    def _data_of(self, made: bytes) -> bytes | None:
        """Return the copy of a key, ABSENT if there is no such key; None if it is not near."""
        now = monotonic()
        if now >= self._trackings.look_at:
            self._trackings.look(now)
        return self.copies.get(made, now)

    def _data_of_many(self, made: list[bytes]) -> tuple[list[bytes | None], int]:
        """Return for each key what `_data_of` returns, and how many are not near."""
        now, takes = monotonic(), self._takes
        if now >= self._trackings.look_at:
            self._trackings.look(now)
        if takes is None:
            return self.copies.get_many(made, now)
        data = [self.copies.get(key, now) if takes(key) else None for key in made]
        return data, data.count(None)

    # Reads.

    def get_or_begin(
        self, key: object, default: Any, version: int | None
    ) -> tuple[Any, Batch[Any] | None]:
        """Return a key's value, or `default`, from its near copy; without one, return a batch.

        This is the fast path for most reads.
        """
        made = self._make_key(key, version)
        takes = self._takes
        if self.cluster.observers or (takes is not None and not takes(made)):
            return None, self._get(made, default, default, self._fetch)
        now, trackings = monotonic(), self._trackings
        if now >= trackings.look_at:
            trackings.look(now)
        data = self.copies.get(made, now)
        if data is None:
            return None, self._get(made, default, default, self._fetch_tracked)
        if data is ABSENT:
            return default, None
        try:
            return self._decode(data, made), None
        except BadSignature:
            return None, self._get(made, default, default, self._fetch)

    def _fetch_tracked(self, made: bytes) -> Fetching:
        return get_tracked(self.cluster, made, self.copies)

    def _fetch(self, made: bytes) -> Fetching:
        if self._takes is not None and not self._takes(made):
            return (yield from self._fetch_far(made))
        data = self._data_of(made)
        if data is None:
            return (yield from self._fetch_far(made))
        if self.cluster.observers:
            tell_found(0, 0, near=1)
        return None if data is ABSENT else data, []

    def _fetch_far(self, made: bytes) -> Fetching:
        if self._takes is not None and not self._takes(made):
            return super()._fetch(made)
        return get_tracked(self.cluster, made, self.copies)

    def _find(
        self,
        made: list[bytes],
        names: list[Any],
        decode: Decode = keep_found,
        bad: Sequence[bytes] = (),
    ) -> Batch[Outcome[dict[Any, Any]]]:
        data, misses = self._data_of_many(made)
        found: dict[Any, Any] = {}
        if not misses and not (self.copies.keeps_misses and ABSENT in data):
            decode(found, names, made, data)
            if len(found) == len(made):
                if self.cluster.observers:
                    tell_found(0, 0, near=len(made))
                return found, []
            found = {}
        if misses == len(made):
            return (yield from self._find_far(made, names, decode))
        distinct = dict.fromkeys(names)
        if len(distinct) != len(made):  # equal names may be those of different keys
            return (yield from self._find_far(made, names, decode))
        if self.cluster.observers:
            tell_found(0, 0, near=len(made) - misses)
        is_near = [part is not None for part in data]
        near = (list(compress(part, is_near)) for part in (names, made, data))
        near_names, near_keys, near_data = near
        decode(found, near_names, near_keys, _without_absent(near_data))
        names, made = (
            [part for part, near in zip(parts, is_near, strict=True) if not near]
            for parts in (names, made)
        )
        if not misses:
            return found, []
        values, failures = yield from self._find_far(made, names, decode)
        if not found:
            return values, failures
        values |= found
        return {name: values[name] for name in distinct if name in values}, failures

    def _find_far(
        self, made: list[bytes], names: list[Any], decode: Decode
    ) -> Batch[Outcome[dict[Any, Any]]]:
        """Read keys from the nodes, and keep near copies of those that may have one."""
        look_up = partial(find, self.cluster, decode=decode)
        if self._takes is None:
            return (yield from look_up(made, names, copies=self.copies))
        are_near = [bool(self._takes(key)) for key in made]
        if all(are_near):
            return (yield from look_up(made, names, copies=self.copies))
        if not any(are_near):
            return (yield from look_up(made, names))
        batches = []
        for copies, chosen in (
            (self.copies, are_near),
            (None, [not near for near in are_near]),
        ):
            keys, known = list(compress(made, chosen)), list(compress(names, chosen))
            batches.append(look_up(keys, known, copies=copies))
        (near_found, near_failures), (found, failures) = yield from _side_by_side(*batches)
        found |= near_found
        return {name: found[name] for name in names if name in found}, near_failures + failures

    def has_key(self, key: object, version: int | None) -> Batch[bool]:
        made = self._keys.make(key, version)
        if self._takes is None or self._takes(made):
            data = self._data_of(made)
            if data is not None:
                if self.cluster.observers:
                    tell_found(0, 0, near=1)
                return data is not ABSENT
        try:
            return (yield from super().has_key(key, version))
        finally:
            self.copies.drop((made,))  # it may say otherwise

    def take(
        self, made: Iterable[bytes], terms: Terms, *, is_overtaking: bool
    ) -> Batch[dict[bytes, tuple[int, bytes | None]]]:
        told = yield from super().take(made, terms, is_overtaking=is_overtaking)
        self.copies.learned(told, [data for _, data in told.values()])
        return told

    # Writes.

    def _writing(self, batch: Batch[T], *made: bytes) -> Batch[T]:
        """Return a batch that drops the copies of keys when it ends."""
        dropping = self._dropping(batch, made)
        cast(Any, dropping).__name__ = cast(Any, batch).__name__  # for observers
        return dropping

    def _dropping(self, batch: Batch[T], made: Sequence[bytes]) -> Batch[T]:
        try:
            return (yield from batch)
        finally:
            self.copies.drop(made)

    def set(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[None]:
        made = self._keys.make(key, version)
        return self._writing(super().set(key, value, timeout, version), made)

    def set_many(
        self, data: Mapping[Any, Any], timeout: int | None, version: int | None
    ) -> Batch[list[Any]]:
        data = dict(data if type(data) is dict else data.items())
        made = self._keys.make_many(data, version)
        return self._writing(super().set_many(data, timeout, version), *made)

    def add(
        self,
        key: object,
        value: Any,
        timeout: int | None,
        version: int | None,
        condition: bytes = b"NX",
    ) -> Batch[bool]:
        made = self._keys.make(key, version)
        return self._writing(super().add(key, value, timeout, version, condition), made)

    def get_or_add(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[Any]:
        made = self._keys.make(key, version)
        return self._writing(super().get_or_add(key, value, timeout, version), made)

    def delete(self, key: object, version: int | None) -> Batch[bool]:
        made = self._keys.make(key, version)
        return self._writing(super().delete(key, version), made)

    def delete_many(self, keys: list[Any], version: int | None) -> Batch[None]:
        made = self._keys.make_many(keys, version)
        return self._writing(super().delete_many(keys, version), *made)

    def touch(self, key: object, timeout: int | None, version: int | None) -> Batch[bool]:
        made = self._keys.make(key, version)
        return self._writing(super().touch(key, timeout, version), made)

    def _expire(self, made: bytes, command: bytes, time: int) -> Batch[Outcome[int | None]]:
        return self._writing(super()._expire(made, command, time), made)

    def incr(
        self, key: object, delta: int, version: int | None, *, may_create: bool = False
    ) -> Batch[int]:
        made = self._keys.make(key, version)
        return self._writing(super().incr(key, delta, version, may_create=may_create), made)

    def incr_version(self, key: object, delta: int, version: int) -> Batch[int]:
        made = [self._keys.make(key, number) for number in (version, version + delta)]
        return self._writing(super().incr_version(key, delta, version), *made)

    def store(self, values: Mapping[bytes, leases.Stored]) -> Batch[dict[bytes, bool]]:
        return self._writing(super().store(values), *values)

    def clear(self) -> Batch[bool]:
        return self._clearing(super().clear())

    def delete_pattern(self, match: bytes, page_size: int) -> Batch[int]:
        return self._clearing(super().delete_pattern(match, page_size))

    def _clearing(self, batch: Batch[T]) -> Batch[T]:
        try:
            return (yield from batch)
        finally:
            self.copies.clear()


def _without_absent(data: list[bytes | None]) -> list[bytes | None]:
    return [None if part is ABSENT else part for part in data]


def _side_by_side(first: Batch[T], second: Batch[T]) -> Batch[tuple[T, T]]:
    """Run two batches of one round each in one round."""
    exchanges: list[Exchange] = [*next(first), *next(second)]
    yield exchanges
    return _end(first), _end(second)


def _end(batch: Batch[T]) -> T:
    try:
        next(batch)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError(f"{batch!r} has a second round")


_making = threading.RLock()
_of_clusters: weakref.WeakKeyDictionary[Cluster, dict[NearOptions, Copies]] = (
    weakref.WeakKeyDictionary()
)


def copies_of(cluster: Cluster, near: NearOptions) -> Copies:
    """Return the copies of a cluster's keys that all caches with these settings share."""
    with _making:
        by_options = _of_clusters.setdefault(cluster, {})
        copies = by_options.get(near)
        if copies is None:
            copies = by_options[near] = Copies(
                near.max_bytes, near.max_age, keeps_misses=near.keeps_misses
            )
            cluster.trackings.keepers = (*cluster.trackings.keepers, copies)
        return copies
