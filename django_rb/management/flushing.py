"""The databases that a flush empties: each once, even if several clusters have it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import Cluster
from .base import NodeName, call_clusters, name_of


@dataclass
class Target:
    """One node's database, or all databases of its server, to be flushed once.

    Attributes:
        names: the nodes that have it, as (alias, host id); the settings of the first one are
            used to connect.
        keys: the number of keys, None until it is known.
    """

    names: list[NodeName]
    address: str
    database: int | str
    keys: int | None = None
    error: str = ""
    result: str = ""


def find_targets(chosen: Mapping[str, Cluster], *, all_databases: bool) -> list[Target]:
    """Return what to flush. What several nodes share is listed once."""
    targets: dict[tuple[str, int | str], Target] = {}
    for alias, cluster in chosen.items():
        for host_id, info in cluster.hosts.items():
            address = info.address.rpartition("/")[0]
            database = "all" if all_databases else info.db
            target = targets.setdefault((address, database), Target([], address, database))
            target.names.append((alias, host_id))
    return list(targets.values())


def call(
    chosen: Mapping[str, Cluster],
    targets: Iterable[Target],
    *command: str,
    timeout: float | None,
) -> list[tuple[Target, Any]]:
    """Run a command on all targets in parallel; return replies, and store errors in targets."""
    by_name = {target.names[0]: target for target in targets}
    replies, errors = call_clusters(chosen, by_name, *command, timeout=timeout)
    for name, target in by_name.items():
        target.error = str(errors.get(name, ""))
    return [(by_name[name], reply) for name, reply in replies.items()]


def count_keys(
    chosen: Mapping[str, Cluster],
    targets: Iterable[Target],
    timeout: float | None,
    *,
    all_databases: bool,
) -> None:
    """Ask each target how many keys it has."""
    command = ("INFO", "keyspace") if all_databases else ("DBSIZE",)
    for target, reply in call(chosen, targets, *command, timeout=timeout):
        counts = re.findall(rb"(?m)^db\d+:keys=(\d+)", reply) if all_databases else [reply]
        target.keys = sum(map(int, counts))


def names(target: Target) -> str:
    """Return the nodes of a target as text: ``default 0, sessions 0``."""
    return ", ".join(map(name_of, target.names))
