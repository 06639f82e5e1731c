"""Checks of OPTIONS["WARM_FROM"]."""

from __future__ import annotations

from django.core import checks
from django.core.checks import CheckMessage

from .site import sound_caches


def check_chains() -> list[CheckMessage]:
    """Report caches whose old layout is itself the new layout of another cache."""
    all_caches = sound_caches()
    return [
        checks.Warning(
            f"{cache.where}['OPTIONS']['WARM_FROM'] is {cache.warm_from!r}, and "
            f"{other.where}, which is on that cluster, takes keys from {other.warm_from!r}. "
            f"{cache.alias!r} does not find keys that only {other.warm_from!r} has.",
            hint="Finish one change of the layout before the next: remove WARM_FROM from "
            f"{other.where}['OPTIONS'] when few keys still come from {other.warm_from!r}.",
            id="django_rb.W015",
        )
        for cache in all_caches
        for other in all_caches
        if cache.warm_from is not None
        and other.cluster == cache.warm_from
        and other.warm_from is not None
    ]


def warm_pairs() -> set[frozenset[str]]:
    """Return the pairs of clusters that are the old and the new layout of a cache."""
    return {
        frozenset((cache.cluster, cache.warm_from))
        for cache in sound_caches()
        if cache.warm_from is not None
    }
