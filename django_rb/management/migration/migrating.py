"""Migrates keys page by page, and chunk by chunk.

A page of keys is read from every old node at a time, and is copied in chunks of at most
CHUNK_BYTES, or of one value: memory does not depend on the number of keys. The steps for each
chunk are the same: its values are read (DUMP), stored (RESTORE), and as requested compared and
deleted, on all nodes in parallel. Only totals are kept between chunks, so a run may be stopped
at any time, and another one started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

from ...cache.keys import is_companion
from ..output import Progress, RateProgress
from ..scanning import Pages
from .comparing import delete, same
from .copies import Copy
from .sides import Sides
from .storing import Store, read

# The maximum bytes of a chunk, as the old nodes count them, unless one value is larger.
CHUNK_BYTES = 16 * 2**20

# How often per second keys are sent with --rate.
TURNS_PER_SECOND = 10


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What to do; see the options of rb_migrate.

    Attributes:
        seals: a cache of the site has WARM_FROM: it seals keys in the new cluster whose values
            in the old one are no longer valid, see `cache.warming.fills`.
    """

    replace: bool = False
    delete: bool = False
    verify: bool = False
    dry_run: bool = False
    seals: bool = False
    from_any_node: bool = False
    rate: int | None = None


class Migration:
    """Copies keys to their new owners.

    Args:
        sides: both clusters, and the totals of the keys.
        wishes: what to do.
        progress: updated with the number of keys.
    """

    def __init__(self, sides: Sides, wishes: Wishes, progress: RateProgress) -> None:
        self._sides, self._wishes, self._progress = sides, wishes, progress
        self._store = Store(sides, replace=wishes.replace, seals=wishes.seals)
        self._are_mostly_there = False
        self._next_turn = monotonic()

    def run(self, pattern: bytes, sizes: dict[tuple[str, int], int]) -> None:
        """Copy all keys that match a pattern.

        Args:
            pattern: for SCAN MATCH.
            sizes: the old nodes, and how many keys they have.
        """
        scanned = Progress(None, "", None, "")
        for pages in self._sides.old.nodes.scan(pattern, sizes, scanned):
            leaving = self._leaving(pages)
            self._progress.add(scanned.done - self._progress.done - len(leaving))
            for chunk in self._in_chunks(self._measured(leaving)):
                if self._wishes.dry_run:
                    self._sides.tally.add(self._without_existing(chunk))
                else:
                    self._wait_for_turn(len(chunk))
                    self._take(chunk)
                self._progress.size += sum(copy.size for copy in chunk)
                self._progress.add(len(chunk))
                for copy in chunk:
                    copy.dump = b""  # to free memory: the page is kept until its last chunk

    # What is copied.

    def _leaving(self, pages: Pages) -> list[Copy]:
        """Return the keys whose owner is another node in the new cluster."""
        leaving: list[Copy] = []
        sides, tally = self._sides, self._sides.tally
        old, new = sides.old.cluster, sides.new.cluster
        for (_, source), found in pages.items():
            # Companions of keys only have a meaning on their own node.
            keys = [key for key in found if not is_companion(key)]
            if not self._wishes.from_any_node and not old.router.has_slots:
                owners = old.router.get_hosts_for_keys(keys)
                own = [key for key, o in zip(keys, owners, strict=True) if o == source]
                tally.strays += len(keys) - len(own)
                keys = own
            owners = new.router.get_hosts_for_keys(keys)
            stays = {owner: sides.are_one(source, owner) for owner in set(owners)}
            leaving += [
                Copy(key, source, owner)
                for key, owner in zip(keys, owners, strict=True)
                if not stays[owner]
            ]
            tally.stayed += sum(stays[owner] for owner in owners)
        return leaving

    def _measured(self, copies: Sequence[Copy]) -> Iterator[Copy]:
        """Yield those that still exist, with their sizes."""
        sides = self._sides
        for copy, size in sides.ask(
            sides.old, copies, lambda copy: (b"MEMORY", b"USAGE", copy.key)
        ):
            if isinstance(size, int):
                copy.size = size
                yield copy
            elif size is not None:  # nil means that it no longer exists
                sides.tally.note(copy, "the reply to MEMORY USAGE is not a number")

    def _in_chunks(self, copies: Iterable[Copy]) -> Iterator[list[Copy]]:
        """Yield chunks of a few megabytes, and with --rate of a few keys."""
        rate = self._wishes.rate
        most = max(1, rate // TURNS_PER_SECOND) if rate else None
        chunk: list[Copy] = []
        size = 0
        for copy in copies:
            if chunk and (size + copy.size > CHUNK_BYTES or len(chunk) == most):
                yield chunk
                chunk, size = [], 0
            chunk.append(copy)
            size += copy.size
        if chunk:
            yield chunk

    def _wait_for_turn(self, count: int) -> None:
        """Wait until --rate allows this number of additional keys."""
        if self._wishes.rate:
            now = monotonic()
            sleep(max(0.0, self._next_turn - now))
            self._next_turn = max(now, self._next_turn) + count / self._wishes.rate

    # What is done with a chunk.

    def _take(self, chunk: list[Copy]) -> None:
        wishes, sides = self._wishes, self._sides
        looks_closer = wishes.delete or wishes.verify
        missing = chunk
        if self._are_mostly_there and not looks_closer:
            missing = self._without_existing(chunk)
        stored, there = self._store.store(read(sides, missing))
        self._are_mostly_there = len(stored) < len(chunk) / 2
        stored = self._store.take_back_deleted(stored)
        sides.tally.add(stored)
        for copy in there:
            sides.tally.of(copy).there += 1
        if not looks_closer:
            return
        equal = same(sides, [*there, *stored] if wishes.verify else there)
        if wishes.delete:
            changed = delete(sides, equal if wishes.verify else [*equal, *stored])
            # The elements of an unchanged set may have another order in its next dump.
            for copy in delete(sides, same(sides, read(sides, changed))):
                sides.tally.note_different(copy)

    def _without_existing(self, chunk: list[Copy]) -> list[Copy]:
        """Return those that do not exist on the new nodes, or are replaced there."""
        if self._wishes.replace:
            return chunk
        sides = self._sides
        missing = []
        for copy, is_there in sides.ask(sides.new, chunk, lambda copy: (b"EXISTS", copy.key)):
            if is_there:
                sides.tally.of(copy).there += 1
            else:
                missing.append(copy)
        return missing
