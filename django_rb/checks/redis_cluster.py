"""Checks of a Redis Cluster: `manage.py check --tag rb_connect`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import redis
from django.core import checks
from django.core.checks import CheckMessage

from ..engine import Cluster
from ..engine.rounds.commands import run_commands
from ..engine.routing.slots import CLUSTER_SLOTS
from ..engine.topology.redis_cluster import RedisClusterTopology
from ..engine.topology.slots_replies import Shard, read_slots
from .site import in_cluster, nodes_listed

_QUESTIONS = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))


def check_layout(alias: str, cluster: Cluster, timeout: float) -> list[CheckMessage]:
    """Ask the primaries of a Redis Cluster whether it is complete, and whether they agree."""
    try:
        cluster.learn(timeout)
    except redis.RedisError as error:
        return [
            checks.Error(
                f"{in_cluster(alias, 'HOSTS')}: {error}",
                hint="List some nodes of the cluster (cluster-enabled yes) by host and port. "
                "Check that they are running, that the settings for password and TLS are "
                "correct, and that no firewall blocks this machine.",
                id="django_rb.E205",
            )
        ]
    assert cluster.layout is not None
    host_ids = list(cluster.nodes)
    owners = [host_id for host_id in host_ids for _ in _QUESTIONS]
    answers = cluster.run(run_commands(owners, _QUESTIONS * len(host_ids)), timeout)
    infos = dict(zip(host_ids, answers[0::2], strict=True))
    slots = dict(zip(host_ids, answers[1::2], strict=True))
    return list(_messages(alias, cluster, infos, slots))


def _messages(
    alias: str, cluster: Cluster, infos: dict[int, Any], slots: dict[int, Any]
) -> Iterator[CheckMessage]:
    layout = cluster.layout
    assert isinstance(layout, RedisClusterTopology)
    if layout.uncovered:
        yield checks.Error(
            f"{in_cluster(alias)}: {layout.uncovered} of {CLUSTER_SLOTS} slots have no owner. "
            "Commands on their keys fail.",
            hint="Restart nodes that are down, or run `valkey-cli --cluster fix HOST:PORT` to "
            "assign the slots. A replica for each primary prevents this.",
            id="django_rb.E206",
        )
    bad = [i for i, info in infos.items() if _state(info) not in {None, "ok"}]
    if bad:
        yield checks.Error(
            f"{in_cluster(alias)}: cluster_state is not ok on {nodes_listed(bad)}. Such a "
            "node replies with CLUSTERDOWN.",
            hint="See CLUSTER INFO and CLUSTER NODES of the node. It cannot connect to most "
            "primaries, or slots have no owner.",
            id="django_rb.E207",
        )
    views: dict[tuple[tuple[int, int, str], ...], list[int]] = {}
    for host_id, reply in slots.items():
        if not isinstance(reply, Exception):
            views.setdefault(_view(read_slots(reply, ("", 0))), []).append(host_id)
    if len(views) > 1:
        groups = " and ".join(nodes_listed(host_ids) for host_ids in views.values())
        yield checks.Warning(
            f"{in_cluster(alias)}: {groups} do not agree on who owns which slots.",
            hint="This is normal for a moment while slots are migrated. Otherwise nodes "
            "cannot connect to each other: see CLUSTER LINKS and the ports of the cluster bus.",
            id="django_rb.W208",
        )


def _state(info: Any) -> str | None:
    found = re.search(rb"cluster_state:(\w+)", info) if isinstance(info, bytes) else None
    return found and found[1].decode()


def _view(shards: list[Shard]) -> tuple[tuple[int, int, str], ...]:
    return tuple(
        sorted(
            (first, last, shard.primary.node_id)
            for shard in shards
            for first, last in shard.slots
        )
    )
