"""How much caches with OPTIONS["WARM_FROM"] still read from the old layout."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured

from ..cache import RBCache
from .base import at_once

MINUTES = 5


@dataclass(frozen=True)
class Warming:
    """The reads of a cache in the last minutes.

    Attributes:
        cache: its alias.
        cluster, warm_from: its new and its old layout.
        reads: how many keys it looked up; None if unknown.
        warmed: how many of them came from the old layout.
        share: `warmed` divided by `reads`; None if there were no reads.
        error: why the numbers are unknown.
    """

    cache: str
    cluster: str
    warm_from: str
    reads: int | None = None
    warmed: int | None = None
    share: float | None = None
    error: str | None = None

    @property
    def words(self) -> str:
        """The numbers, or the error, as text."""
        of = f"Cache {self.cache!r}, read from {self.warm_from!r} in the last {MINUTES} minutes"
        if self.error is not None:
            return f"{of}: unknown. {self.error}"
        if self.share is None:
            return f"{of}: nothing was read"
        return f"{of}: {self.share:.1%} of {self.reads:,} keys"


def fetch_warmings(clusters: Collection[str]) -> list[Warming]:
    """Return the reads of the caches on these clusters that have a WARM_FROM."""
    found: dict[str, tuple[Warming, RBCache]] = {}
    for alias, config in settings.CACHES.items():
        options: Any = config.get("OPTIONS") or {}
        location = config.get("LOCATION") or "default"
        if location in clusters and "WARM_FROM" in options:
            cache = caches[alias]
            if isinstance(cache, RBCache):
                found[alias] = Warming(alias, location, str(options["WARM_FROM"])), cache
    shares = at_once({alias: partial(_fetch, *pair) for alias, pair in found.items()})
    return [
        share if isinstance(share, Warming) else found[alias][0]
        for alias, share in shares.items()
    ]


def _fetch(warming: Warming, cache: RBCache) -> Warming:
    names = warming.cache, warming.cluster, warming.warm_from
    try:
        reads, warmed = share = cache.warm_share(MINUTES)
    except (redis.RedisError, ImproperlyConfigured) as error:
        return Warming(*names, error=str(error))
    return Warming(*names, reads, warmed, share.share if reads else None)
