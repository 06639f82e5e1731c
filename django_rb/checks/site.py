"""The subjects of the checks: clusters and caches whose settings are valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .. import conf
from ..cache import RBCache
from ..engine import Cluster
from ..engine.nodes.health import DEFAULT_HEALTH, HealthOptions, check_health
from ..engine.wording import escaped

SESSIONS_IN_CACHE = "django.contrib.sessions.backends.cache"


class SiteCache(NamedTuple):
    """A cache of settings.CACHES that uses RBCache."""

    alias: str
    cache: RBCache
    cluster: str
    options: Mapping[str, Any]

    @property
    def warm_from(self) -> str | None:
        """The cluster that had its keys before, None if there is none."""
        return self.options.get("WARM_FROM")

    @property
    def where(self) -> str:
        """Its setting, for messages."""
        return f"settings.CACHES[{self.alias!r}]"


def shown(messages: Iterable[CheckMessage]) -> list[CheckMessage]:
    """Return messages that are safe to show on a terminal, whatever they quote."""
    found = list(messages)
    for message in found:
        message.msg = escaped(message.msg)
        message.hint = message.hint and escaped(message.hint)
    return found


def sound_clusters() -> dict[str, Cluster]:
    """Return the site's clusters by alias, without those of E001. There is no I/O.

    They are created for the checks, as those of the site may have other nodes in test runs.
    """
    try:
        aliases = conf.get_aliases()
    except ImproperlyConfigured:
        return {}
    found = {}
    for alias in aliases:
        try:
            found[alias] = conf.make_cluster(alias)
        except ImproperlyConfigured:
            continue
    return found


def health_of(alias: str) -> HealthOptions:
    """Return HEALTH of a valid cluster; `failures` is None for HEALTH = None."""
    config = getattr(settings, conf.SETTING, {}).get(alias, {})
    return check_health(config.get("HEALTH", DEFAULT_HEALTH))


def sound_caches() -> list[SiteCache]:
    """Return the RBCaches on valid clusters, without those of E002."""
    known, found = sound_clusters(), []
    for alias, config in caches_of_kind(RBCache):
        location = config.get("LOCATION") or "default"
        try:
            cache = caches[alias]
            assert isinstance(cache, RBCache)
            cache.check_settings()
        except ImproperlyConfigured:
            continue
        if location in known:
            found.append(SiteCache(alias, cache, location, config.get("OPTIONS", {})))
    return found


def caches_of_kind(kind: type[BaseCache]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the alias and the settings of each cache whose backend is of this class."""
    for alias, config in settings.CACHES.items():
        backend = config.get("BACKEND", "")
        try:
            backend_class = import_string(backend) if isinstance(backend, str) else backend
        except ImportError:
            continue  # Django reports it
        if isinstance(backend_class, type) and issubclass(backend_class, kind):
            yield alias, config


def session_cache() -> str | None:
    """Return the alias of the cache if sessions are only in a cache, else None."""
    if settings.SESSION_ENGINE != SESSIONS_IN_CACHE:
        return None
    return str(settings.SESSION_CACHE_ALIAS)


def in_cluster(alias: str, *path: object) -> str:
    """Return a setting in RB_CLUSTERS, for messages."""
    return f"settings.{conf.SETTING}" + "".join(f"[{key!r}]" for key in (alias, *path))


def listed(things: Iterable[object]) -> str:
    """Return things as text: ``0, 1 and 2``."""
    *most, last = map(str, things)
    return f"{', '.join(most)} and {last}" if most else last


def nodes_listed(host_ids: Iterable[int]) -> str:
    """Return host ids as text: ``node 1``, ``nodes 0 and 2``."""
    ids = list(host_ids)
    return f"{'node' if len(ids) == 1 else 'nodes'} {listed(ids)}"
