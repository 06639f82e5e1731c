"""Primaries that change, with real Sentinels: demoted by hand, killed, stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.sentinel.admin import Admin, at_work, key_of, make_cluster

SECONDS = 20  # that a failover takes at most, on a busy machine


@pytest.fixture(scope="module")
def watched() -> Iterator[LocalNodes]:
    """Shards with a replica each; every test has one of its own."""
    with LocalNodes(6, topology="sentinel", replicas=1, failover_seconds=0.4) as nodes:
        yield nodes


@pytest.fixture
def admin(watched: LocalNodes) -> Admin:
    return Admin(watched)


@pytest.fixture
def cluster(watched: LocalNodes, transport: str) -> Iterator[Cluster]:
    cluster = make_cluster(watched)
    yield cluster
    cluster.close()


def shard_of(first: int, transport: str) -> int:
    return first + (transport == "loops")


def write(cluster: Cluster, key: str) -> bool:
    try:
        return bool(cluster.get_routing_client().set(key, "new"))
    except redis.RedisError:
        return False


def test_a_primary_is_demoted_by_hand(cluster: Cluster, admin: Admin, transport: str) -> None:
    shard = shard_of(0, transport)
    key, old, new = key_of(cluster, shard), admin.primary(shard), admin.replica(shard)
    client = cluster.get_routing_client()
    local: Any = cluster.get_local_client(shard)
    client.set(key, "old")
    assert admin.connections(old) >= 1
    subscriber = local.pubsub()
    subscriber.subscribe("news")
    with at_work(lambda: client.set(key, "old"), lambda: client.get(key)) as failed:
        admin.fail_over(shard)
        # The old primary goes on for ten seconds, and would take whatever it is sent.
        wait_until(lambda: cluster.get_address(shard) == admin.address(new), SECONDS)
        # All but the subscriber's; a loop closes its own when it runs.
        wait_until(lambda: client.get(key) and admin.connections(old) <= 1)
        assert admin.role(old) == "master"
    assert failed == []
    admin.ask(old, "SET", key, "of the old primary")
    assert client.get(key) == b"old"
    assert local.get(key) == b"old"
    with pytest.raises(redis.ConnectionError, match="no longer the primary"):
        subscriber.subscribe("more")
    assert admin.connections(old) == 0
    with cluster.all() as everybody:
        everybody.ping()


def test_a_primary_is_killed(
    cluster: Cluster, admin: Admin, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard = shard_of(2, transport)
    key, old, new = key_of(cluster, shard), admin.primary(shard), admin.replica(shard)
    client = cluster.get_routing_client()
    client.set(key, "old")
    wait_until(lambda: admin.ask(new, "GET", key))
    other = key_of(cluster, 5 - shard)
    admin.nodes.kill(old)
    with at_work(lambda: client.set(other, "value")) as failed_elsewhere:
        with pytest.raises(redis.ConnectionError):
            client.get(key)
        wait_until(lambda: write(cluster, key), SECONDS)
    assert failed_elsewhere == []
    assert admin.ask(new, "GET", key) == b"new"
    assert cluster.get_address(shard) == admin.address(new)
    said = [r.getMessage() for r in caplog.records if r.name == "django_rb.topology"]
    assert len(said) == 1
    assert f"Node {shard} is now {admin.address(new)}, not " in said[0]
    assert cluster.health()[shard].state == "up"
    back = [r.getMessage() for r in caplog.records if "is up again" in r.getMessage()]
    assert len(back) == 1


def test_a_primary_stands_still_and_comes_back_as_one(
    cluster: Cluster, admin: Admin, transport: str
) -> None:
    shard = shard_of(4, transport)
    key, old, new = key_of(cluster, shard), admin.primary(shard), admin.replica(shard)
    assert write(cluster, key)
    admin.nodes.pause(old)
    try:
        assert not write(cluster, key)
        wait_until(lambda: write(cluster, key), SECONDS)
    finally:
        admin.nodes.resume(old)
    assert admin.role(old) == "master"  # it believes so still
    admin.ask(old, "CONFIG RESETSTAT")
    for _ in range(20):
        assert write(cluster, key)
    assert "cmdstat_set" not in admin.ask(old, "INFO", "commandstats")
    assert admin.role(new) == "master"
    assert admin.connections(old) == 0
