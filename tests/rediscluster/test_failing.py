"""Primaries that change: swapped with a replica, killed, and gone with what they owned."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any, TypeVar

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.near.copies import Copies
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.rounds.batch import find, store
from django_rb.engine.topology.redis_cluster import RedisClusterTopology
from django_rb.testing import LocalNodes
from tests.helpers import idle_connections, wait_until
from tests.rediscluster.admin import Admin, slot_of
from tests.rediscluster.load import reading_and_writing

T = TypeVar("T")

KEYS = [b"key:%d" % n for n in range(60)]
NODE_SECONDS = 1.0  # cluster-node-timeout


@pytest.fixture(scope="module")
def replicated() -> Iterator[LocalNodes]:
    """Three primaries, each with a replica; nodes notice quickly that one is gone."""
    options = {
        "cluster-node-timeout": str(round(NODE_SECONDS * 1000)),
        "cluster-require-full-coverage": "no",
        "cluster-allow-reads-when-down": "yes",
        "enable-debug-command": "local",
    }
    with LocalNodes(3, topology="redis-cluster", replicas=1, options=options) as nodes:
        yield nodes


@pytest.fixture
def admin(replicated: LocalNodes) -> Iterator[Admin]:
    with Admin(replicated) as admin:
        yield admin


@pytest.fixture
def cluster(replicated: LocalNodes) -> Iterator[Cluster]:
    """A cluster that knows its nodes, and has values on all of them."""
    cluster = Cluster(replicated.hosts, topology="redis-cluster")
    cluster.get_routing_client().mset({key: key for key in KEYS})
    yield cluster
    cluster.close()


def owner_of_first_slot(cluster: Cluster) -> int:
    assert cluster.layout is not None
    return cluster.layout.get_owner(0)


def replica_of(admin: Admin, primary: int) -> int:
    """Return the number of a primary's replica."""
    return (primary + 3) % 6


def test_parts_are_swapped_and_nobody_notices(admin: Admin, cluster: Cluster) -> None:
    first = admin.owner(0)
    replica = replica_of(admin, first)
    shard = owner_of_first_slot(cluster)
    others = {c for c in idle_connections(cluster) if c.node.host_id != shard}
    wait_until(lambda: admin.is_replica(replica))
    with reading_and_writing(cluster, KEYS) as failed:
        admin.ask(replica, "CLUSTER", "FAILOVER")
        wait_until(lambda: admin.owner(0, 1) == replica)
        wait_until(lambda: cluster.get_address(shard) == f"{admin.address(replica)}/0", 5)
    assert failed == []
    assert owner_of_first_slot(cluster) == shard
    assert list(cluster.layout.since) == [shard]  # the others were what they are from the start
    assert sorted(cluster.connections()) == [0, 1, 2]
    assert cluster.connections()[shard].idle > 0
    assert others <= set(idle_connections(cluster))


def run_awaited(cluster: Cluster, batch: Batch[T]) -> T:
    async def main() -> T:
        try:
            return await cluster.arun(batch)
        finally:
            await cluster.aclose()

    return asyncio.run(main())


def read_until_all_is_there(
    cluster: Cluster, run: Callable[..., Any], successor: str, is_known: threading.Event
) -> None:
    """Read all keys until that works again; check what it was like until then."""
    shard = owner_of_first_slot(cluster)
    theirs = {key for key in KEYS if cluster.router.get_host_for_key(key) != shard}
    known_at = slowest = 0.0
    while True:
        if not known_at and is_known.is_set():
            known_at = monotonic()
        began = monotonic()
        found, failures = run(cluster, find(cluster, KEYS))
        slowest = max(slowest, monotonic() - began)
        assert theirs <= set(found)
        assert {failure.host_id for failure in failures} <= {shard}
        if not failures:
            break
        assert not known_at or monotonic() - known_at < 1.5, failures
        sleep(0.02)
    assert slowest < 1.5
    assert found == {key: key for key in KEYS}
    assert cluster.get_address(shard) == f"{successor}/0"
    assert cluster.health()[shard].state == "up"


def test_a_primary_that_is_killed_has_a_successor(
    admin: Admin, replicated: LocalNodes, cluster: Cluster
) -> None:
    """It was the only one of HOSTS, so that all seeds are gone while the cluster lives."""
    primary = admin.owner(0)
    successor = replica_of(admin, primary)
    witness = next(n for n in range(6) if n not in {primary, successor})
    clusters = [Cluster([replicated.address(primary)], topology="redis-cluster") for _ in "ab"]
    for with_one_seed in clusters:
        with_one_seed.get_routing_client().mget(KEYS)
    admin.ask(primary, "WAIT", 1, 1000)
    is_known = threading.Event()
    runs: tuple[Callable[..., Any], ...] = (Cluster.run, run_awaited)
    admin.nodes.kill(primary)
    try:
        with ThreadPoolExecutor() as threads:
            reading = [
                threads.submit(
                    read_until_all_is_there, one, run, admin.address(successor), is_known
                )
                for one, run in zip(clusters, runs, strict=True)
            ]
            wait_until(lambda: admin.owner(0, witness) == successor)
            is_known.set()
            for read in reading:
                read.result()
        for with_one_seed in clusters:
            assert with_one_seed.get_routing_client().set(KEYS[0], KEYS[0])
            with_one_seed.close()
    finally:
        admin.nodes.restart(primary)
    wait_until(lambda: admin.is_replica(primary))


@contextmanager
def cut_off(admin: Admin, node: int) -> Iterator[None]:
    """Let a node hear nothing that other nodes say; clients reach it."""
    if not any(b"-2 to drop all" in line for line in admin.ask(node, "DEBUG", "HELP")):
        pytest.skip("this server cannot be cut off from others")
    admin.ask(node, "DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
    try:
        yield
    finally:
        admin.ask(node, "DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)


def test_a_node_with_an_old_layout_is_left_when_others_say_so(
    admin: Admin, replicated: LocalNodes, cluster: Cluster
) -> None:
    """It was cut off, has a successor, does not know it, and goes on to answer reads."""
    old = admin.owner(0)
    successor = replica_of(admin, old)
    witness = next(n for n in range(6) if n not in {old, successor})
    key = next(k for k in KEYS if admin.owner(slot_of(k.decode())) == old)
    wait_until(lambda: admin.is_replica(successor))
    admin.ask(old, "WAIT", 1, 1000)
    with cut_off(admin, old):
        wait_until(lambda: admin.owner(0, witness) == successor)
        admin.ask(successor, "SET", key, "new")
        newcomer = Cluster([replicated.address(old)], topology="redis-cluster")
        for one, run in ((cluster, Cluster.run), (newcomer, run_awaited)):
            # Nothing tells it from an owner, until it is to write.
            assert run(one, find(one, [key])) == ({key: key}, [])
            wait_until(lambda: not run(one, store(one, [key], [b"newer"], bytes))[1], 15)  # noqa: B023
            assert run(one, find(one, [key])) == ({key: b"newer"}, [])
        newcomer.close()
    wait_until(lambda: admin.is_replica(old))


def test_slots_without_owner_take_nothing_else_along(admin: Admin, cluster: Cluster) -> None:
    primary = admin.owner(0)
    replica = replica_of(admin, primary)
    shard = owner_of_first_slot(cluster)
    theirs = [key for key in KEYS if cluster.router.get_host_for_key(key) != shard]
    for node in (replica, primary):
        admin.nodes.kill(node)
    try:
        for _ in range(20):
            began = monotonic()
            found, failures = cluster.run(find(cluster, KEYS))
            assert set(found) == set(theirs)
            assert {failure.host_id for failure in failures} == {shard}
            assert monotonic() - began < 3
    finally:
        admin.nodes.restart(primary)
        admin.nodes.restart(replica)
    client = cluster.get_routing_client()
    lost = next(key for key in KEYS if key not in theirs)
    wait_until(lambda: is_set(client, lost))


def test_half_of_the_slots_have_no_owner(
    admin: Admin, cluster: Cluster, transport: str
) -> None:
    parts = [(admin.owner(first), *admin.range_of(admin.owner(first))) for first in (0, 8192)]
    parts[1] = (*parts[1][:2], 8191)
    (one, start, middle), (other, further, end) = parts
    is_lost = [slot_of(key.decode()) <= end for key in KEYS]
    for node in sorted(range(6), key=lambda n: n not in {one, other}):  # owners first
        with suppress(redis.ResponseError):  # a replica is told by its primary
            admin.ask(node, "CLUSTER", "DELSLOTSRANGE", start, end)
    try:
        wait_until(lambda: not admin.covers(0) and not admin.covers(end))
        layout = cluster.layout
        assert isinstance(layout, RedisClusterTopology)
        looks = 0
        while looks < 2:  # before that is known, and when it is
            looks += layout.uncovered == 8192
            began = monotonic()
            found, failures = cluster.run(find(cluster, KEYS), 0.1)
            assert monotonic() - began < 1
            assert set(found) == {k for k, lost in zip(KEYS, is_lost, strict=True) if not lost}
            assert {key for failure in failures for key in failure.keys} == {
                k for k, lost in zip(KEYS, is_lost, strict=True) if lost
            }
    finally:
        admin.ask(one, "CLUSTER", "ADDSLOTSRANGE", start, middle)
        admin.ask(other, "CLUSTER", "ADDSLOTSRANGE", further, end)
        wait_until(lambda: all(admin.covers(s, n) for s in (start, end) for n in range(6)))
    wait_until(lambda: is_set(cluster.get_routing_client(), KEYS[0]))


def is_set(client: redis.Redis, key: bytes) -> bool:
    try:
        return bool(client.set(key, key))
    except redis.RedisError:
        sleep(0.1)
        return False


def test_seeds_that_are_gone_are_not_needed(admin: Admin, replicated: LocalNodes) -> None:
    wrong = {"host": "127.0.0.1", "port": 1}
    hosts = [wrong, {**wrong, **replicated.address(1)}, wrong]
    cluster = Cluster(hosts, topology="redis-cluster")
    assert cluster.get_routing_client().set("key", "value")
    cluster.close()


def test_no_seed_at_all_is_said_with_all_that_were_asked() -> None:
    hosts = [f"redis://:hunter2@127.0.0.1:{port}" for port in (1, 2)]
    cluster = Cluster(hosts, topology="redis-cluster")
    with pytest.raises(redis.ConnectionError) as caught:
        cluster.get_routing_client().get("key")
    said = str(caught.value)
    assert "No node reports the slots of the Redis Cluster." in said
    assert "127.0.0.1:1/0" in said
    assert "127.0.0.1:2/0" in said
    assert "hunter2" not in said
    with pytest.raises(redis.ConnectionError), cluster.all() as client:
        client.ping()


def test_nodes_of_no_cluster_are_named(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, topology="redis-cluster")
    with pytest.raises(redis.ConnectionError, match="It is not a node of a cluster"):
        cluster.get_routing_client().get("key")


@pytest.mark.usefixtures("transport")
def test_a_silent_node_costs_its_keys_only_with_near_copies(redis_cluster: LocalNodes) -> None:
    options = {"socket_timeout": 0.2}
    cluster = Cluster(redis_cluster.hosts, topology="redis-cluster", pool_options=options)
    cluster.get_routing_client().mset({key: key for key in KEYS})
    cluster.trackings.keepers = (copies := Copies(2**20, 60),)
    silent = owner_of_first_slot(cluster)
    owners = cluster.router.get_hosts_for_keys(KEYS)
    silent_keys = [key for key, owner in zip(KEYS, owners, strict=True) if owner == silent]
    assert cluster.run(find(cluster, KEYS, copies=copies))[1] == []
    copies.clear()
    with Admin(redis_cluster) as admin:
        number = admin.owner(0)
    redis_cluster.pause(number)
    try:
        found, failures = cluster.run(find(cluster, KEYS, copies=copies))
    finally:
        redis_cluster.resume(number)
    assert [(failure.host_id, list(failure.keys)) for failure in failures] == [
        (silent, silent_keys)
    ]
    assert found == {key: key for key in KEYS if key not in silent_keys}
    cluster.close()
