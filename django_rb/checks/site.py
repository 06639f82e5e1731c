"""What the checks look at: those clusters and caches whose settings have no mistake."""

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
        """The cluster where its keys were before, None if there is no such."""
        return self.options.get("WARM_FROM")

    @property
    def where(self) -> str:
        """Its setting, as messages name it."""
        return f"settings.CACHES[{self.alias!r}]"


def shown(messages: Iterable[CheckMessage]) -> list[CheckMessage]:
    """Return messages as a terminal may show them, whatever nodes and settings say."""
    found = list(messages)
    for message in found:
        message.msg = escaped(message.msg)
        message.hint = message.hint and escaped(message.hint)
    return found


def sound_clusters() -> dict[str, Cluster]:
    """Return the site's clusters by alias, without those of E001. Nothing is connected.

    They are made for the checks: those of the site may have other nodes, as in test runs.
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
    """Return what HEALTH says of a sound cluster; `failures` is None for HEALTH = None."""
    config = getattr(settings, conf.SETTING, {}).get(alias, {})
    return check_health(config.get("HEALTH", DEFAULT_HEALTH))


def sound_caches() -> list[SiteCache]:
    """Return the caches that are RBCaches on a sound cluster, without those of E002."""
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
    """Yield the alias and the settings of each cache whose backend is of a kind."""
    for alias, config in settings.CACHES.items():
        backend = config.get("BACKEND", "")
        try:
            backend_class = import_string(backend) if isinstance(backend, str) else backend
        except ImportError:
            continue  # Django says so itself
        if isinstance(backend_class, type) and issubclass(backend_class, kind):
            yield alias, config


def session_cache() -> str | None:
    """Return the alias of the cache that alone holds the sessions, None if there is none."""
    if settings.SESSION_ENGINE != SESSIONS_IN_CACHE:
        return None
    return str(settings.SESSION_CACHE_ALIAS)


def in_cluster(alias: str, *path: object) -> str:
    """Return a setting in RB_CLUSTERS, as messages name it."""
    return f"settings.{conf.SETTING}" + "".join(f"[{key!r}]" for key in (alias, *path))


def listed(things: Iterable[object]) -> str:
    """Return things in words: ``0, 1 and 2``."""
    *most, last = map(str, things)
    return f"{', '.join(most)} and {last}" if most else last


def nodes_listed(host_ids: Iterable[int]) -> str:
    """Return host ids in words: ``node 1``, ``nodes 0 and 2``."""
    ids = list(host_ids)
    return f"{'node' if len(ids) == 1 else 'nodes'} {listed(ids)}"
