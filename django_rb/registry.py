"""clusters["default"]: one Cluster per alias and process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import redis
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import Signal, receiver

from . import conf
from .engine import Cluster, HealthChange, PrimaryChange
from .engine.forks import register_at_fork
from .engine.secrecy import hides_locals
from .signals import cluster_made, node_health_changed, primary_changed


class Clusters:
    """The clusters of settings.RB_CLUSTERS by alias; each is created when it is first used.

    from django_rb import clusters

    cluster = clusters["default"]
    for alias in clusters: …

    Attributes:
        make: creates the cluster of an alias; a test run creates them on its own nodes.
    """

    def __init__(self) -> None:
        self.make: Callable[[str], Cluster] = conf.make_cluster
        self._clusters: dict[str, Cluster] = {}
        self._start_over_after_fork()
        register_at_fork(self._start_over_after_fork)

    def _start_over_after_fork(self) -> None:
        # Another thread of the parent may hold the lock, or tell receivers of a cluster.
        self._making = threading.RLock()
        self._being_made: dict[str, Cluster] = {}

    @hides_locals
    def __getitem__(self, alias: str) -> Cluster:
        """Return the cluster with an alias.

        Raises:
            ImproperlyConfigured: there is none, or its settings have a mistake.
        """
        cluster = self._clusters.get(alias)
        return self._make_once(alias) if cluster is None else cluster

    def _make_once(self, alias: str) -> Cluster:
        """Return the cluster with an alias; other threads wait until it has its observers."""
        with self._making:
            known = self.made().get(alias)  # a receiver of the signal may be the one who asks
        if known is not None:
            return known
        # Without the lock: this imports modules of the site, which may use clusters themselves.
        cluster = self.make(alias)
        cluster.on_health_change(partial(_send, node_health_changed, alias))
        cluster.on_primary_change(partial(_send, primary_changed, alias))
        with self._making:
            known = self.made().get(alias)
            if known is not None:
                return known
            self._being_made[alias] = cluster
            try:
                cluster_made.send(sender=Cluster, alias=alias, cluster=cluster)
            finally:
                if self._being_made.pop(alias, None) is cluster:
                    self._clusters[alias] = cluster
            return cluster

    def __iter__(self) -> Iterator[str]:
        return iter(conf.get_aliases())

    def __len__(self) -> int:
        return len(conf.get_aliases())

    def __contains__(self, alias: object) -> bool:
        return alias in conf.get_aliases()

    def made(self) -> dict[str, Cluster]:
        """Return the clusters that have been created since the last reset(), by alias."""
        return {**self._clusters, **self._being_made}

    def reset(self) -> None:
        """Close all clusters; new ones are created from the settings at that time."""
        made, self._clusters, self._being_made = self.made(), {}, {}
        for cluster in made.values():
            cluster.is_retired = True
            cluster.close()


def _send(signal: Signal, alias: str, change: HealthChange | PrimaryChange) -> None:
    details = {field.name: getattr(change, field.name) for field in fields(change)}
    signal.send_robust(sender=Cluster, **{**details, "alias": alias})


clusters = Clusters()


@receiver(setting_changed)
def _reset_when_changed(*, setting: str, **kwargs: Any) -> None:
    """Follow override_settings() in tests."""
    if setting == conf.SETTING:
        clusters.reset()


def get_redis_connection(
    alias: str = "default", write: bool = True, *, key: str | bytes | None = None
) -> redis.Redis:
    """Return a client like redis-py's, for stored keys and values instead of a cache's own.

    connection = get_redis_connection("default", key="stock:7")
    with connection.pipeline() as pipe: …

    Args:
        alias: of a cache in settings.CACHES, as in django-redis.
        write: has no effect.
        key: a stored key; the client is redis-py's own, for the node that owns the key, with
            pipelines, transactions and pub/sub. Without a key, the client sends each command
            to the node that owns its keys.

    Raises:
        ImproperlyConfigured: the cache is not one of django_rb's.
    """
    cluster = getattr(caches[alias], "cluster", None)
    if not isinstance(cluster, Cluster):
        raise ImproperlyConfigured(
            f"get_redis_connection({alias!r}): the BACKEND of this cache is "
            f"{type(caches[alias]).__name__}. Use a cache with the BACKEND "
            "django_rb.cache.RBCache."
        )
    if key is None:
        return cluster.get_routing_client()
    return cluster.get_local_client_for_key(key)
