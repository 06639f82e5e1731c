"""What Sentinels say: believed, and not believed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
import redis
from django.test import override_settings
from redis.sentinel import MasterNotFoundError

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.engine.topology import sentinel
from django_rb.engine.topology.sentinel_replies import read_address, read_epoch, read_role
from django_rb.signals import primary_changed
from tests.helpers import wait_until
from tests.sentinel.liars import Liars


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let looks follow each other without a pause."""
    monkeypatch.setattr(sentinel, "LEAST_SECONDS", 0.001)
    monkeypatch.setattr(sentinel, "PERIOD", 0.001)


@pytest.fixture
def liars() -> Iterator[Liars]:
    with Liars() as liars:
        yield liars


@pytest.fixture
def cluster(liars: Liars, transport: str) -> Iterator[Cluster]:
    cluster = liars.make_cluster()
    yield cluster
    cluster.close()


def primary(cluster: Cluster, liars: Liars) -> int:
    """Return the number of the node that gets the next write."""
    cluster.get_routing_client().set("key", "value")
    return liars.set_on[-1]


def becomes(cluster: Cluster, liars: Liars, node: int) -> None:
    """Wait until writes go to a node."""
    wait_until(lambda: is_written(cluster, liars, node))


def is_written(cluster: Cluster, liars: Liars, node: int) -> bool:
    try:
        return primary(cluster, liars) == node
    except redis.ReadOnlyError:
        return False


def stays(cluster: Cluster, liars: Liars, node: int) -> None:
    """Fail unless writes go to a node, while Sentinels are asked a few times."""
    asked = len(liars.asked)
    while len(liars.asked) < asked + 30:
        assert primary(cluster, liars) == node


def test_the_primary_is_where_sentinels_say(cluster: Cluster, liars: Liars) -> None:
    assert str(cluster) == "<Cluster 0: primary of a>"
    assert primary(cluster, liars) == 0
    liars.agree_on(1, epoch=2)
    becomes(cluster, liars, 1)
    assert cluster.hosts[0].port == liars.nodes[1].port


def test_who_comes_second_waits_for_who_asks_first(liars: Liars, transport: str) -> None:
    cluster = liars.make_cluster()
    client = cluster.get_routing_client()
    is_asked, goes_on = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        is_asked.set()
        goes_on.wait(20)

    liars.before_answer = hold
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(client.set, "key", "value")
        assert is_asked.wait(20)
        second = threads.submit(client.set, "key", "value")
        wait_until(second.running)
        assert not wait([second], 0.05).done
        goes_on.set()
        assert first.result()
        assert second.result()
    cluster.close()


def test_a_node_that_is_no_primary_gets_nothing(cluster: Cluster, liars: Liars) -> None:
    primary(cluster, liars)
    liars.roles[1] = "slave"
    liars.agree_on(1, epoch=2)
    stays(cluster, liars, 0)


def test_a_sentinel_that_was_left_behind_is_not_believed(
    cluster: Cluster, liars: Liars
) -> None:
    liars.agree_on(1, epoch=2)
    becomes(cluster, liars, 1)
    liars.primaries[0], liars.epochs[0] = {"a": 0}, 1
    stays(cluster, liars, 1)
    assert 0 in liars.asked[-30:]


def test_sentinels_that_were_made_anew_are_believed_by_their_number(
    cluster: Cluster, liars: Liars
) -> None:
    liars.agree_on(1, epoch=7)
    becomes(cluster, liars, 1)
    liars.agree_on(0, epoch=0)
    becomes(cluster, liars, 0)


def test_one_that_answers_is_enough(
    cluster: Cluster, liars: Liars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "_LOOKS_OF_ONE", 1_000_000)
    liars.silent = {0, 2}
    assert primary(cluster, liars) == 0
    # Who answered is asked alone from now on.
    wait_until(lambda: primary(cluster, liars) == 0 and liars.asked.count(1) >= 10)
    assert liars.asked.count(0) <= 1
    assert liars.asked.count(2) <= 1


def test_shards_that_different_sentinels_know(liars: Liars, transport: str) -> None:
    liars.primaries = {0: {"a": 0}, 1: {"b": 1}, 2: {}}
    cluster = liars.make_cluster("a", "b")
    cluster.learn()
    with cluster.all() as client:
        client.ping()
    assert set(liars.set_on) == {0, 1}
    cluster.close()


def test_a_name_that_nobody_knows_costs_its_own_keys_only(
    liars: Liars,
    transport: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = liars.make_cluster("a", "b", alias="w")
    with pytest.raises(MasterNotFoundError) as caught, cluster.all() as client:
        client.ping()
    assert liars.set_on == [0]
    said = "No Sentinel that answers knows 'b' [node 1, primary of b, cluster w]"
    assert str(caught.value) == said
    assert cluster.health()[1].error == "No Sentinel that answers knows 'b'"
    assert sum("knows 'b'" in record.message for record in caplog.records) == 1
    cluster.close()


def test_no_sentinel_at_all(liars: Liars, transport: str) -> None:
    cluster = Cluster(
        [{"master_name": "a", "password": "hunter2"}],
        topology="sentinel",
        sentinels=[("127.0.0.1", 1), "redis://127.0.0.1:2"],
        sentinel_options={"password": "hunter3"},
    )
    with pytest.raises(
        redis.ConnectionError, match=r"No Sentinel answers\. .*:1.*:2/0"
    ) as caught:
        cluster.get_routing_client().get("key")
    assert "hunter" not in str(caught.value)
    with pytest.raises(redis.ConnectionError):
        cluster.learn()
    with pytest.raises(redis.ConnectionError):
        cluster.get_local_client(0).get("key")
    cluster.close()


def test_the_last_known_address_goes_on_without_sentinels(
    cluster: Cluster, liars: Liars, caplog: pytest.LogCaptureFixture
) -> None:
    primary(cluster, liars)
    liars.silent = {0, 1, 2}
    with caplog.at_level(logging.WARNING):
        wait_until(
            lambda: primary(cluster, liars) == 0 and "No Sentinel answers" in caplog.text
        )
    assert "The last known addresses are still used" in caplog.text


def test_a_write_that_a_replica_refuses_goes_to_the_new_primary(
    cluster: Cluster, liars: Liars, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary(cluster, liars)
    assert cluster.layout is not None
    monkeypatch.setattr(cluster.layout._times, "look_at", float("inf"))
    monkeypatch.setattr(cluster.layout._times, "_not_before", float("-inf"))
    liars.roles[0] = "slave"
    liars.agree_on(1, epoch=2)
    assert primary(cluster, liars) == 1


def test_addresses_may_be_mapped(liars: Liars) -> None:
    ports = [peer.port for peer in liars.nodes]
    cluster = liars.make_cluster(address_map=lambda host, _port: (host, ports[1]))
    assert primary(cluster, liars) == 1
    cluster.close()


def test_replies() -> None:
    assert read_address([b"Cache-A.example.com", b"6379"]) == ("cache-a.example.com", 6379)
    assert [read_address(reply) for reply in (None, b"x", [b"x"], [b"", b"1"])] == [None] * 4
    assert read_epoch([b"name", b"a", b"config-epoch", b"12"]) == 12
    assert [read_epoch(reply) for reply in (None, [], [b"config-epoch"])] == [0] * 3
    assert [read_role(reply) for reply in ([b"slave", b"h"], [], None)] == ["slave", "", ""]


def test_a_signal_tells_of_a_failover(liars: Liars, caplog: pytest.LogCaptureFixture) -> None:
    settings = {
        "TOPOLOGY": "sentinel",
        "HOSTS": [{"master_name": "a"}],
        "SENTINELS": [peer.host for peer in liars.sentinels],
    }
    told: list[dict[str, Any]] = []

    def receive(sender: object, signal: object, **details: Any) -> None:
        told.append(details)

    primary_changed.connect(receive)
    with override_settings(RB_CLUSTERS={"default": settings}):
        becomes(clusters["default"], liars, 0)
        assert told == []
        liars.agree_on(1, epoch=2)
        becomes(clusters["default"], liars, 1)
    primary_changed.disconnect(receive)
    (change,) = told
    old, new = (f"127.0.0.1:{peer.port}/0" for peer in liars.nodes)
    assert (change["alias"], change["host_id"]) == ("default", 0)
    assert (change["previous"], change["address"]) == (old, new)
    assert change["said_by"].startswith("Sentinel 127.0.0.1:")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "django_rb.topology"]
    assert line.startswith(f"Node 0 is now {new}, not {old}, according to Sentinel ")


def test_both_are_swapped_twice_at_once(cluster: Cluster, liars: Liars) -> None:
    primary(cluster, liars)
    for epoch, node in enumerate((1, 0, 1, 0), 2):
        liars.roles[node], liars.roles[1 - node] = "master", "slave"
        liars.agree_on(node, epoch)
        becomes(cluster, liars, node)
