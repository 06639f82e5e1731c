"""Sentinels that are dead, and such as want another password."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.sentinel.admin import Admin, make_cluster


@pytest.fixture
def watched() -> Iterator[LocalNodes]:
    with LocalNodes(1, topology="sentinel") as nodes:
        yield nodes


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_the_first_sentinel_is_dead(watched: LocalNodes, transport: str, fault: str) -> None:
    getattr(watched, fault)(Admin(watched).first_sentinel)
    cluster = make_cluster(watched)
    assert cluster.get_routing_client().set("key", "value")
    cluster.close()


def test_all_sentinels_are_dead(
    watched: LocalNodes,
    transport: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, late = make_cluster(watched, alias="w"), make_cluster(watched)
    client = cluster.get_routing_client()
    client.set("key", "value")
    first = Admin(watched).first_sentinel
    for number in range(first, first + 3):
        watched.kill(number)
    with caplog.at_level(logging.WARNING):
        wait_until(lambda: client.get("key") == b"value" and "No Sentinel" in caplog.text)
    lines = [r.getMessage() for r in caplog.records if "No Sentinel" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("The last known addresses are still used [cluster w]")
    with pytest.raises(redis.ConnectionError, match="No Sentinel answers"):
        late.get_routing_client().get("key")
    watched.restart(first)
    wait_until(lambda: is_answered(late))
    cluster.close()
    late.close()


def is_answered(cluster: Cluster) -> bool:
    try:
        return cluster.get_routing_client().get("key") == b"value"
    except redis.ConnectionError:
        return False


def test_another_password(watched: LocalNodes, transport: str) -> None:
    hosts = [{"master_name": "node-0", "password": "hunter2"}]
    wrong = [f"redis://:hunter3@{url.rpartition('@')[2]}" for url in watched.sentinels]
    cases = {(0, 1): "No Sentinel answers.*WRONGPASS|invalid", (1, 0): "No primary of 'node-0'"}
    for (own_hosts, own_sentinels), said in cases.items():
        cluster = Cluster(
            watched.hosts if own_hosts else hosts,
            topology="sentinel",
            sentinels=watched.sentinels if own_sentinels else wrong,
        )
        with pytest.raises(redis.ConnectionError) as caught:
            cluster.get_routing_client().get("key")
        assert "hunter" not in str(caught.value)
        print(said, caught.value)
        cluster.close()


def test_sentinels_that_answer_at_once(
    watched: LocalNodes,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = make_cluster(watched)
    client = cluster.get_routing_client(timeout=5)
    client.set("key", "value")
    layout: Any = cluster.layout
    for _ in range(300):  # each asks all of them, on idle connections
        monkeypatch.setattr(layout, "_favourite", None)
        monkeypatch.setattr(layout._times, "look_at", float("-inf"))
        monkeypatch.setattr(layout._times, "_not_before", float("-inf"))
        assert client.get("key") == b"value"
    cluster.close()
