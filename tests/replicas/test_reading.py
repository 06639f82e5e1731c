"""Which commands go to replicas, and to which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import find
from django_rb.testing import LocalNodes
from tests.rediscluster.admin import Questions
from tests.replicas.conftest import Asked

KEYS = [f"key:{n}" for n in range(40)]
NAMES = [key.encode() for key in KEYS]


@pytest.fixture(scope="module", params=["static", "sentinel", "redis-cluster"])
def nodes(request: pytest.FixtureRequest) -> Iterator[LocalNodes]:
    count = 3 if request.param == "redis-cluster" else 2
    # With Sentinels parts stay as they are, whatever a test does to nodes.
    with LocalNodes(count, topology=request.param, replicas=2, failover_seconds=30) as nodes:
        yield nodes


@pytest.fixture
def asked(nodes: LocalNodes) -> Asked:
    nodes.flush()
    return Asked(nodes)


def store(cluster: Cluster, asked: Asked) -> Any:
    client = cluster.get_routing_client()
    client.mset({key: key for key in KEYS})
    asked.wait()
    asked.reset()
    return client


def test_reads_take_turns_and_writes_do_not(
    nodes: LocalNodes, asked: Asked, make_cluster: Callable[..., Cluster], transport: str
) -> None:
    cluster = make_cluster(nodes, "prefer-replica")
    questions = Questions()
    cluster.observers = (questions,)
    client = store(cluster, asked)
    for _ in range(2):
        assert client.mget(KEYS) == NAMES
        assert cluster.run(find(cluster, NAMES))[0] == dict(zip(NAMES, NAMES, strict=True))
    for key in KEYS:
        assert client.get(key) == key.encode()
        assert client.exists(key) == 1
    replicas = set(range(nodes.count, 3 * nodes.count))
    assert set(asked.by_node("get", "mget", "exists")) == replicas
    assert questions.redirects == 0  # each connection to a replica may read
    asked.reset()
    with cluster.map() as mapped:
        mapped.set(KEYS[0], "new")
        promise = mapped.get(KEYS[0])
    assert promise.value == b"new"
    lock = client.lock("lock", timeout=10)
    assert lock.acquire()
    assert lock.locked()
    assert lock.owned()
    with cluster.all() as everybody:
        everybody.dbsize()
    primaries = set(range(nodes.count))
    assert set(asked.by_node("get")) <= primaries
    assert set(asked.by_node("dbsize")) == primaries


@pytest.mark.parametrize("read_from", ["primary", "prefer-primary"])
def test_primaries_are_read_from_while_they_live(
    nodes: LocalNodes, asked: Asked, make_cluster: Callable[..., Cluster], read_from: str
) -> None:
    client = store(make_cluster(nodes, read_from), asked)
    assert client.mget(KEYS) == NAMES
    assert set(asked.by_node("get", "mget")) == set(range(nodes.count))


def test_a_replica_that_dies_costs_no_read(
    nodes: LocalNodes, asked: Asked, make_cluster: Callable[..., Cluster], transport: str
) -> None:
    cluster = make_cluster(nodes, "prefer-replica")
    client = store(cluster, asked)
    assert client.mget(KEYS) == NAMES
    broken = range(nodes.count, 2 * nodes.count)
    for number in broken:
        nodes.kill(number)
    try:
        for _ in range(5):
            assert client.mget(KEYS) == NAMES
    finally:
        for number in broken:
            nodes.restart(number)


def test_a_primary_that_stands_still_costs_no_read(
    nodes: LocalNodes, asked: Asked, make_cluster: Callable[..., Cluster], transport: str
) -> None:
    cluster = make_cluster(nodes, "prefer-primary")
    client = store(cluster, asked)
    key = next(key for key in KEYS if cluster.get_host_for_key(key) == 0)
    nodes.pause(0)
    try:
        assert client.get(key) == key.encode()
        assert client.mget(KEYS) == NAMES
        with pytest.raises(redis.TimeoutError):
            client.set(key, "new")
    finally:
        nodes.resume(0)
