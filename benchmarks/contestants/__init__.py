"""Who takes part: what each is, and where its environment and its servers are.

A contestant's module is imported by its own process, in its own environment; this one
everywhere. So it imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

# Where the keys are: on all nodes, on the first of them, on all of them by TLS, on a Redis
# Cluster of as many, or on as many shards that Sentinels watch: their addresses come last.
Place = Literal["nodes", "one", "tls", "cluster", "sentinel"]


@dataclass(frozen=True)
class Contestant:
    """One of those who take part.

    Attributes:
        title: what tables call it.
        player: "module.Class" in benchmarks.contestants: what makes its calls.
        environment: whose requirements are in benchmarks/requirements/; BEFORE is "common"
            with another checkout of django-rb.
    """

    title: str
    player: str
    environment: str = "common"
    place: Place = "nodes"

    def make_player(self, hosts: list[tuple[str, int]], prefix: str) -> Any:
        """Return what has the operations: `get`, `set_many`, `aget` …, as far as it has.

        Args:
            hosts: (host, port) of each node.
            prefix: of its keys, so that no other contestant's are touched.
        """
        module, name = self.player.split(".")
        return getattr(import_module(f".{module}", __package__), name)(hosts, prefix)


HAND_WRITTEN, HAND_WRITTEN_CLUSTER, RB = "handwritten", "handwritten-cluster", "rb"
DJANGO_RB, DJANGO_RB_ONE = "django-rb", "django-rb-one"
DJANGO_RB_MAP, DJANGO_RB_LIMITS = "django-rb-map", "django-rb-limits"
DEADLINE, RESP3, TLS = "django-rb-deadline", "django-rb-resp3", "django-rb-tls"
CLUSTER, SENTINEL = "django-rb-cluster", "django-rb-sentinel"
NEAR = "django-rb-near"

_OURS = {
    DJANGO_RB: Contestant("django-rb", "django_caches.RBCache"),
    DJANGO_RB_ONE: Contestant("django-rb, one node", "django_caches.RBCache", place="one"),
    DEADLINE: Contestant("django-rb, DEADLINE", "django_caches.RBCacheDeadline"),
    RESP3: Contestant("django-rb, RESP3", "django_caches.RBCacheRESP3"),
    TLS: Contestant("django-rb, TLS", "django_caches.RBCacheTLS", place="tls"),
    CLUSTER: Contestant(
        "django-rb, Redis Cluster", "django_caches.RBCacheCluster", place="cluster"
    ),
    SENTINEL: Contestant(
        "django-rb, Sentinel", "django_caches.RBCacheSentinel", place="sentinel"
    ),
    NEAR: Contestant("django-rb, NEAR", "django_caches.RBCacheNear"),
    DJANGO_RB_MAP: Contestant("django-rb map()", "maps.Map"),
    DJANGO_RB_LIMITS: Contestant("django-rb, rate limits", "limits.Limits"),
}
OURS = tuple(_OURS)

_PEERS = {
    HAND_WRITTEN: Contestant("hand-written", "handwritten.HandWritten"),
    HAND_WRITTEN_CLUSTER: Contestant(
        "hand-written, cluster", "handwritten.HandWrittenCluster", place="cluster"
    ),
    RB: Contestant("rb", "maps.Rb", "rb"),
    "redis-cache": Contestant("RedisCache", "django_caches.RedisCache", place="one"),
    "shard-client": Contestant("ShardClient", "django_caches.ShardClient"),
    "vcache": Contestant("django-vcache", "django_caches.VCache", "vcache", "one"),
    "vcache-cluster": Contestant(
        "django-vcache, cluster", "django_caches.VCacheCluster", "vcache", "cluster"
    ),
    "glide": Contestant("valkey-glide, cluster", "glide.Glide", "glide", "cluster"),
    "redis-cluster": Contestant(
        "redis-py RedisCluster", "redis_clients.RedisCluster", place="cluster"
    ),
}

BEFORE = "before"


def before(name: str) -> str:
    """Return the name of one of django-rb's contestants in the older checkout."""
    return f"{name}-{BEFORE}"


CONTESTANTS: dict[str, Contestant] = {
    **_OURS,
    **_PEERS,
    **{
        before(name): replace(one, title=f"{one.title}, before", environment=BEFORE)
        for name, one in _OURS.items()
    },
}
