"""Checks that ask the nodes: `manage.py check --tag rb_connect`.

Django runs every check if there is no tag, and does not pass tags to checks. So this one only
runs inside of `connecting()`, which only our `check` command uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import time
from typing import Any

import redis
from django.apps import AppConfig
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..engine import Cluster
from ..engine.errors import NodeFailure
from ..engine.topology.redis_cluster import RedisClusterTopology
from ..engine.topology.sentinel import SentinelTopology
from .causes import find_causes
from .readings import fields
from .redis_cluster import check_layout
from .replicas import check_replicas
from .sentinel import check_watched
from .site import in_cluster, listed, nodes_listed, session_cache, shown, sound_caches

RB_CONNECT = "rb_connect"

# A limit for checks, regardless of POOL_OPTIONS.
SECONDS = 10.0

# For the second attempt at a node that has closed the connection or not replied.
PROBE_SECONDS = 1.0

# Two nodes that differ at most this much from our clock differ at most a second.
MAX_SKEW = 0.5

OLDEST_TESTED = {"Redis": 7, "Valkey": 8}

_is_connecting: ContextVar[bool] = ContextVar("is_connecting", default=False)


@contextmanager
def connecting() -> Iterator[None]:
    """Let `check_nodes` ask the nodes inside of this context."""
    token = _is_connecting.set(True)
    try:
        yield
    finally:
        _is_connecting.reset(token)


def check_nodes(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Report problems of nodes, but only inside of `connecting()`."""
    return check_live_nodes() if _is_connecting.get() else []


def check_live_nodes(timeout: float = SECONDS) -> list[CheckMessage]:
    """Ask all nodes of all clusters in parallel, and report what operators should know.

    Args:
        timeout: seconds for each of four commands. Nodes that take longer have failed.
    """
    try:
        aliases = conf.get_aliases()
    except ImproperlyConfigured as error:
        return shown([_unusable(str(error))])
    if not aliases:
        return [
            checks.Warning(
                f"settings.{conf.SETTING} is missing or empty: there are no nodes to check.",
                hint="Run the check with the settings of the site.",
                id="django_rb.W201",
            )
        ]
    with ThreadPoolExecutor(max_workers=len(aliases)) as executor:
        answers = list(executor.map(lambda alias: _reports_of(alias, timeout), aliases))
    messages = [message for found, _ in answers for message in found]
    nodes = [node for _, found in answers for node in found]
    for node in nodes:
        messages += _of_one_node(node)
    return shown(messages + _of_memory(nodes) + _of_shared_databases(nodes))


@dataclass(frozen=True)
class NodeReport:
    """The replies of one node.

    Attributes:
        info: the fields of INFO.
        ahead: seconds by which its clock is at least ahead of ours; negative if behind.
    """

    alias: str
    host_id: int
    address: str
    db: int
    info: Mapping[str, str]
    ahead: float
    is_in_redis_cluster: bool = False

    @property
    def where(self) -> str:
        """Its setting and its address, for messages."""
        if self.is_in_redis_cluster:  # HOSTS may contain other nodes of it
            return f"{in_cluster(self.alias)}: node {self.host_id} ({self.address})"
        return f"{in_cluster(self.alias, 'HOSTS', self.host_id)} ({self.address})"

    @property
    def name(self) -> str:
        """A short name, as in management commands."""
        return f"{self.alias} {self.host_id}"


def _reports_of(alias: str, timeout: float) -> tuple[list[CheckMessage], list[NodeReport]]:
    try:
        # A separate cluster, so that the health of nodes in this process does not change.
        cluster = conf.make_cluster(alias)
    except ImproperlyConfigured as error:
        return [_unusable(str(error))], []
    try:
        told: list[CheckMessage] = []
        if isinstance(cluster.layout, RedisClusterTopology):
            told = check_layout(alias, cluster, timeout)
        elif isinstance(cluster.layout, SentinelTopology):
            told = check_watched(alias, cluster, timeout)
        if cluster.layout is not None and not cluster.layout.is_known:
            return told, []
        replies, failures = cluster.call_nodes("INFO", timeout=timeout)
        # Hosts whose primaries are unknown have already been reported.
        failures = [failure for failure in failures if cluster.hosts[failure.host_id].is_placed]
        # On connections that are already open, so that round trips are short.
        ahead = _clocks_ahead(cluster, replies, timeout)
        told += check_replicas(alias, cluster, replies, timeout)
        causes = find_causes(cluster, failures, min(timeout, PROBE_SECONDS))
    finally:
        cluster.close()
    nodes = [
        NodeReport(
            alias,
            host_id,
            cluster.get_address(host_id),
            cluster.hosts[host_id].db,
            fields(reply),
            ahead.get(host_id, 0.0),
            is_in_redis_cluster=isinstance(cluster.layout, RedisClusterTopology),
        )
        for host_id, reply in replies.items()
    ]
    messages = [_failed(alias, *found) for found in zip(failures, causes, strict=True)]
    return told + messages, nodes


def _clocks_ahead(
    cluster: Cluster, host_ids: Iterable[int], timeout: float
) -> dict[int, float]:
    """Return by how many seconds nodes' clocks are certainly ahead of ours.

    A clock that was read between `before` and `after`, and shows a time between them, may be
    right.
    """
    before = time()
    replies, _ = cluster.call_nodes("TIME", hosts=host_ids, timeout=timeout)
    after = time()
    clocks = {i: int(reply[0]) + int(reply[1]) / 1e6 for i, reply in replies.items()}
    return {
        host_id: max(0.0, clock - after) + min(0.0, clock - before)
        for host_id, clock in clocks.items()
    }


def _unusable(text: str) -> CheckMessage:
    return checks.Error(text, hint="Run `manage.py check` for details.", id="django_rb.E201")


def _failed(alias: str, failure: NodeFailure, why: tuple[str, str]) -> CheckMessage:
    where = f"{in_cluster(alias, 'HOSTS', failure.host_id)}"
    if isinstance(failure.error, redis.exceptions.NoPermissionError):
        return checks.Info(
            f"{where}: it can be reached, but INFO is not allowed, so it was not checked "
            f"further: {failure.error}",
            hint="Allow INFO for the user: ACL SETUSER … +info.",
            id="django_rb.I201",
        )
    cause, cure = why
    said = f"{cause} ({failure.error})" if cause else str(failure.error)
    return checks.Error(f"{where}: {said}", hint=cure, id="django_rb.E201")


# What nodes report about themselves.


def _of_one_node(node: NodeReport) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    info = node.info
    mode = info.get("redis_mode") or info.get("server_mode") or "standalone"
    if info.get("role") == "slave" and not node.is_in_redis_cluster:
        messages.append(
            checks.Error(
                f"{node.where} is a replica of "
                f"{info.get('master_host')}:{info.get('master_port')}. It refuses writes, or "
                "redirects calls to its master (Valkey 8) as long as it is running.",
                hint="Use the address of the master in HOSTS, or promote the replica: "
                "REPLICAOF NO ONE.",
                id="django_rb.E202",
            )
        )
    if mode != "standalone" and not node.is_in_redis_cluster:
        messages.append(
            checks.Error(
                f"{node.where} runs in {mode} mode, but the settings use it as an independent "
                "server.",
                hint="For a Redis Cluster, set 'TOPOLOGY': 'redis-cluster'. Otherwise use "
                "independent servers (cluster-enabled no): django-rb distributes the keys "
                "itself.",
                id="django_rb.E203",
            )
        )
    if info.get("loading", "0") != "0":
        messages.append(
            checks.Warning(
                f"{node.where} is loading its data and answers with errors until it is done, "
                f"in about {info.get('loading_eta_seconds', '?')} seconds.",
                hint="Run the check again when it is done.",
                id="django_rb.W203",
            )
        )
    if abs(node.ahead) >= MAX_SKEW:
        messages.append(
            checks.Warning(
                f"{node.where}: its clock is {abs(node.ahead):.1f} seconds "
                f"{'ahead of' if node.ahead > 0 else 'behind'} this machine's. Rate limits "
                "and expire_at() are inaccurate by this time.",
                hint="Synchronize the clocks of all machines with NTP.",
                id="django_rb.W204",
            )
        )
    return messages + _of_version(node)


def _of_version(node: NodeReport) -> list[CheckMessage]:
    # Valkey also has a redis_version: the Redis version that it is compatible with.
    product = "Valkey" if "valkey_version" in node.info else "Redis"
    version = node.info.get(f"{product.lower()}_version", "")
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) >= OLDEST_TESTED[product]:
        return []
    return [
        checks.Warning(
            f"{node.where} runs {product} {version}. django-rb is tested with Valkey 8, "
            "Redis 7 and newer.",
            hint="Upgrade the server.",
            id="django_rb.W202",
        )
    ]


def _of_memory(nodes: Iterable[NodeReport]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    unlimited: dict[str, list[int]] = {}
    never_evicting: dict[str, list[int]] = {}
    for node in nodes:
        if node.info.get("maxmemory") == "0":
            unlimited.setdefault(node.alias, []).append(node.host_id)
        elif node.info.get("maxmemory_policy") == "noeviction":
            never_evicting.setdefault(node.alias, []).append(node.host_id)
    for alias, host_ids in unlimited.items():
        messages.append(
            checks.Warning(
                f"{in_cluster(alias, 'HOSTS')}: maxmemory is not set on "
                f"{nodes_listed(host_ids)}. Without it, the server's memory grows until the "
                "machine has none left and the operating system kills the server.",
                hint="Set it in the configuration of the servers: maxmemory 2gb, and "
                "maxmemory-policy allkeys-lru for a cache.",
                id="django_rb.W205",
            )
        )
    for alias, host_ids in never_evicting.items():
        cached = [c.alias for c in sound_caches() if c.cluster == alias]
        if set(cached) - {session_cache()}:
            messages.append(
                checks.Warning(
                    f"{in_cluster(alias, 'HOSTS')}: maxmemory-policy is noeviction on "
                    f"{nodes_listed(host_ids)}, for the cache {listed(map(repr, cached))}. "
                    "When its memory is full, such a server refuses writes instead of "
                    "evicting old keys.",
                    hint="Set maxmemory-policy allkeys-lru (or allkeys-lfu) on the servers.",
                    id="django_rb.W206",
                )
            )
    return messages


def _of_shared_databases(nodes: Iterable[NodeReport]) -> list[CheckMessage]:
    databases: dict[tuple[str, int], list[NodeReport]] = {}
    for node in nodes:
        if run_id := node.info.get("run_id"):
            databases.setdefault((run_id, node.db), []).append(node)
    messages: list[CheckMessage] = []
    for sharing in databases.values():
        by_alias: dict[str, list[NodeReport]] = {}
        for node in sharing:
            by_alias.setdefault(node.alias, []).append(node)
        messages += [_one_twice(alias, same) for alias, same in by_alias.items() if same[1:]]
        if len(by_alias) > 1:
            messages.append(_one_in_two_clusters([same[0] for same in by_alias.values()]))
    return messages


def _one_twice(alias: str, same: Sequence[NodeReport]) -> CheckMessage:
    return checks.Error(
        f"{in_cluster(alias, 'HOSTS')}: {nodes_listed(node.host_id for node in same)} are the "
        "same database of one server "
        f"({listed(dict.fromkeys(node.address for node in same))}). Commands to all nodes "
        "count its keys more than once.",
        hint="Use a separate server for every host id, or at least a separate 'db'.",
        id="django_rb.E204",
    )


def _one_in_two_clusters(nodes: Sequence[NodeReport]) -> CheckMessage:
    return checks.Warning(
        f"{listed(node.name for node in nodes)} are the same database of one server "
        f"({listed(dict.fromkeys(node.address for node in nodes))}). clear() and rb_flushall "
        "of one cluster empty the other.",
        hint="Use another 'db' for the nodes of one of the clusters.",
        id="django_rb.W207",
    )
