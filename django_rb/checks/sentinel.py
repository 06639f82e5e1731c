"""Checks of Sentinels and their shards: `manage.py check --tag rb_connect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import redis
from django.core import checks
from django.core.checks import CheckMessage

from ..engine import Cluster
from ..engine.rounds.commands import run_commands
from ..engine.topology.sentinel import SentinelTopology
from ..engine.topology.sentinel_replies import read_address
from .site import in_cluster, listed

FEWEST_SENTINELS = 3


def check_watched(alias: str, cluster: Cluster, timeout: float) -> list[CheckMessage]:
    """Ask all Sentinels where primaries are, and whether they could replace them."""
    assert isinstance(cluster.layout, SentinelTopology)
    try:
        cluster.learn(timeout)
    except redis.RedisError as error:
        return [
            checks.Error(
                f"{in_cluster(alias, 'SENTINELS')}: {error}",
                hint="Are the Sentinels up, and are SENTINEL_OPTIONS right: password and TLS? "
                "Do they name addresses that this machine reaches (ADDRESS_MAP)?",
                id="django_rb.E208",
            )
        ]
    return list(_messages(alias, cluster, cluster.layout, timeout))


def _messages(
    alias: str, cluster: Cluster, layout: SentinelTopology, timeout: float
) -> Iterator[CheckMessage]:
    for host_id, node in cluster.nodes.items():
        if not node.info.is_placed:
            yield checks.Error(
                f"{in_cluster(alias, 'HOSTS', host_id)}: {node.health.get().error}",
                hint="Name the shard as `sentinel monitor` does.",
                id="django_rb.E209",
            )
    if len(layout.sentinels) < FEWEST_SENTINELS:
        yield checks.Warning(
            f"{in_cluster(alias, 'SENTINELS')}: {len(layout.sentinels)} named. Sentinels "
            "replace a primary if most of them agree, and two of which one is dead do not.",
            hint=f"Have {FEWEST_SENTINELS} Sentinels on machines of their own, and name all.",
            id="django_rb.W209",
        )
    names = sorted({node.info.master_name or "" for node in cluster.nodes.values()})
    asked = [(node, name) for node in layout.sentinels for name in names]
    commands = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name) for _, name in asked]
    commands += [("SENTINEL", "CKQUORUM", name) for _, name in asked]
    owners = [node.host_id for node, _ in asked] * 2
    replies = cluster.run(run_commands(owners, commands, bound=range(len(owners))), timeout)
    for name in names:
        yield from _of_name(alias, name, asked, replies)


def _of_name(
    alias: str, name: str, asked: Sequence[tuple[Any, str]], replies: Sequence[Any]
) -> Iterator[CheckMessage]:
    said: dict[str, list[str]] = {}
    without_quorum: list[str] = []
    for position, (sentinel, asked_name) in enumerate(asked):
        if asked_name != name:
            continue
        if place := read_address(replies[position]):
            said.setdefault(f"{place[0]}:{place[1]}", []).append(sentinel.address)
        quorum = replies[len(asked) + position]
        if isinstance(quorum, redis.ResponseError) and "NOQUORUM" in str(quorum):
            without_quorum.append(sentinel.address)
    if len(said) > 1:
        views = "; ".join(f"{place} by {listed(by)}" for place, by in said.items())
        yield checks.Warning(
            f"{in_cluster(alias)}: Sentinels disagree on the primary of {name!r}: {views}.",
            hint="During a failover that is so for a moment. If it stays so, they watch "
            "different shards of one name, or do not reach each other (SENTINEL SENTINELS).",
            id="django_rb.W210",
        )
    if without_quorum:
        yield checks.Warning(
            f"{in_cluster(alias)}: nobody could replace the primary of {name!r}: the quorum "
            f"cannot be reached, says {listed(without_quorum)}.",
            hint="`SENTINEL CKQUORUM` says how many are missing. Start them, or lower the "
            "quorum of `sentinel monitor`.",
            id="django_rb.W211",
        )
