"""A primary that Sentinels and its replica no longer reach, and that believes to be primary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.faults.proxy import Proxy
from tests.helpers import wait_until
from tests.sentinel.admin import Admin, at_work, key_of, make_cluster

SECONDS = 20  # that a failover takes at most, on a busy machine
SITE = {"username": "site", "password": "secret"}


@pytest.fixture(scope="module")
def watched() -> Iterator[LocalNodes]:
    """Shards with a replica each, one for each test."""
    with LocalNodes(4, topology="sentinel", replicas=1, failover_seconds=0.4) as nodes:
        admin = Admin(nodes)
        for node in range(admin.first_sentinel):
            admin.ask(node, "ACL", "SETUSER", "site", "on", ">secret", "~*", "&*", "+@all")
        yield nodes


@pytest.fixture
def admin(watched: LocalNodes) -> Admin:
    return Admin(watched)


def make(nodes: LocalNodes, **options: Any) -> Cluster:
    """Return a cluster that comes as a user of its own."""
    hosts = {host_id: {**host, **SITE} for host_id, host in nodes.hosts.items()}
    return make_cluster(nodes, hosts=hosts, **options)


def cut_off(admin: Admin, node: int) -> None:
    """Let a node have no more to do with Sentinels and replicas, which are another user."""
    admin.ask(node, "CONFIG", "SET", "requirepass", "of-nobody")
    for client in admin.ask(node, "CLIENT LIST"):
        if client["name"].startswith("sentinel-") or "S" in client["flags"]:
            admin.ask(node, "CLIENT", "KILL", "ID", client["id"])


def join_again(admin: Admin, node: int) -> None:
    password = admin.nodes.address(node)["password"]
    admin.ask(node, "CONFIG", "SET", "requirepass", password)


def check_that_nothing_goes_to(admin: Admin, node: int, cluster: Cluster, key: str) -> None:
    admin.ask(node, "CONFIG", "RESETSTAT")
    client = cluster.get_routing_client()
    for number in range(20):
        assert client.set(key, number)
        assert client.get(key) == b"%d" % number
    stats = admin.ask(node, "INFO", "commandstats")
    assert not {"cmdstat_set", "cmdstat_get"} & set(stats)
    assert admin.connections(node) == 0


def test_clients_reach_it_still(watched: LocalNodes, admin: Admin, transport: str) -> None:
    shard = int(transport == "loops")
    cluster = make(watched)
    key, old, new = key_of(cluster, shard), admin.primary(shard), admin.replica(shard)
    client = cluster.get_routing_client()
    assert client.set(key, "value")
    with at_work(lambda: client.set(key, "value"), lambda: client.get(key)) as failed:
        cut_off(admin, old)
        wait_until(lambda: cluster.get_address(shard) == admin.address(new), SECONDS)
        wait_until(lambda: client.get(key) and not admin.connections(old))  # a loop's as well
        assert admin.role(old) == "master"
    check_that_nothing_goes_to(admin, old, cluster, key)
    with at_work(lambda: client.set(key, "value"), lambda: client.get(key)) as failed_later:
        join_again(admin, old)
        place = watched.address(new)
        # What Sentinels do after ten seconds.
        admin.ask(old, "REPLICAOF", place["host"], place["port"])
        wait_until(lambda: admin.ask(old, "GET", key) == b"value", SECONDS)
        assert admin.connections(old) == 0
    assert [*map(str, failed), *map(str, failed_later)] == []
    assert cluster.get_address(shard) == admin.address(new)
    cluster.close()


def test_clients_do_not_reach_it_either(
    watched: LocalNodes, admin: Admin, transport: str
) -> None:
    shard = 2 + (transport == "loops")
    old, new = admin.primary(shard), admin.replica(shard)
    place = admin.nodes.address(old)
    with Proxy((place["host"], place["port"])) as proxy:
        of_proxy = f"{proxy.address}:{proxy.port}"
        cluster = make(watched, address_map={admin.address(old)[:-2]: of_proxy})
        key = key_of(cluster, shard)
        client = cluster.get_routing_client()
        assert client.set(key, "value")
        assert proxy.open
        with proxy.black_hole():
            cut_off(admin, old)
            wait_until(lambda: is_written(client, key), SECONDS)
            assert admin.ask(new, "GET", key) == b"new"
        accepted = proxy.accepted  # there is a way to it again
        assert admin.role(old) == "master"
        check_that_nothing_goes_to(admin, old, cluster, key)
        assert (proxy.accepted, proxy.open) == (accepted, 0)
        cluster.close()
    join_again(admin, old)


def is_written(client: Any, key: str) -> bool:
    try:
        return bool(client.set(key, "new"))
    except (redis.ConnectionError, redis.TimeoutError):
        return False
