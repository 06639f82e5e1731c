"""Hints for keys and patterns on the command line that are a cache's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from ..cache import RBCache
from ..checks.site import caches_of_kind
from ..engine.protocol.encoding import Args
from .base import NodeName
from .keys import Keyspace, from_argument, home_of, readable
from .output import Progress
from .scanning import Nodes


def key_hint(keyspace: Keyspace, key: str, timeout: float | None) -> str:
    """Return a hint at the cache that has a key which no cluster has; "" if there is none."""
    for alias, reading in _readings(keyspace):
        with suppress(CommandError):  # it cannot be a cache's key
            (stored,) = reading.stored([from_argument(key)])
            asked: dict[NodeName, list[Args]] = {
                (home, cluster.get_host_for_key(stored)): [("EXISTS", stored)]
                for home, cluster in reading.clusters.items()
            }
            replies = Nodes(reading.clusters, timeout).run(asked)
            if any(number for (number,) in replies.values()):
                return _hint(alias, stored)
    return ""


def pattern_hint(
    keyspace: Keyspace, pattern: str, timeout: float | None, kind: str | None = None
) -> str:
    """Return a hint at the cache whose own keys match a pattern; "" if there is none.

    Args:
        kind: only keys of this type.
    """
    if not pattern.strip("*"):  # it matches every key, including those of caches
        return ""
    for alias, reading in _readings(keyspace):
        with suppress(CommandError):
            own = reading.pattern(pattern)
            nodes = Nodes(reading.clusters, timeout)
            nowhere = Progress(None, "", None, "")
            for pages in nodes.scan(own, nodes.sizes(), nowhere, kind=kind):
                if found := [key for keys in pages.values() for key in keys]:
                    return _hint(alias, found[0])
    return ""


def _readings(keyspace: Keyspace) -> Iterator[tuple[str, Keyspace]]:
    """Yield the caches on the clusters of a command, unless it is for one cache."""
    if keyspace.cache is not None:
        return
    for alias, _ in caches_of_kind(RBCache):
        home = home_of(alias)
        if home in keyspace.clusters:
            cache = caches[alias]
            assert isinstance(cache, RBCache)
            with suppress(ImproperlyConfigured):  # `manage.py check` reports it
                yield alias, Keyspace({home: cache.cluster}, cache, alias)


def _hint(alias: str, stored: bytes) -> str:
    return f"Key {readable(stored)} exists in the cache {alias!r}; use --cache {alias}."
