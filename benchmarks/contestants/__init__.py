"""Who takes part: what each is, where its environment and its servers are.

A contestant's module is imported by its own process, in its own environment; this one
everywhere. So it imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

# Where the keys are: on all nodes, on the first of them, on all of them by TLS, or on a Redis
# Cluster of as many.
Place = Literal["nodes", "one", "tls", "cluster"]


@dataclass(frozen=True)
class Contestant:
    """One of those who take part.

    Attributes:
        title: what tables call it.
        module: of benchmarks.contestants; what it has under `kind` makes the player.
        environment: whose requirements are in benchmarks/requirements/; BEFORE is "common"
            with another checkout of django-rb.
        what: how it does a call, in a few words.
        on_loops: whether it is for event loops only.
    """

    title: str
    module: str
    kind: str
    environment: str = "common"
    place: Place = "nodes"
    what: str = ""
    on_loops: bool = False

    def make_player(self, hosts: list[tuple[str, int]], prefix: str) -> Any:
        """Return what has the operations: `get`, `set_many`, `aget` …, as far as it has.

        Args:
            hosts: (host, port) of each node.
            prefix: of its keys, so that no other contestant's are touched.
        """
        module = import_module(f".{self.module}", __package__)
        return getattr(module, self.kind)(hosts, prefix)


HAND_WRITTEN = "handwritten"
PROMISES = "handwritten-promises"
DJANGO_RB = "django-rb"

CONTESTANTS: dict[str, Contestant] = {
    HAND_WRITTEN: Contestant(
        "hand-written loop",
        "handwritten",
        "HandWritten",
        what="crc32, hiredis pack_command, plain sockets, hiredis Reader, pickle; all nodes "
        "are sent to first, then read from",
    ),
    PROMISES: Contestant(
        "hand-written, with promises",
        "promises",
        "Promises",
        what="the same with what django-rb promises: warnings about keys, hash tags, slots, "
        "shared connections, a look at each before and after, order",
    ),
    DJANGO_RB: Contestant(
        "django-rb",
        "django_caches",
        "RBCache",
        what="RBCache as it comes; its own a… methods on an event loop",
    ),
    "django-rb-map": Contestant(
        "django-rb map()",
        "maps",
        "Map",
        what="one command per key inside `with cluster.map()`, pickle by hand",
    ),
    "django-rb-routing": Contestant(
        "django-rb routing client",
        "maps",
        "Routing",
        what="routing client, `mget` of all keys at once, pickle by hand",
    ),
    "django-rb-threads": Contestant(
        "django-rb, sync_to_async",
        "django_caches",
        "RBCacheByThreads",
        what="RBCache with the a… methods that Django gives every cache: sync_to_async",
        on_loops=True,
    ),
    "django-rb-amap": Contestant(
        "django-rb amap()",
        "maps",
        "Amap",
        what="one command per key inside `async with cluster.amap()`, pickle by hand",
        on_loops=True,
    ),
    "django-rb-aio": Contestant(
        "django-rb aio client",
        "maps",
        "Aio",
        what="`cluster.aio`, `mget` of all keys at once, pickle by hand",
        on_loops=True,
    ),
    "thread-pool": Contestant(
        "thread pool over redis-py",
        "redis_clients",
        "ThreadPool",
        what="a redis-py client for each node, asked by as many threads; crc32, pickle",
    ),
    "rb": Contestant(
        "rb 1.11, redis-py 4.6",
        "maps",
        "Rb",
        "rb",
        what="one command per key inside `with cluster.map()`, pickle by hand",
    ),
    "shard-client": Contestant(
        "django-redis ShardClient",
        "django_caches",
        "ShardClient",
        what="as it comes, the nodes as its LOCATION",
    ),
    "default-client": Contestant(
        "django-redis DefaultClient",
        "django_caches",
        "DefaultClient",
        place="one",
        what="as it comes, all keys on one node",
    ),
    "redis-cache": Contestant(
        "Django's RedisCache",
        "django_caches",
        "RedisCache",
        place="one",
        what="as it comes, with hiredis, all keys on one node",
    ),
    "vcache": Contestant(
        "django-vcache",
        "django_caches",
        "VCache",
        "vcache",
        place="one",
        what="Rust driver; pickle, no compression; all keys on one node",
    ),
    "vcache-cluster": Contestant(
        "django-vcache, cluster",
        "django_caches",
        "VCacheCluster",
        "vcache",
        place="cluster",
        what="Rust driver; pickle, no compression; CLUSTER_MODE",
    ),
    "glide": Contestant(
        "valkey-glide, cluster",
        "glide",
        "Glide",
        "glide",
        place="cluster",
        what="Rust core, blocking client; a batch that is not atomic, one command per key; "
        "pickle by hand",
    ),
    "redis-cluster": Contestant(
        "redis-py RedisCluster",
        "redis_clients",
        "RedisCluster",
        place="cluster",
        what="`mget_nonatomic()`, else a pipeline of one command per key; pickle by hand",
    ),
}

BEFORE = "before"
# django-rb with other settings or for other tasks, as versions.py and threads.py compare it.
VARIANTS: dict[str, Contestant] = {
    "django-rb-deadline": Contestant("django-rb, DEADLINE", "django_caches", "RBCacheDeadline"),
    "django-rb-resp3": Contestant("django-rb, RESP3", "django_caches", "RBCacheRESP3"),
    "django-rb-tls": Contestant("django-rb, TLS", "django_caches", "RBCacheTLS", place="tls"),
    "django-rb-one": Contestant("django-rb, one node", "django_caches", "RBCache", place="one"),
    "django-rb-limits": Contestant("django-rb, 3 limits", "limits", "Limits"),
}


def before(name: str) -> str:
    """Return the name of a contestant of the other checkout."""
    return f"{name}-{BEFORE}"


KNOWN: dict[str, Contestant] = {
    **CONTESTANTS,
    **VARIANTS,
    **{
        before(name): replace(one, title=f"{one.title}, before", environment=BEFORE)
        for name, one in {DJANGO_RB: CONTESTANTS[DJANGO_RB], **VARIANTS}.items()
    },
}
