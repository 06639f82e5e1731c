"""A page that is expensive to compute, and a crowd that wants it at once.

The almanac counts the shop's books by author and decade, and takes its time, as a report over a
large table would. When it expires, everybody who comes computes it, unless the cache sees to it
that one does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

from django_rb.cache import cached, get_cache

from .catalogue import BOOKS

SECONDS = 0.3  # that it takes
READERS = 40
FRESH, STALE = 60, 600


@dataclass(frozen=True)
class Rush:
    """What a crowd of readers saw, who all came at once; times in milliseconds."""

    call: str
    words: str
    computed: int
    typical: float
    slowest: float


@cached(timeout=FRESH, stale=STALE, background=True)
def almanac() -> dict[str, Any]:
    """Return the books by author and by decade, and when that was counted."""
    return compute()


def compute() -> dict[str, Any]:
    """Count, slowly."""
    time.sleep(SECONDS)
    authors = Counter(book.author for book in BOOKS.values())
    decades = Counter(book.year // 10 * 10 for book in BOOKS.values())
    return {
        "authors": authors.most_common(8),
        "decades": sorted(decades.items()),
        "made": time.time(),
    }


def rush() -> list[Rush]:
    """Let crowds ask for it in three ways."""
    key, cache = "almanac:rush", get_cache()
    cache.delete(key)
    missing = _let_in(
        "get_or_set(key, compute, 60)",
        "Nothing is there, and all of them compute.",
        key,
    )
    cache.delete(key)
    locked = _let_in(
        "get_or_set(key, compute, 60, lock=5)",
        "Nothing is there. One computes, and the others wait for that.",
        key,
        lock=5,
    )
    cache.refresh(key, compute, 0.001, stale=STALE)
    time.sleep(0.01)
    stale = _let_in(
        "get_or_set(key, compute, 60, stale=600, background=True)",
        "An old one is there. It is served to all while one is computed beside them.",
        key,
        stale=STALE,
        background=True,
    )
    return [missing, locked, stale]


def _let_in(call: str, words: str, key: str, **options: Any) -> Rush:
    cache, together = get_cache(), threading.Barrier(READERS)
    computed: list[None] = []

    def count_and_compute() -> dict[str, Any]:
        computed.append(None)
        return compute()

    def read(_number: int) -> float:
        together.wait()
        began = time.perf_counter()
        cache.get_or_set(key, count_and_compute, FRESH, **options)
        return (time.perf_counter() - began) * 1000

    with ThreadPoolExecutor(READERS) as readers:
        waits = list(readers.map(read, range(READERS)))
    return Rush(call, words, len(computed), median(waits), max(waits))
