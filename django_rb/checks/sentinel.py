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
                hint="Check that the Sentinels are running, that SENTINEL_OPTIONS (password, "
                "TLS) are correct, and that this machine can reach the addresses that they "
                "report (ADDRESS_MAP).",
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
                hint="Use the name of the shard in `sentinel monitor`.",
                id="django_rb.E209",
            )
    if len(layout.sentinels) < FEWEST_SENTINELS:
        yield checks.Warning(
            f"{in_cluster(alias, 'SENTINELS')}: only {len(layout.sentinels)} listed. "
            "Sentinels replace a primary only if most of them agree: with two, both must be "
            "running.",
            hint=f"Run {FEWEST_SENTINELS} Sentinels on different machines, and list all of "
            "them.",
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
            hint="This is normal for a moment during a failover. Otherwise they monitor "
            "different shards with the same name, or cannot connect to each other (SENTINEL "
            "SENTINELS).",
            id="django_rb.W210",
        )
    if without_quorum:
        yield checks.Warning(
            f"{in_cluster(alias)}: the primary of {name!r} could not be replaced: the quorum "
            f"cannot be reached, according to {listed(without_quorum)}.",
            hint="Start the Sentinels that are missing (see `SENTINEL CKQUORUM`), or lower "
            "the quorum of `sentinel monitor`.",
            id="django_rb.W211",
        )
