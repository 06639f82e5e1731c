"""Primaries that are demoted by hand: calls follow them to their successors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.errors import Redirected
from django_rb.engine.topology import static
from tests.helpers import wait_until
from tests.redirects.conftest import Admin
from tests.sentinel.admin import at_work

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


def test_a_failover_under_load_costs_no_call(
    cluster: Cluster, admin: Admin, transport: str
) -> None:
    client = cluster.get_routing_client()
    client.set("key", "value")
    done = {"write": 0, "count": 0, "read": 0}

    def write() -> None:
        client.set(f"key:{done['write']}", "value")
        done["write"] += 1

    def count() -> None:
        client.eval(ADD, 1, "sum", 1)
        done["count"] += 1

    def read() -> None:
        assert client.get("key") == b"value"
        assert client.mget(["key", "other"]) == [b"value", None]
        with cluster.map() as mapped:
            mapped.incr("total")
            mapped.get("key")
        done["read"] += 1

    with at_work(write, count, read) as failed:
        admin.fail_over(0, 1)
        wait_until(lambda: cluster.nodes[0].address == admin.address(1))
        # On a busy machine, a call must not last through both changes.
        before = done.copy()
        wait_until(lambda: failed or all(done[call] > before[call] for call in done))
        admin.fail_over(1, 0)
        wait_until(lambda: cluster.nodes[0].address == admin.address(0))
    assert failed == []
    assert admin.ask(0, "GET", "sum") == b"%d" % done["count"]  # each was added once
    assert admin.ask(0, "DBSIZE") >= done["write"]


def test_what_a_process_knows_after_replicaof(
    cluster: Cluster,
    admin: Admin,
    make_cluster: Callable[..., Cluster],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = cluster.get_routing_client()
    local: Any = cluster.get_local_client(0)
    client.set("key", "old")
    assert local.get("key") == b"old"
    wait_until(lambda: admin.ask(1, "GET", "key"))
    assert {c["capa"] for c in admin.clients(0)} == {"r", ""}  # the local client's has none
    admin.swap(0, 1)
    admin.ask(1, "SET", "key", "new")
    assert client.get("key") == b"new"
    assert client.set("key", "newer")
    assert admin.ask(1, "GET", "key") == b"newer"
    assert cluster.get_address(0) == admin.address(1)
    assert local.set("key", "newest")
    # All that is left is the question whether it still is a replica.
    wait_until(lambda: client.get("key") and len(admin.clients(0)) <= 1)
    said = [r.getMessage() for r in caplog.records if r.name == "django_rb.topology"]
    assert said == [
        f"Node 0 is now {admin.address(1)}, not {admin.address(0)}, according to "
        f"{admin.address(0)[:-2]} [node 0, {admin.address(1)}]"
    ]
    # A process that starts has the settings only.
    assert make_cluster().get_routing_client().get("key") == b"newest"


def test_one_that_is_a_primary_again_is_what_the_settings_say(
    cluster: Cluster, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    client = cluster.get_routing_client()
    admin.swap(0, 1)
    assert client.set("key", "value")
    admin.follow(2, 1)
    admin.swap(1, 2)  # a replica of a replica: node 0 still names node 1
    assert client.set("key", "value")
    assert cluster.get_address(0) == admin.address(2)
    said = redirects_of(admin, 0)
    wait_until(lambda: client.get("key") and redirects_of(admin, 0) > said)
    assert caplog.text.count("is now 127.") == 2
    assert cluster.get_address(0) == admin.address(2)
    admin.promote(0)
    wait_until(lambda: client.set("key", "x") and cluster.get_address(0) == admin.address(0))
    assert admin.ask(0, "GET", "key") == b"x"
    assert isinstance(cluster.layout, static.StaticTopology)
    assert cluster.layout.is_quiet
    assert cluster.layout.said_by == {}


def redirects_of(admin: Admin, node: int) -> int:
    """Return how often a node has said REDIRECT."""
    stats = admin.ask(node, "INFO", "errorstats")
    stat = stats.get("errorstat_REDIRECT", "count=0")
    # Older redis-py leaves it as it is.
    return int(stat["count"] if isinstance(stat, dict) else stat.partition("=")[2])


def test_a_script_alone_follows(cluster: Cluster, admin: Admin) -> None:
    client = cluster.get_routing_client()
    assert client.eval(ADD, 1, "sum", 1) == 1
    wait_until(lambda: admin.ask(1, "GET", "sum"))
    admin.swap(0, 1)
    assert client.eval(ADD, 1, "sum", 1) == 2
    with cluster.map() as mapped:
        mapped.eval(ADD, 1, "sum", 1)
        total = mapped.eval(ADD, 1, "sum", 1)
    assert total.value == 4
    assert admin.ask(1, "GET", "sum") == b"4"


def test_commands_without_a_key_follow(cluster: Cluster, admin: Admin) -> None:
    admin.swap(0, 1)
    admin.ask(1, "SET", "key", "value")
    with cluster.all() as everybody:
        size = everybody.dbsize()
    assert size.value == {0: 1}
    client = cluster.get_routing_client()
    assert list(client.scan_iter()) == [b"key"]


def test_two_that_name_each_other(make_cluster: Callable[..., Cluster], admin: Admin) -> None:
    cluster = make_cluster(pool_options={"socket_timeout": 0.5})
    client = cluster.get_routing_client()
    client.set("key", "value")
    wait_until(lambda: admin.ask(1, "GET", "key"))
    admin.follow(0, 1)
    with pytest.raises(Redirected, match=r"REDIRECT 127\.0\.0\.1:\d+ \[node 0, "):
        client.get("key")

    def store_in_time() -> None:
        with cluster.map(timeout=0.05) as mapped:
            mapped.set("key", "value")

    # A busy machine may still be waiting for a reply when the time is over.
    outcomes = {outcome_of(store_in_time) for _ in range(10)}
    assert Redirected in outcomes <= {Redirected, redis.TimeoutError}
    admin.promote(1)
    wait_until(lambda: works(lambda: client.set("key", "new")))
    assert admin.ask(1, "GET", "key") == b"new"


def outcome_of(call: Callable[[], object]) -> type[Exception] | None:
    """Return the type of what a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 (the test tells)
        return type(error)
    return None


def works(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except Redirected:
        return False


def test_a_call_waits_for_the_one_that_becomes_primary(cluster: Cluster, admin: Admin) -> None:
    client = cluster.get_routing_client()
    client.set("key", "value")
    said = redirects_of(admin, 1)
    with at_work(lambda: client.set("key", "value"), lambda: client.get("key")) as failed:
        admin.follow(0, 1)  # for a moment nobody is a primary
        wait_until(lambda: redirects_of(admin, 1) > said)
        admin.promote(1)
        wait_until(lambda: admin.ask(1, "SET", "mark", 1) and client.get("mark"))
    assert failed == []


def test_a_successor_that_is_dead(
    cluster: Cluster, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    client = cluster.get_routing_client()
    client.set("key", "value")
    admin.ask(0, "REPLICAOF", "127.0.0.1", 1)
    for _ in range(5):
        with pytest.raises(redis.ConnectionError, match=r"\[node 0, 127\.0\.0\.1:1/0\]"):
            client.set("key", "new")
    assert cluster.health()[0].state == "down"
    admin.promote(0)
    wait_until(lambda: is_answered(lambda: client.set("key", "new")))
    assert cluster.get_address(0) == admin.address(0)
    assert cluster.health()[0].state == "up"
    assert "Node 0 is up again" in caplog.text


def is_answered(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except redis.ConnectionError:
        return False


def test_the_demoted_one_dies(
    make_cluster: Callable[..., Cluster],
    admin: Admin,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, seconds in (("_PATIENCE", 0.05), ("LEAST_SECONDS", 0.01), ("PERIOD", 0.02)):
        monkeypatch.setattr(static, name, seconds)
    cluster = make_cluster()
    client = cluster.get_routing_client()
    admin.swap(0, 1)
    assert client.set("key", "value")
    admin.nodes.pause(0)
    try:
        assert isinstance(cluster.layout, static.StaticTopology)
        demoted = cluster.layout._demoted[0].node
        wait_until(lambda: client.set("key", "value") and demoted.health.is_down, 20)
        assert client.get("key") == b"value"
    finally:
        admin.nodes.resume(0)


def test_a_host_that_is_removed_and_added(
    make_cluster: Callable[..., Cluster], admin: Admin
) -> None:
    cluster = make_cluster(router_cls=SlotRouter)
    client = cluster.get_routing_client()
    cluster.add_host(1, "redis://127.0.0.1:1")
    admin.swap(0, 1)
    key = next(f"key:{n}" for n in range(100) if not cluster.get_host_for_key(f"key:{n}"))
    assert client.set(key, "value")
    assert cluster.remove_host(0)
    cluster.add_host(0, admin.nodes.address(1))
    cluster.remove_host(1)
    assert client.get(key) == b"value"
    assert cluster.layout.is_quiet
