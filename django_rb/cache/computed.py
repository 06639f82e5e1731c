"""The operations for values with stampede protection."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from ..engine.protocol.exchange import Batch
from . import leases
from .codec import MISSING
from .counting import Counting
from .expiry import Expiring
from .flights import Flights, flights_of
from .patterns import Patterns
from .signing import BadSignature
from .tails import MARK, SIZE, NoTail, fingerprint, read_fresh_until, read_numbers
from .terms import MOST, NOTHING, UNKNOWN, Seen, Terms, get_terms, is_early

_NEVER = 1e18  # Unix milliseconds


class Computed(Expiring, Counting, Patterns):
    """The operations of one cache on one cluster, including those on computed values."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.make_key = self._keys.make
        self.make_keys = self._keys.make_many
        self.decode = self._codec.decode
        self.encode = self._codec.encode_computed
        self.encode_plainly = self._codec.encode
        self.flights: Flights = flights_of(self.cluster)
        self.under_way = self.flights.by_key

    def look(self, made: bytes, *arguments: Any) -> Batch[Any]:
        """Return the value of a key, or a `Seen` if it has to be computed.

        Args:
            arguments: those of `get_terms`; `early` comes first.
        """
        data, failures = yield from self._fetch(made)
        if failures:
            self._raise_or_log(failures)
            return UNKNOWN
        # The fast path of most calls.
        if data is not None and data.endswith(MARK):
            try:
                if not arguments[0]:
                    is_fresh = read_fresh_until(data, -SIZE)[0] > time() * 1000
                else:
                    fresh_until, _, took, _ = read_numbers(data, -SIZE)
                    is_fresh = fresh_until - time() * 1000 > took * arguments[0] * MOST
                if is_fresh:
                    return self.decode(data, made)
            except (BadSignature, NoTail):
                pass
        return self.judge(made, data, get_terms(*arguments))

    def look_many(self, made: list[bytes], terms: Terms) -> Batch[dict[bytes, Any]]:
        """Return for each key what `look` returns: one MGET per node."""
        found, failures = yield from self._find(made, made)
        if failures:
            self._raise_or_log(failures)
        lost = {key for failure in failures for key in failure.keys}
        return {
            key: UNKNOWN if key in lost else self.judge(key, found.get(key), terms)
            for key in made
        }

    def judge(self, made: bytes, data: bytes | None, terms: Terms) -> Any:
        """Return the stored value, or a `Seen` if it has to be computed."""
        if data is None:
            return NOTHING
        try:
            value = self.decode(data, made)
        except BadSignature:
            self._log_bad_signatures((made,))
            return Seen(print=fingerprint(data))
        if not data.endswith(MARK):
            return value
        try:
            fresh_until, stale, took, _ = read_numbers(data, -SIZE)
        except NoTail:
            return value
        left, beta = fresh_until - time() * 1000, terms.beta
        if left > 0:
            if not beta or not is_early(took, left, beta, random.random):
                return value
        elif -left > terms.stale:
            value = MISSING
        return Seen(value, fingerprint(data), min(fresh_until + stale, _NEVER))

    def take(
        self, made: Iterable[bytes], terms: Terms, *, is_overtaking: bool
    ) -> Batch[dict[bytes, tuple[int, bytes | None]]]:
        """See `leases.take`; a key whose node failed is not among the answers."""
        told, failures = yield from leases.take(
            self.cluster, made, math.ceil(terms.lock * 1000), is_overtaking=is_overtaking
        )
        if failures:
            self._raise_or_log(failures)
        return told

    def store(self, values: Mapping[bytes, leases.Stored]) -> Batch[dict[bytes, bool]]:
        """See `leases.store`; a key whose node failed is not among the answers."""
        told, failures = yield from leases.store(self.cluster, values)
        if failures:
            self._raise_or_log(failures)
        return told

    def end(self, begun: Mapping[bytes, int], rest: int = 0) -> Batch[None]:
        """See `leases.end`. Failures are ignored, as leases also end by time."""
        yield from leases.end(self.cluster, begun, rest)
