"""Patterns of similar keys: keys that differ only in their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Generic, TypeVar

N = TypeVar("N", int, float)

# A word that contains a digit: a number, a digest, a session's key.
_VARYING = re.compile(rb"[^\s:./{}|#]*\d[^\s:./{}|#]*")
# The version, which Django puts before a key if there is no KEY_PREFIX.
_VERSION = re.compile(rb":\d{1,3}:(?=.)", re.DOTALL)
_MOST_BYTES = 200
_MOST_PATTERNS = 10_000


def pattern_of(key: bytes) -> bytes:
    """Return the pattern of a key: ``*`` stands for the parts that vary.

    pattern_of(b":1:page:17:en")   # b":1:page:*:en"

    Words with digits vary; words end at a colon, a dot, a slash, a brace or a space. The
    version that Django puts before a key is kept.
    """
    head = _VERSION.match(key)
    at = head.end() if head else 0
    pattern = key[:at] + _VARYING.sub(b"*", key[at:])
    return pattern if len(pattern) <= _MOST_BYTES else pattern[:_MOST_BYTES] + b"*"


class PatternSums(Generic[N]):
    """Counts keys and adds up their numbers, by pattern, with bounded memory.

    Patterns beyond the first 10,000 count as the pattern ``*``.
    """

    def __init__(self) -> None:
        self._keys: Counter[bytes] = Counter()
        self._sums: dict[bytes, N] = {}

    def add(self, key: bytes, number: N) -> None:
        """Add a key and its number."""
        pattern = pattern_of(key)
        if len(self._keys) >= _MOST_PATTERNS and pattern not in self._keys:
            pattern = b"*"
        self._keys[pattern] += 1
        self._sums[pattern] = self._sums.get(pattern, 0) + number

    def largest(self, count: int) -> Iterable[tuple[bytes, int, N]]:
        """Return patterns, how many keys they have, and their sums, the largest sum first."""
        ranked = sorted(self._sums.items(), key=lambda pair: (-pair[1], pair[0]))
        return [(pattern, self._keys[pattern], total) for pattern, total in ranked[:count]]
