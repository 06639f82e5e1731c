"""Checks that need only the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from math import inf

from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse

from .. import conf
from ..cache import RBCache
from ..cache.options import deadline_of
from ..cache.serializers import get_serializer
from ..engine import BadHostSetup, Cluster, PartitionRouter, SlotRouter
from ..engine.nodes.hosts import parse_host
from ..engine.nodes.node import Node
from ..engine.wording import number_of
from .causes import unreadable_files
from .site import (
    SiteCache,
    caches_of_kind,
    health_of,
    in_cluster,
    listed,
    nodes_listed,
    session_cache,
    sound_caches,
    sound_clusters,
)
from .warming import check_chains, warm_pairs

# The seconds after which gateways and servers (nginx, gunicorn, load balancers) usually end a
# request.
GATEWAY_SECONDS = 30

# The seconds within which a node that is available again should be used again.
LONGEST_PAUSE = 300

# Options of Django's own caches that evict entries themselves.
UNUSED_OPTIONS = ("MAX_ENTRIES", "CULL_FREQUENCY")

PER_SITE_CACHE = "django.middleware.cache.UpdateCacheMiddleware"


def check_clusters() -> list[CheckMessage]:
    """Report every mistake in settings.RB_CLUSTERS."""
    return [checks.Error(str(error), id="django_rb.E001") for error in conf.find_all_mistakes()]


def check_caches() -> list[CheckMessage]:
    """Report mistakes in the settings of every cache that is an RBCache."""
    messages: list[CheckMessage] = []
    for alias, _ in caches_of_kind(RBCache):
        try:
            cache = caches[alias]
            assert isinstance(cache, RBCache)
            cache.check_settings()
        except ImproperlyConfigured as error:
            text = f"settings.CACHES[{alias!r}]: {error}"
            messages.append(checks.Error(text, id="django_rb.E002"))
    return messages


def check_per_site_cache() -> list[CheckMessage]:
    """Report a cache of the per-site cache that cannot store responses."""
    if PER_SITE_CACHE not in (settings.MIDDLEWARE or ()):
        return []
    return [
        checks.Error(
            f"{cache.where}['OPTIONS']['SERIALIZER']: {cache.options['SERIALIZER']!r} cannot "
            "store responses, as the per-site cache requires (UpdateCacheMiddleware in "
            "settings.MIDDLEWARE).",
            hint="Only pickle can. Set settings.CACHE_MIDDLEWARE_ALIAS to a cache without "
            "SERIALIZER.",
            id="django_rb.E003",
        )
        for cache in sound_caches()
        if cache.alias == settings.CACHE_MIDDLEWARE_ALIAS and not _can_store_responses(cache)
    ]


def _can_store_responses(cache: SiteCache) -> bool:
    serializer = get_serializer(cache.options.get("SERIALIZER", "pickle"))
    try:
        stored = serializer.loads(serializer.dumps(HttpResponse(b"text")))
    except Exception:  # noqa: BLE001 (serializers may raise anything)
        return False
    return isinstance(stored, HttpResponse)


# Shared databases and keys.


def check_shared_databases() -> list[CheckMessage]:
    """Report one database under two host ids, and in two clusters."""
    clusters = sound_clusters()
    messages: list[CheckMessage] = []
    for alias, cluster in clusters.items():
        for address, host_ids in _host_ids_by_address(cluster).items():
            if len(host_ids) > 1:
                messages.append(_one_database_twice(alias, address, host_ids))
    changing = warm_pairs()  # the old and new layouts of caches
    for (one, first), (other, second) in combinations(clusters.items(), 2):
        if frozenset((one, other)) in changing:
            continue
        shared = sorted(_addresses(first) & _addresses(second))
        if shared:
            messages.append(
                checks.Warning(
                    f"settings.{conf.SETTING}: the clusters {one!r} and {other!r} share "
                    f"{_some(shared)}. clear() and rb_flushall of one empty the other.",
                    hint="Use another 'db' for the nodes of one of them: "
                    f"{in_cluster(other, 'HOST_DEFAULTS')} = {{'db': 1}}.",
                    id="django_rb.W002",
                )
            )
    return messages


def _one_database_twice(alias: str, address: str, host_ids: list[int]) -> CheckMessage:
    return checks.Warning(
        f"{in_cluster(alias, 'HOSTS')}: {nodes_listed(host_ids)} are the same database, "
        f"{address}. Commands to all nodes count its keys more than once.",
        hint="Use a separate server for every host id, or at least a separate 'db'.",
        id="django_rb.W001",
    )


def _host_ids_by_address(cluster: Cluster) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for host_id, info in cluster.hosts.items():
        found.setdefault(info.address, []).append(host_id)
    return found


def _addresses(cluster: Cluster) -> set[str]:
    # The names of shards are not unique, and the addresses of their nodes are not known here.
    return {info.address for info in cluster.hosts.values() if info.is_placed}


def _some(addresses: Sequence[str], at_most: int = 3) -> str:
    more = len(addresses) - at_most
    return listed([*addresses[:at_most], *([f"{more} more"] if more > 0 else [])])


def check_shared_keys() -> list[CheckMessage]:
    """Report two caches that make the same keys in the same database."""
    clusters = sound_clusters()
    ours = [(c.alias, c.cache, _addresses(clusters[c.cluster])) for c in sound_caches()]
    pairs = chain(combinations(ours, 2), product(ours, _djangos_caches()))
    return [
        checks.Warning(
            f"settings.CACHES: {one!r} and {other!r} store the same keys. Both are on "
            f"{_some(sorted(first_at & second_at))}, with KEY_PREFIX {first.key_prefix!r} and "
            f"VERSION {first.version!r}. Each reads and overwrites the values of the other.",
            hint=f"Set another KEY_PREFIX: settings.CACHES[{other!r}]['KEY_PREFIX'] = "
            f"{other!r}. If clear() of one must not empty the other, use a cluster with "
            "another 'db' for it.",
            id="django_rb.W003",
        )
        for (one, first, first_at), (other, second, second_at) in pairs
        if first_at & second_at and _key_rules(first) == _key_rules(second)
    ]


def _key_rules(cache: BaseCache) -> tuple[object, ...]:
    return cache.key_prefix, cache.version, cache.key_func, type(cache).make_key


def _djangos_caches() -> Iterator[tuple[str, BaseCache, set[str]]]:
    """Yield the alias, the cache and the known addresses of each RedisCache."""
    for alias, config in caches_of_kind(RedisCache):
        location = config.get("LOCATION", ())
        urls = location.replace(",", ";").split(";") if isinstance(location, str) else location
        database = (config.get("OPTIONS") or {}).get("db")
        try:
            defaults = {} if database is None else {"db": int(database)}
            yield alias, caches[alias], {parse_host(0, url, defaults).address for url in urls}
        except (BadHostSetup, ImproperlyConfigured, TypeError, ValueError):
            continue  # Django reports it


# Misplaced settings and data.


def check_prefixes() -> list[CheckMessage]:
    """Report caches whose KEY_PREFIX begins a hash tag."""
    clusters = sound_clusters()
    return [
        checks.Warning(
            f"{cache.where}['KEY_PREFIX'] is {prefix!r}. A '{{' in it begins a hash tag: only "
            "the text between the braces determines the node of a key. Many keys, perhaps "
            "all keys of the cache, are on the same node.",
            hint="Remove the braces from KEY_PREFIX, and use them in the keys that belong "
            "together. (After a change of KEY_PREFIX, every key is a miss once.)",
            id="django_rb.W012",
        )
        for cache in sound_caches()
        if "{" in (prefix := str(cache.cache.key_prefix))
        and isinstance(clusters[cache.cluster].router, SlotRouter)
    ]


def check_unused_options() -> list[CheckMessage]:
    """Report options that limit Django's other caches, but not this one."""
    return [
        checks.Warning(
            f"{cache.where}['OPTIONS'] has {listed(map(repr, unused))}, which has no effect: "
            "the servers limit the size of a cache.",
            hint="Remove it. Set maxmemory and maxmemory-policy allkeys-lru on the servers.",
            id="django_rb.W013",
        )
        for cache in sound_caches()
        if (unused := [name for name in UNUSED_OPTIONS if name in cache.options])
    ]


def check_sessions() -> list[CheckMessage]:
    """Report sessions that are only in a cache, where they are easily lost."""
    all_caches = sound_caches()
    messages: list[CheckMessage] = []
    for sessions in all_caches:
        if sessions.alias != session_cache():
            continue
        if sessions.options.get("ON_NODE_ERROR") == "miss":
            messages.append(
                checks.Warning(
                    f"{sessions.where}['OPTIONS']['ON_NODE_ERROR'] is 'miss', and the "
                    "sessions are stored only in this cache. While a node is down, its "
                    "sessions are treated as missing: their users are logged out without an "
                    "error.",
                    hint="Store the sessions in the database as well: SESSION_ENGINE = "
                    "'django.contrib.sessions.backends.cached_db'. If that is not possible, "
                    "set ON_NODE_ERROR to 'raise': logins then fail with an error that is "
                    "noticed.",
                    id="django_rb.W004",
                )
            )
        others = [
            cache.alias
            for cache in all_caches
            if cache.cluster == sessions.cluster and cache is not sessions
        ]
        if others:
            messages.append(
                checks.Warning(
                    f"{sessions.where} stores the sessions, and is in the same databases as "
                    f"{listed(map(repr, others))}. clear() empties whole databases, "
                    "regardless of KEY_PREFIX, and logs every user out.",
                    hint="Use a separate cluster for the sessions: the same nodes with "
                    "another 'db'. Or set SESSION_ENGINE = "
                    "'django.contrib.sessions.backends.cached_db'.",
                    id="django_rb.W005",
                )
            )
    return messages


def check_routers() -> list[CheckMessage]:
    """Report a PartitionRouter, which is for rb's data."""
    return [
        checks.Warning(
            f"{in_cluster(alias, 'ROUTER')} is PartitionRouter, which places keys as rb does. "
            "Adding a node moves nearly all keys; with SlotRouter, the default, only those "
            "that the new node gets.",
            hint="Leave ROUTER out if there is no data to lose. If you need it for rb's data, "
            "silence this warning: SILENCED_SYSTEM_CHECKS = ['django_rb.W008'].",
            id="django_rb.W008",
        )
        for alias, cluster in sound_clusters().items()
        if type(cluster.router) is PartitionRouter
    ]


def check_files() -> list[CheckMessage]:
    """Report missing files of TLS: no connection to such a node can be opened."""
    return [
        checks.Warning(
            f"{in_cluster(alias, 'HOSTS', host_id)}: {option!r} is {path!r}, {problem}. No "
            "connection to the node can be opened.",
            hint="Correct the path or its permissions. Silence this warning if the check runs "
            "on a machine that should not have the file.",
            id="django_rb.W014",
        )
        for alias, cluster in sound_clusters().items()
        for host_id, node in cluster.nodes.items()
        for option, path, problem in unreadable_files(node)
    ]


# The duration of calls.


def check_times() -> list[CheckMessage]:
    """Report calls that may take longer than the request that makes them."""
    messages: list[CheckMessage] = []
    deadlines: dict[str, list[float | None]] = {}
    for cache in sound_caches():
        deadline = number_of(deadline_of(cache.options))
        deadlines.setdefault(cache.cluster, []).append(deadline)
        if deadline is not None and _is_long(deadline):
            messages.append(
                checks.Warning(
                    f"{cache.where}['OPTIONS']['DEADLINE'] is {deadline} seconds. Gateways "
                    f"usually end a request after {GATEWAY_SECONDS} seconds.",
                    hint="DEADLINE is in seconds, not in milliseconds. One or two are usual.",
                    id="django_rb.W007",
                )
            )
    for alias, cluster in sound_clusters().items():
        slow = {i: node for i, node in cluster.nodes.items() if _is_long(node.open_timeout)}
        if slow and any(map(_is_long, deadlines.get(alias, [None]))):
            messages.append(_slow_nodes(alias, slow))
        if health_of(alias).max_pause > LONGEST_PAUSE:
            messages.append(_long_pauses(alias))
    return messages


def _is_long(seconds: float | None) -> bool:
    return seconds is None or seconds > GATEWAY_SECONDS


def _slow_nodes(alias: str, nodes: Mapping[int, Node]) -> CheckMessage:
    host_id, node = max(nodes.items(), key=lambda item: item[1].open_timeout or inf)
    wait = node.open_timeout
    return checks.Warning(
        f"{in_cluster(alias)}: a call to a dead node waits "
        f"{'without limit' if wait is None else f'up to {wait:g} seconds'} (node {host_id}: "
        f"socket_connect_timeout {node.socket_connect_timeout}, socket_timeout "
        f"{node.socket_timeout}). Gateways usually end a request after {GATEWAY_SECONDS} "
        "seconds.",
        hint="Leave both out of POOL_OPTIONS for the defaults, 1 and 2 seconds, or set "
        "OPTIONS['DEADLINE'] of every cache on the cluster. They are in seconds, not in "
        "milliseconds.",
        id="django_rb.W006",
    )


def _long_pauses(alias: str) -> CheckMessage:
    return checks.Warning(
        f"{in_cluster(alias, 'HEALTH')}: a node that is available again may stay unused for "
        f"{health_of(alias).max_pause:g} seconds, the longest pause between two probes.",
        hint="PAUSE and MAX_PAUSE are in seconds, not in milliseconds. Leave them out for the "
        "defaults, 1 and 30.",
        id="django_rb.W009",
    )


CHECKS = (
    check_clusters,
    check_caches,
    check_per_site_cache,
    check_shared_databases,
    check_shared_keys,
    check_prefixes,
    check_unused_options,
    check_sessions,
    check_routers,
    check_files,
    check_times,
    check_chains,
)
