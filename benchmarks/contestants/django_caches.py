"""Those that are Django cache backends, each configured as its documentation says.

Values are pickled by all of them, and compressed by none: what is measured is the way to the
servers and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import caches

Hosts = Sequence[tuple[str, int]]
NEVER = 1 << 40  # bytes


class DjangoCache:
    """``caches["default"]``; its operations are the cache's own methods."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        if not settings.configured:
            cache = {**self.options(hosts), "KEY_PREFIX": prefix}
            settings.configure(CACHES={"default": cache}, **self.settings(hosts))
            django.setup()
        self.cache: Any = caches["default"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def options(self, hosts: Hosts) -> dict[str, Any]:
        """Return what CACHES says, but for the prefix."""
        raise NotImplementedError

    def settings(self, hosts: Hosts) -> dict[str, Any]:
        """Return further settings."""
        return {}


class RBCache(DjangoCache):
    defaults: Mapping[str, Any] = {}  # options of all nodes
    cluster: Mapping[str, Any] = {}  # further settings of the cluster

    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {"BACKEND": "django_rb.cache.RBCache"}

    def settings(self, hosts: Hosts) -> dict[str, Any]:
        nodes = [{"host": host, "port": port} for host, port in hosts]
        return {
            "INSTALLED_APPS": ["django_rb"],
            "RB_CLUSTERS": {
                "default": {"HOSTS": nodes, "HOST_DEFAULTS": self.defaults, **self.cluster}
            },
        }

    def miss(self, name: str) -> Any:
        """Return what `get` does, from its node; names come in turn, the first one first."""
        if name.startswith("page:0:"):
            self.cache.near_clear()
        return self.cache.get(name)

    def miss_many(self, names: Sequence[str]) -> Any:
        """Return what `get_many` does, from the nodes."""
        self.cache.near_clear()
        return self.cache.get_many(names)

    def import_all(self) -> None:
        """Import what the first use of a cache imports."""
        import_module("django_rb.cache.settings")


class RBCacheDeadline(RBCache):
    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {**super().options(hosts), "OPTIONS": {"DEADLINE": 10}}


class RBCacheNear(RBCache):
    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {**super().options(hosts), "OPTIONS": {"NEAR": {}}}


class RBCacheRESP3(RBCache):
    defaults = {"protocol": 3}


class RBCacheTLS(RBCache):
    defaults = {"ssl": True, "ssl_cert_reqs": "none"}


class RBCacheCluster(RBCache):
    cluster = {"TOPOLOGY": "redis-cluster"}


class RBCacheSentinel(RBCache):
    def settings(self, hosts: Hosts) -> dict[str, Any]:
        *shards, first, second, third = hosts
        sentinels = [{"host": host, "port": port} for host, port in (first, second, third)]
        config = {
            "TOPOLOGY": "sentinel",
            "HOSTS": [{"master_name": f"node-{number}"} for number in range(len(shards))],
            "SENTINELS": sentinels,
        }
        return {"INSTALLED_APPS": ["django_rb"], "RB_CLUSTERS": {"default": config}}


class RedisCache(DjangoCache):
    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": _url(hosts[0]),
        }

    # Django's own of these two are loops over aget() and aset(): these are quicker.

    async def aget_many(self, names: Sequence[str]) -> Any:
        return await sync_to_async(self.cache.get_many)(names)

    async def aset_many(self, data: Mapping[str, Any]) -> None:
        await sync_to_async(self.cache.set_many)(data)


class ShardClient(DjangoCache):
    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": [_url(host) for host in hosts],
            "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
        }


class VCache(DjangoCache):
    cluster = False

    def options(self, hosts: Hosts) -> dict[str, Any]:
        return {
            "BACKEND": "django_vcache.backend.ValkeyCache",
            "LOCATION": _url(hosts[0]),
            "OPTIONS": {
                "SERIALIZER": "pickle",
                "COMPRESS_MIN_LEN": NEVER,
                "CLUSTER_MODE": self.cluster,
            },
        }


class VCacheCluster(VCache):
    cluster = True


def _url(host: tuple[str, int]) -> str:
    return f"redis://{host[0]}:{host[1]}/0"
