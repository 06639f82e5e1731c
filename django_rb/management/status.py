"""The status of nodes as they report it, and totals for a cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median
from time import time
from typing import Any

import redis

from ..engine import BadHostSetup, Cluster
from ..engine.rounds.batch import call_each
from .base import Deadline, NodeName, all_nodes
from .timing import timed

PINGS = 5

# The maximum time that one node is sent PINGs before the next one's turn, in seconds.
TURN_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Ping:
    """The round-trip times of PINGs, in seconds, as measured by this process."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """A replica, as its primary reports it.

    Attributes:
        address: host and port.
        state: "online" if it is up to date, or catching up.
        lag_seconds: seconds since its last acknowledgement.
        lag_bytes: bytes that it has not acknowledged.
    """

    address: str
    state: str
    lag_seconds: int | None = None
    lag_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Replication:
    """The replication of a master to its replicas, or of a replica from its master.

    Attributes:
        link: a replica's connection to its master, "up" or "down"; None for a master.
        replicas: how many are connected.
        lag_seconds: for a replica, seconds since its master's last message. For a master, the
            largest number of seconds since a replica's last acknowledgement.
        lag_bytes: for a replica, bytes that it received and has not applied. For a master,
            bytes that the slowest replica has not acknowledged.
        connected: the replicas of a master.
    """

    link: str | None = None
    replicas: int | None = None
    lag_seconds: int | None = None
    lag_bytes: int | None = None
    connected: tuple[ReplicaStatus, ...] | None = None


@dataclass
class Said:
    """A node's reply to INFO, the seconds that PINGs took, and errors."""

    info: bytes
    pings: list[float] = field(default_factory=list)
    error: Exception | None = None


@dataclass(kw_only=True)
class NodeStatus:
    """The status of one node at one time; None is unknown.

    Attributes:
        error: why something is missing.
        role: "master" or "replica".
        version: of the server, as in "valkey 8.1.8".
        up_since: Unix time of the server's start; `uptime` is in seconds.
        memory_used, memory_limit: bytes; a limit of 0 means none.
        keys: in the node's database. All other numbers are for the whole server.
        hits, misses: look-ups of keys that existed, and that did not. `hit_rate` is the
            share of hits, from 0 to 1; None if there were no look-ups.
        evictions: keys that were evicted.
        tracked_keys: keys whose changes it reports to clients, such as caches with near copies.
    """

    error: str | None = None
    role: str | None = None
    version: str | None = None
    up_since: int | None = None
    uptime: int | None = None
    memory_used: int | None = None
    memory_limit: int | None = None
    keys: int | None = None
    hits: int | None = None
    misses: int | None = None
    hit_rate: float | None = None
    evictions: int | None = None
    ops_per_second: int | None = None
    clients: int | None = None
    tracked_keys: int | None = None
    ping: Ping | None = None
    replication: Replication = Replication()


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The largest node's share divided by the mean: 1 is even; None if there is nothing."""

    keys: float | None
    memory: float | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The totals of the nodes of a cluster that answered; None is unknown.

    Attributes:
        memory_limit: 0 if one of them has none.
        hit_rate: of all look-ups of all nodes.
    """

    memory_used: int | None
    memory_limit: int | None
    keys: int | None
    hits: int | None
    misses: int | None
    hit_rate: float | None
    evictions: int | None
    ops_per_second: int | None
    clients: int | None
    tracked_keys: int | None
    balance: Balance


async def fetch_status(
    chosen: Mapping[str, Cluster], timeout: float | None
) -> tuple[dict[NodeName, Said], dict[NodeName, Exception]]:
    """Ask all nodes of the clusters: for INFO in parallel, then PINGs one node after another.

    It runs on an event loop, so that a reply is read at once, even if other nodes are slower.

    Args:
        timeout: seconds for everything.

    Returns:
        The replies of the nodes, and the errors of those that did not reply at all.
    """
    deadline = Deadline(timeout)
    said: dict[NodeName, Said] = {}
    errors: dict[NodeName, Exception] = {}

    async def call(node: NodeName, command: str) -> bytes:
        alias, host_id = node
        batch = call_each(chosen[alias], {host_id: (command,)})
        replies, failures = await chosen[alias].arun(batch, deadline.left())
        for failure in failures:
            raise failure.error
        reply: bytes = replies[host_id]
        return reply

    async def call_info(node: NodeName) -> NodeName:
        try:
            info = await call(node, "INFO")
            if b"\r\nrole:slave" in info and not chosen[node[0]].router.has_slots:
                await call(node, "DBSIZE")  # the reply may be REDIRECT
                info = await call(node, "INFO")
            said[node] = Said(info)
        except (redis.RedisError, BadHostSetup) as error:
            errors[node] = error
        return node

    async def call_pings(node: NodeName) -> None:
        try:
            for _ in range(PINGS):
                await call(node, "PING")
        except redis.RedisError as error:
            said[node].error = error

    pinging: list[asyncio.Task[None]] = []
    with ExitStack() as stack:
        times = {alias: stack.enter_context(timed(chosen[alias])) for alias in chosen}
        for is_informed in asyncio.as_completed(map(call_info, all_nodes(chosen))):
            node = await is_informed
            if node in said:
                # PINGs at the same time would slow each other down.
                pinging.append(asyncio.create_task(call_pings(node)))
                await asyncio.wait(pinging[-1:], timeout=TURN_SECONDS)
        await asyncio.gather(*pinging)
    for cluster in chosen.values():
        await cluster.aclose()
    for (alias, host_id), one in said.items():
        one.pings = times[alias].by_node[host_id][1:]  # without that of INFO
    return said, errors


def read_status(said: Said, client: redis.Redis, database: int) -> NodeStatus:
    """Return the status of a node from its replies.

    Args:
        client: of redis-py; it parses INFO, and does no I/O.
        database: the database whose keys are counted.
    """
    status = read_info(client.response_callbacks["INFO"](said.info), database)
    if b"# Keyspace" not in said.info:  # (an empty database is also missing there)
        status.keys = None
    if times := said.pings:
        status.ping = Ping(min=min(times), median=median(times), max=max(times))
    if said.error is not None:
        status.error = str(said.error)
    return status


def read_info(info: Mapping[str, Any], database: int) -> NodeStatus:
    """Return the status of a node from its INFO, as parsed by redis-py.

    https://valkey.io/commands/info/
    """

    def number(name: str) -> int | None:
        value = info.get(name)
        return int(value) if isinstance(value, int | float) else None

    server = info.get("server_name", "redis")
    version = info.get(f"{server}_version")
    uptime = number("uptime_in_seconds")
    hits, misses = number("keyspace_hits"), number("keyspace_misses")
    return NodeStatus(
        role="replica" if info.get("role") == "slave" else info.get("role"),
        version=None if version is None else f"{server} {version}",
        up_since=None if uptime is None else round(time() - uptime),
        uptime=uptime,
        memory_used=number("used_memory"),
        memory_limit=number("maxmemory"),
        keys=info.get(f"db{database}", {"keys": 0})["keys"],
        hits=hits,
        misses=misses,
        hit_rate=share_of_hits(hits, misses),
        evictions=number("evicted_keys"),
        ops_per_second=number("instantaneous_ops_per_sec"),
        clients=number("connected_clients"),
        tracked_keys=number("tracking_total_keys"),
        replication=read_replication(info),
    )


def read_replication(info: Mapping[str, Any]) -> Replication:
    """Return the replication part of an INFO."""
    replicas: list[dict[str, Any]] = [
        value
        for name, value in info.items()
        if re.fullmatch(r"slave\d+", name) and isinstance(value, dict)
    ]
    if info.get("role") == "slave":
        link = info.get("master_link_status")
        silence = info.get(
            "master_last_io_seconds_ago" if link == "up" else "master_link_down_since_seconds",
            -1,
        )
        received = info.get("slave_read_repl_offset")
        applied = info.get("slave_repl_offset")
        return Replication(
            link=link,
            replicas=len(replicas),
            lag_seconds=silence if silence >= 0 else None,  # -1: never yet
            lag_bytes=None if received is None or applied is None else received - applied,
        )
    written = info.get("master_repl_offset", 0)
    return Replication(
        replicas=len(replicas),
        lag_seconds=max((replica.get("lag", 0) for replica in replicas), default=None),
        lag_bytes=max(
            (written - replica.get("offset", written) for replica in replicas), default=None
        ),
        connected=tuple(
            ReplicaStatus(
                address=f"{replica.get('ip')}:{replica.get('port')}",
                state=str(replica.get("state")),
                lag_seconds=replica.get("lag"),
                lag_bytes=written - replica.get("offset", written),
            )
            for replica in replicas
        ),
    )


def share_of_hits(hits: int | None, misses: int | None) -> float | None:
    """Return hits as a share of all look-ups, from 0 to 1; None if there were none."""
    if hits is None or misses is None or hits + misses == 0:
        return None
    return hits / (hits + misses)


def sum_up(statuses: Iterable[NodeStatus]) -> Totals:
    """Return the totals of the nodes that answered."""
    known = list(statuses)

    def values(name: str) -> list[int]:
        shares = (getattr(status, name) for status in known)
        return [share for share in shares if share is not None]

    def total(name: str) -> int | None:
        numbers = values(name)
        return sum(numbers) if numbers else None

    limits = values("memory_limit")
    hits, misses = total("hits"), total("misses")
    return Totals(
        memory_used=total("memory_used"),
        memory_limit=0 if 0 in limits else total("memory_limit"),
        keys=total("keys"),
        hits=hits,
        misses=misses,
        hit_rate=share_of_hits(hits, misses),
        evictions=total("evictions"),
        ops_per_second=total("ops_per_second"),
        clients=total("clients"),
        tracked_keys=total("tracked_keys"),
        balance=Balance(
            keys=largest_over_mean(values("keys")),
            memory=largest_over_mean(values("memory_used")),
        ),
    )


def largest_over_mean(shares: Sequence[int]) -> float | None:
    """Return the largest share divided by the mean."""
    return max(shares) / fmean(shares) if any(shares) else None
