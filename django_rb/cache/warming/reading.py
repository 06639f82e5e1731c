"""The operations of a cache that read: missing keys are read from the old layout.

The values are stored in the new layout, see `fills`. The old copy stays: processes with the old
settings read it, and so does the site if these are restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, compress
from time import monotonic
from typing import Any

from redis.exceptions import ResponseError

from ...engine import NodeFailure
from ...engine.protocol.exchange import Batch
from ...engine.rounds.batch import find, keep_found
from ...engine.rounds.by_slot import Decode
from ...engine.rounds.observing import tell_found
from ...engine.rounds.outcomes import Outcome
from ..computed import Computed
from .fills import fill
from .old_layout import Moved, OldLayout
from .tally import Tally, WarmShare


class Reading(Computed):
    """The operations of one cache on a new layout, and on an old one for missing keys.

    Args:
        old: the old layout.
    """

    def __init__(self, *args: Any, old: OldLayout, **options: Any) -> None:
        super().__init__(*args, **options)
        self._old = old
        self._tally = Tally(self.cluster, self._keys.make("django_rb.warmed", None))

    def _fetch(self, made: bytes) -> Batch[Outcome[bytes | None]]:
        data, failures = yield from super()._fetch(made)
        warmed = 0
        if data is None and not failures:
            stored, warmed, failures = yield from self._read_old([made])
            data = stored.get(made)
        if self._tally.count(1, warmed):
            yield from self._tally.store()
        return data, failures

    def _find(
        self,
        made: list[bytes],
        names: list[Any],
        decode: Decode = keep_found,
        bad: Sequence[bytes] = (),
    ) -> Batch[Outcome[dict[Any, Any]]]:
        owners = self.cluster.router.get_hosts_for_keys(made)
        found, failures = yield from find(self.cluster, made, names, decode, owners=owners)
        if len(found) == len(made):
            if self._tally.count(len(made), 0):
                yield from self._tally.store()
            return found, failures
        return (yield from self._find_rest(made, owners, names, found, failures, decode, bad))

    def _find_rest(
        self,
        made: list[bytes],
        owners: list[int],
        names: list[Any],
        found: dict[Any, Any],
        failures: list[NodeFailure],
        decode: Decode,
        bad: Sequence[bytes] = (),
    ) -> Batch[Outcome[dict[Any, Any]]]:
        """Move the keys that were not found, and decode their values.

        Args:
            bad: keys whose values have bad signatures.
        """
        known = {*bad, *chain.from_iterable(failure.keys for failure in failures)}
        keys, missing = made, names
        if found or known:
            is_missing = [
                name not in found and key not in known
                for key, name in zip(made, names, strict=True)
            ]
            keys, missing, owners = (
                [*compress(each, is_missing)] for each in (made, names, owners)
            )
        warmed = 0
        if keys:
            stored, warmed, failed = yield from self._read_old(keys, owners)
            failures += failed
            is_sorted = not found
            decode(found, missing, keys, [*map(stored.get, keys)])
            if not is_sorted:
                found = {name: found[name] for name in names if name in found}
        if self._tally.count(len(made), warmed):
            yield from self._tally.store()
        return found, failures

    def _exists(self, made: bytes) -> Batch[Outcome[int | None]]:
        found, failures = yield from super()._exists(made)
        if found == 0:
            stored, _, failures = yield from self._read_old([made])
            found = len(stored)
        return found, failures

    def _fetch_with_time(self, made: bytes) -> Batch[Outcome[list[Any]]]:
        replies, failures = yield from super()._fetch_with_time(made)
        if replies[0] is None and not failures:
            _, _, failures = yield from self._take_along([made])
            if not failures:
                replies, failures = yield from super()._fetch_with_time(made)
        return replies, failures

    def _time_left(self, made: bytes) -> Batch[Outcome[int | None]]:
        left, failures = yield from super()._time_left(made)
        if left == -2:
            _, _, failures = yield from self._take_along([made])
            if not failures:
                left, failures = yield from super()._time_left(made)
        return left, failures

    def _read_old(
        self, keys: list[bytes], owners: list[int] | None = None
    ) -> Batch[tuple[dict[bytes, bytes], int, list[NodeFailure]]]:
        """Do what `_take_along` does; if a node refuses because it is full, keys are missing.

        For operations that only read, which lose nothing then.
        """
        stored, warmed, failures = yield from self._take_along(keys, owners)
        refusals = [one for one in failures if isinstance(one.error, ResponseError)]
        if refusals:
            self._log_refusals(refusals)
            failures = [failure for failure in failures if failure not in refusals]
        return stored, warmed, failures

    def _take_along(
        self, keys: list[bytes], owners: list[int] | None = None
    ) -> Batch[tuple[dict[bytes, bytes], int, list[NodeFailure]]]:
        """Move the values of keys that only the old layout has.

        Args:
            owners: the keys' hosts in the new layout, if they are known.

        Returns what is stored in the new layout afterwards, how many of the values were moved,
        and the failures there.
        """
        moved = yield from self._moved(keys, owners)
        if not moved:
            return {}, 0, []
        visit = self._old.read(moved)
        yield visit
        if not visit.result or monotonic() - visit.began > self._old.fill_seconds:
            return {}, 0, []
        stored, warmed, failures = yield from fill(self.cluster, moved, visit.result)
        if warmed and self.cluster.observers:
            tell_found(0, 0, warmed=warmed)
        return stored, warmed, failures

    def _moved(self, keys: list[bytes], owners: list[int] | None = None) -> Batch[Moved]:
        """Return those of the keys that have another owner now."""
        moved = self._old.moved(keys, owners)
        if moved and not self._old.knows_nodes:
            yield from self._old.get_to_know_nodes()
            moved = self._old.moved(moved.keys)
        return moved

    def warm_share(self, minutes: int) -> Batch[WarmShare]:
        """Return the share of all processes' reads that came from the old layout."""
        return self._tally.fetch(minutes)
