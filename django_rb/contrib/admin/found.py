"""Keys that match a pattern: a page of them, and the cursors for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ...cache.keys import is_lease
from ...engine.protocol.encoding import Args
from ...engine.rounds.scans import Cursors, first_cursors, scan
from ...management.keys import ttl_of
from ...management.scanning import run_pipelines
from .where import Where

PAGE_SIZE = 100  # keys, plus the rest of the last reply
MOST_LOOKED_AT = 1000  # keys of a node per command; takes well below a millisecond
SECONDS = 2.0  # for a page

_FACTS = 3  # commands for each key


@dataclass(frozen=True)
class FoundKey:
    """A key that matches; None is unknown."""

    stored: bytes
    host_id: int
    kind: str | None = None
    ttl: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class FoundPage:
    """A page of keys.

    Attributes:
        cursors: where the next page begins; empty for the last.
        errors: why nodes did not answer, by host id; the next pages are without them.
    """

    keys: Sequence[FoundKey]
    cursors: Cursors
    errors: Mapping[int, str]


def find_page(where: Where, pattern: bytes, cursors: Cursors, timeout: float) -> FoundPage:
    """Return a page of the keys that match; it may have few, as matches may be rare.

    Args:
        cursors: those of the previous page; empty for the first.
        timeout: seconds in which nodes have to answer.
    """
    cluster, end = where.cluster, monotonic() + SECONDS
    cursors = cursors or first_cursors(cluster)
    count = max(10, PAGE_SIZE // len(cluster.nodes))
    found: list[tuple[int, bytes]] = []
    errors: dict[int, str] = {}
    while cursors and len(found) < PAGE_SIZE and monotonic() < end:
        options = (b"MATCH", pattern, b"COUNT", count)
        cursors, pages, failures = cluster.run(scan(cluster, cursors, options), timeout)
        errors |= {failure.host_id: str(failure.error) for failure in failures}
        matches = [(host_id, key) for host_id, keys in pages.items() for key in keys]
        if 2 * len(matches) < PAGE_SIZE:
            count = min(MOST_LOOKED_AT, 2 * count)
        # A key may be returned twice.
        found = list(dict.fromkeys([*found, *matches]))
    if where.keyspace.cache is not None:
        found = [(host_id, key) for host_id, key in found if not is_lease(key)]
    return FoundPage(_with_facts(where, found, timeout), cursors, errors)


def _with_facts(
    where: Where, found: Sequence[tuple[int, bytes]], timeout: float
) -> list[FoundKey]:
    asked: dict[int, list[Args]] = {}
    for host_id, key in found:
        questions: list[Args] = [("TYPE", key), ("PTTL", key), ("MEMORY", "USAGE", key)]
        asked.setdefault(host_id, []).extend(questions)
    replies = {
        host_id: iter(answers)
        for host_id, answers in run_pipelines(where.cluster, asked, timeout).items()
    }
    keys = []
    for host_id, key in found:
        kind, ttl, memory = (next(replies[host_id]) for _ in range(_FACTS))
        if kind != b"none":  # it has not expired in the meantime
            keys.append(_found_key(key, host_id, kind, ttl, memory))
    return sorted(keys, key=lambda key: key.stored)


def _found_key(key: bytes, host_id: int, kind: Any, ttl: Any, memory: Any) -> FoundKey:
    if not isinstance(kind, bytes) or not isinstance(ttl, int):  # an error instead
        return FoundKey(key, host_id)
    return FoundKey(
        key,
        host_id,
        kind.decode(errors="replace"),
        ttl_of(ttl),
        memory if isinstance(memory, int) else None,
    )


def cursors_to_text(cursors: Cursors) -> str:
    """Return cursors for a URL: ``0-12.3-4096``."""
    return ".".join(f"{host_id}-{cursor.decode()}" for host_id, cursor in cursors.items())


def cursors_from_text(text: str) -> Cursors:
    """Return the cursors in a URL; none if the text is invalid."""
    cursors: Cursors = {}
    for part in filter(None, text.split(".")):
        host_id, _, cursor = part.partition("-")
        if not (host_id.isdecimal() and cursor.isdecimal() and (host_id + cursor).isascii()):
            return {}
        cursors[int(host_id)] = cursor.encode()
    return cursors
