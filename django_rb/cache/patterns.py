"""Keys of all nodes, found by a pattern."""

from __future__ import annotations

from collections.abc import Mapping

from ..engine.protocol.encoding import Args
from ..engine.protocol.exchange import Batch
from ..engine.rounds.scans import Cursors, delete_pages, first_cursors, scan
from .keys import SEAL, is_companion, is_lease
from .operations import Operations

Pages = Mapping[int, list[bytes]]


class Patterns(Operations):
    """Operations on the keys that match a glob pattern."""

    def scan(
        self, cursors: Cursors | None, match: bytes, page_size: int
    ) -> Batch[tuple[Cursors, Pages]]:
        """Read one page of keys on each node that has more; the first of all nodes for None.

        Returns the cursors of the nodes that have more still, and keys by host id.
        """
        if cursors is None:
            cursors = first_cursors(self.cluster)
        options: Args = (b"MATCH", match, b"COUNT", page_size)
        cursors, pages, failures = yield from scan(self.cluster, cursors, options)
        if failures:
            self._raise_or_log(failures)
        return cursors, pages

    def all_keys(self, match: bytes, page_size: int) -> Batch[list[bytes]]:
        """Return the keys on all nodes, each once; those of leases are left out."""
        cursors: Cursors | None = None
        found: dict[bytes, None] = {}
        while cursors or cursors is None:
            cursors, pages = yield from self.scan(cursors, match, page_size)
            for keys in pages.values():
                found.update(dict.fromkeys(key for key in keys if not is_companion(key)))
        return list(found)

    def delete_pattern(self, match: bytes, page_size: int) -> Batch[int]:
        """Delete the keys on all nodes; return how many there were."""
        cursors: Cursors | None = None
        deleted = 0
        while cursors or cursors is None:
            cursors, pages = yield from self.scan(cursors, match, page_size)
            deleted += yield from self._unlink_pages(pages)
        return deleted

    def _unlink_pages(self, pages: Pages) -> Batch[int]:
        """Delete keys that were found; return how many, leases aside."""
        deleted = 0
        # Leases go first, and are not counted: who computes a value must not store it then.
        for are_leases in (True, False):
            chosen = {
                host_id: [
                    key for key in keys if is_lease(key) is are_leases and SEAL not in key
                ]
                for host_id, keys in pages.items()
            }
            chosen = {host_id: keys for host_id, keys in chosen.items() if keys}
            if chosen:
                found, failures = yield from delete_pages(self.cluster, chosen)
                if failures:
                    self._raise_or_log(failures)
                deleted += 0 if are_leases else found
        return deleted
