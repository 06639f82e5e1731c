"""The operations of a cache that change keys which the old layout may have as well.

A call that changes a key deletes its old copy (`OldLayout.void`); if that fails, it sets a seal
in the new layout, see `fills`.

    set, incr, touch and the like      the new layout first, then the old copy is deleted: a
                                       reader finds one of them at any time
    delete                             the old copy first: if the caller dies in between, the
                                       key is not deleted

Keys that are on the same node in both layouts are changed only there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from time import monotonic
from time import time as unix_time
from typing import Any

from ...engine import NodeFailure
from ...engine.protocol.answers import is_number, is_ok
from ...engine.protocol.encoding import Args
from ...engine.protocol.exchange import Batch
from ...engine.protocol.interludes import Pause
from ...engine.rounds.batch import pipeline
from ...engine.rounds.outcomes import Outcome
from ...engine.rounds.scans import Cursors
from ...engine.wording import get_logger
from .. import leases
from ..codec import Encoding
from ..companions import lease_of
from ..keys import is_companion
from ..patterns import Pages
from .fills import LONG, SHORT, fill, make_seal, seal
from .old_layout import NOTHING, Found
from .reading import Reading

logger = get_logger("django_rb.cache")


class WarmingOperations(Reading):
    """The operations of one cache on a new layout and an old one."""

    # What is stored.

    def _put(self, made: bytes, data: bytes, timeout: int | None) -> Batch[Outcome[Any]]:
        failures = yield from self._seal_if_short([made], timeout)
        if not failures:
            _, failures = yield from super()._put(made, data, timeout)
        if not failures:
            failures = yield from self._void([made])
        return None, failures

    def _put_many(
        self, made: list[bytes], encoding: Encoding, timeout: int | None
    ) -> Batch[list[NodeFailure]]:
        failures = yield from self._seal_if_short(made, timeout)
        failures += yield from super()._put_many(made, encoding, timeout)
        lost = set(chain.from_iterable(failure.keys for failure in failures))
        failures += yield from self._void([key for key in made if key not in lost])
        return failures

    def _put_if(
        self, made: bytes, data: bytes, timeout: int | None, condition: bytes
    ) -> Batch[Outcome[Any]]:
        put = partial(super()._put_if, made, data, timeout, condition)
        if condition == b"XX":
            return (yield from self._change(made, put, lasting=timeout))
        moved = yield from self._moved([made])
        if not moved:
            return (yield from put())
        visit = self._old.read(moved)
        yield visit
        read = visit.result or Found({}, {})
        if made in read.data and read.ends.get(made) != NOTHING:
            if monotonic() - visit.began > self._old.fill_seconds:
                return None, []
            stored, _, failures = yield from fill(self.cluster, moved, read)
            if stored or failures:
                return None, failures
        failures = yield from self._seal_if_short([made], timeout)
        if failures:
            return None, failures
        reply, failures = yield from put()
        has_no_copy = read.ends.get(made) == NOTHING
        if reply is not None and not has_no_copy:
            failures = yield from self._void([made])
        return reply, failures

    def _put_or_fetch(
        self, made: bytes, data: bytes, timeout: int | None
    ) -> Batch[Outcome[bytes | None]]:
        failures = yield from self._seal_if_short([made], timeout)
        if failures:
            return None, failures
        stored, failures = yield from super()._put_or_fetch(made, data, timeout)
        if not failures:
            failures = yield from self._void([made])
        return stored, failures

    def store(self, values: Mapping[bytes, leases.Stored]) -> Batch[dict[bytes, bool]]:
        """See `leases.store`."""
        times = [one.fresh + one.stale for one in values.values() if one.fresh >= 0]
        failures = yield from self._seal_if_short(list(values), min(times, default=None))
        told = yield from super().store(values)
        failures += yield from self._void([key for key, is_stored in told.items() if is_stored])
        if failures:
            self._raise_or_log(failures)
        return told

    def _seal_if_short(
        self, made: list[bytes], lasting: int | None
    ) -> Batch[list[NodeFailure]]:
        """Seal keys that may expire before readers that have the old copies are done."""
        if lasting is None or lasting >= SHORT:
            return []
        moved = yield from self._moved(made)
        return (yield from seal(self.cluster, moved.keys, SHORT))

    def _void(self, made: list[bytes]) -> Batch[list[NodeFailure]]:
        """Delete the old copies of keys that the new layout has; seal them if that fails."""
        moved = yield from self._moved(made)
        if not moved:
            return []
        visit = self._old.void(moved)
        yield visit
        left = moved.keys if visit.result is None else visit.result.left
        return (yield from seal(self.cluster, left, LONG))

    # What is changed.

    def _expire(self, made: bytes, command: bytes, time: int) -> Batch[Outcome[int | None]]:
        change = partial(super()._expire, made, command, time)
        lasting = {
            b"PEXPIRE": time,
            b"PEXPIREAT": time - int(unix_time() * 1000),
            b"PERSIST": None,
        }[command]
        return (yield from self._change(made, change, missing=0, lasting=lasting))

    def _last(self, made: bytes) -> Batch[Outcome[int | None]]:
        return (yield from self._change(made, partial(super()._last, made), missing=0))

    def _add(self, made: bytes, delta: int, *, may_create: bool) -> Batch[Outcome[Any]]:
        add = partial(super()._add, made, delta, may_create=may_create)
        if not (yield from self._moved([made])):
            return (yield from add())
        first = partial(super()._add, made, delta, may_create=False)
        return (yield from self._change(made, first, add))

    def _change(
        self,
        made: bytes,
        change: Callable[[], Batch[Outcome[Any]]],
        then: Callable[[], Batch[Outcome[Any]]] | None = None,
        *,
        missing: int | None = None,
        lasting: int | None = None,
    ) -> Batch[Outcome[Any]]:
        """Change a key where it is; if it is only in the old layout, move it first.

        Args:
            change: returns a batch.
            then: the same, for the second attempt; by default `change`.
            missing: the reply if there is no such key.
            lasting: how many milliseconds the key exists after the change.
        """
        reply, failures = yield from change()
        if not failures and reply == missing:
            if not (yield from self._moved([made])):
                return reply, failures
            # Even if there is nothing to move, try again: another process may have moved it,
            # and deleted the old copy in the meantime.
            _, _, failures = yield from self._take_along([made])
            if failures:
                return reply, failures
            reply, failures = yield from (then or change)()
        if not failures and reply != missing:
            failures = yield from self._seal_if_short([made], lasting)
            failures += yield from self._void([made])
        return reply, failures

    # What is deleted.

    def _unlink(self, made: bytes) -> Batch[tuple[bool, list[NodeFailure]]]:
        moved = yield from self._moved([made])
        if not moved:
            return (yield from super()._unlink(made))
        visit = self._old.void(moved)
        yield visit
        voided = visit.result
        life = SHORT if voided is not None and not voided.left else LONG
        replies, failures = yield from pipeline(
            self.cluster,
            made,
            make_seal(made, life),
            (b"UNLINK", lease_of(made)),
            (b"UNLINK", made),
            answers=(is_ok, is_number, is_number),
        )
        return bool(replies[-1] or (voided is not None and voided.deleted)), failures

    def _unlink_many(self, made: list[bytes]) -> Batch[list[NodeFailure]]:
        moved = yield from self._moved(made)
        failures: list[NodeFailure] = []
        if moved:
            visit = self._old.void(moved)
            yield visit
            left = set(moved.keys if visit.result is None else visit.result.left)
            for keys, life in (
                (list(left), LONG),
                ([key for key in moved.keys if key not in left], SHORT),
            ):
                failures += yield from seal(self.cluster, keys, life)
        failures += yield from super()._unlink_many(made)
        return failures

    def _unlink_pages(self, pages: Pages) -> Batch[int]:
        keys = dict.fromkeys(
            key for page in pages.values() for key in page if not is_companion(key)
        )
        moved = set((yield from self._moved(list(keys))).keys)
        found: dict[bool, dict[int, list[bytes]]] = {True: {}, False: {}}
        for host_id, page in pages.items():
            if host_id >= 0:
                for are_moved, share in found.items():
                    share[host_id] = [key for key in page if (key in moved) is are_moved]
        deleted = yield from super()._unlink_pages(found[False])
        if moved:
            failures = yield from self._unlink_many(list(moved))
            if failures:
                self._raise_or_log(failures)
            yield from super()._unlink_pages(found[True])  # copies outside of both layouts
        return deleted + len(moved)

    def clear(self) -> Batch[bool]:
        """Empty both layouts: the old one first, so that nothing else is read from it.

        Then it waits until all readers that have read from it before are done.
        """
        visit = self._old.empty()
        yield visit
        yield Pause(self._old.fill_seconds)
        is_empty = yield from super().clear()
        failures = visit.result
        if failures is None or failures:
            logger.warning(
                "clear() could not empty node %s of %s. Its keys may be read again: empty it, "
                "or remove WARM_FROM from the cache's OPTIONS.",
                ", ".join(str(failure.host_id) for failure in failures or ()) or "?",
                self._old.cluster.alias,
            )
            return False
        return is_empty

    # What is listed. Ids of the old layout's hosts are below 0.

    def scan(
        self, cursors: Cursors | None, match: bytes, page_size: int
    ) -> Batch[tuple[Cursors, Pages]]:
        """See `Patterns.scan`."""
        if cursors is None and not self._old.knows_nodes:
            yield from self._old.get_to_know_nodes()
        rest: Cursors = {}
        pages: dict[int, list[bytes]] = {}
        ours = {host_id: at for host_id, at in (cursors or {}).items() if host_id >= 0}
        if ours or cursors is None:
            rest, found = yield from super().scan(ours or None, match, page_size)
            pages.update(found)
        theirs = {-1 - host_id: at for host_id, at in (cursors or {}).items() if host_id < 0}
        if theirs or cursors is None:
            options: Args = (b"MATCH", match, b"COUNT", page_size)
            visit = self._old.scan(theirs or None, options)
            yield visit
            if visit.result is not None:
                further, others, _ = visit.result
                rest = {**rest, **{-1 - host_id: at for host_id, at in further.items()}}
                pages.update({-1 - host_id: keys for host_id, keys in others.items()})
        return rest, pages
