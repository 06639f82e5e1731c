"""manage.py rb_hot: what is asked for most, by what each server can tell."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.management.hot import fetch_hot
from django_rb.management.key_counts import counting
from django_rb.management.keys import Keyspace
from django_rb.management.scanning import Nodes
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer

from .calls import asked_for, run, run_and_fail, run_json


@pytest.fixture
def filled(cluster: Cluster) -> Cluster:
    with cluster.map() as client:
        for n in range(200):
            client.set(f":1:page:{n}", "x")
    return cluster


def age(nodes: LocalNodes) -> None:
    """Let all keys be as if nobody had used them for some minutes."""
    for host_id in nodes.hosts:
        client = nodes_client(nodes, host_id)
        for key in client.keys("*"):
            value = client.dump(key)
            client.restore(key, 0, value, replace=True, idletime=300)
        client.close()


def nodes_client(nodes: LocalNodes, host_id: int) -> Any:
    import redis

    return redis.Redis(**nodes.hosts[host_id])


def test_by_recency(filled: Cluster, nodes: LocalNodes) -> None:
    age(nodes)
    with asked_for(filled, ":1:page:7", ":1:page:8"):
        found = run_json("rb_hot", "--seconds", "1.2")
    assert {one["key"] for one in found["keys"]} == {":1:page:7", ":1:page:8"}
    for one in found["keys"]:
        assert one["source"] == "recency"
        assert 1 <= one["score"] <= 2
        assert one["host_id"] == filled.get_host_for_key(one["key"])
    assert [one["pattern"] for one in found["patterns"]] == [":1:page:*"]
    assert found["patterns"][0]["keys"] == 2
    assert {node["source"] for node in found["nodes"]} == {"recency"}
    assert sum(node["looked_at"] for node in found["nodes"]) == 200
    assert [node["note"] for node in found["nodes"]] == [None] * 4


def test_looking_uses_no_key(filled: Cluster, nodes: LocalNodes) -> None:
    age(nodes)
    for _ in range(2):
        assert run_json("rb_hot", "--seconds", "0.2")["keys"] == []


def test_by_frequency(filled: Cluster, nodes: LocalNodes) -> None:
    filled.call_nodes("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    try:
        with filled.map() as client:
            for _ in range(300):
                client.get(":1:page:9")
        found = run_json("rb_hot", "--seconds", "0.2", "--cache", "default")
    finally:
        filled.call_nodes("CONFIG", "SET", "maxmemory-policy", "noeviction")
    hottest = found["keys"][0]
    assert (hottest["cache_key"], hottest["source"]) == ("page:9", "frequency")
    assert hottest["score"] > 10
    assert found["patterns"][0]["pattern"] == "page:*"
    assert {node["source"] for node in found["nodes"]} == {"frequency"}


def test_a_cache(filled: Cluster, nodes: LocalNodes) -> None:
    age(nodes)
    caches["default"].set("shelf:1", 1)
    filled.get_routing_client().set("shelf:2", 1)
    with asked_for(filled, ":1:shelf:1", "shelf:2"):
        found = run_json("rb_hot", "--seconds", "0.2", "--cache", "default")
    assert [one["cache_key"] for one in found["keys"]] == ["shelf:1"]


def test_what_people_see(filled: Cluster) -> None:
    key = "<script>\x1b[2J" + "x" * 300
    filled.get_routing_client().set(key, 1)
    with asked_for(filled, key):
        shown = run("rb_hot", "--seconds", "0.2", "--top", "300")
    assert "recency: seconds with at least one request" in shown
    assert r"<script>\x1b[2Jxx" in shown
    assert "default 0: recency, " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_dead_nodes_are_named(hurt_nodes: LocalNodes) -> None:
    out, error = run_and_fail(
        "rb_hot", "--seconds", "0.2", "--timeout", "0.5", "--format", "json"
    )
    assert "2 of 4 nodes could not be queried:" in error
    assert "default 1: " in error
    assert [node["host_id"] for node in json.loads(out)["nodes"]] == [0, 3]


# Servers of which there is no package yet, played.


def bulk(*words: bytes | int) -> bytes:
    parts = (
        b":%d\r\n" % w if isinstance(w, int) else b"$%d\r\n%b\r\n" % (len(w), w) for w in words
    )
    return b"*%d\r\n%b" % (len(words), b"".join(parts))


def played(replies: dict[bytes, bytes]) -> Callable[[Peer, socket.socket, list[bytes]], None]:
    """Answer commands by their first two words, or their first."""

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        name = b" ".join(command[:2])
        known = replies.get(name) or replies.get(command[0])
        connection.sendall(known or b"-ERR unknown command '%b'\r\n" % command[0])

    return answer


SERVER = {
    b"DBSIZE": b":3\r\n",
    b"INFO": b"$30\r\nmaxmemory_policy:noeviction\r\n \r\n",
    b"TIME": bulk(b"1764400000", b"0"),
    b"SCAN": b"*2\r\n$1\r\n0\r\n" + bulk(b"page:1"),
    b"OBJECT IDLETIME": b":0\r\n",
}
REDIS = {
    **SERVER,
    b"HOTKEYS START": b"+OK\r\n",
    b"HOTKEYS STOP": b"+OK\r\n",
    b"HOTKEYS RESET": b"+OK\r\n",
    b"HOTKEYS GET": b"*1\r\n*4\r\n$15\r\ntracking-active\r\n:0\r\n$14\r\nby-cpu-time-us\r\n"
    + bulk(b"page:\xff", 104, b"page:2", 98),
}
VALKEY = {
    **SERVER,
    b"HOTKEYS GET": b"*2\r\n"
    + bulk(b"key", b"page:1", b"db", 0, b"qps", 800)
    + bulk(b"key", b"other", b"db", 3, b"qps", 900),
    b"HOTKEYS": b"-ERR unknown subcommand 'START'. Try HOTKEYS HELP.\r\n",
}


def look_at(peer: Peer, *options: str) -> Any:
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": [peer.host]}}):
        try:
            return run_json("rb_hot", "--seconds", "0.1", *options)
        finally:
            clusters.reset()


def sent(peer: Peer) -> Sequence[bytes]:
    return [b" ".join(c[:2]) for c in peer.commands if c[0] == b"HOTKEYS"]


def test_what_redis_counts() -> None:
    with Peer(played(REDIS)) as peer:
        found = look_at(peer)
    assert [(one["key"], one["source"], one["score"]) for one in found["keys"]] == [
        ({"base64": "cGFnZTr/"}, "cpu", 104),
        ("page:2", "cpu", 98),
    ]
    begun = next(c for c in peer.commands if c[:2] == [b"HOTKEYS", b"START"])
    assert begun[2:] == [b"METRICS", b"1", b"CPU", b"COUNT", b"10", b"DURATION", b"2"]
    assert sent(peer)[-3:] == [b"HOTKEYS STOP", b"HOTKEYS GET", b"HOTKEYS RESET"]
    assert (found["nodes"][0]["source"], found["nodes"][0]["looked_at"]) == ("cpu", None)


def test_a_count_that_somebody_else_began_is_left_alone() -> None:
    busy = b"-ERR hotkey tracking session already in progress\r\n"
    with Peer(played({**REDIS, b"HOTKEYS START": busy})) as peer:
        found = look_at(peer)
    assert not {b"HOTKEYS STOP", b"HOTKEYS RESET"} & set(sent(peer))
    (node,) = found["nodes"]
    assert node["source"] == "recency"
    assert "already in progress" in node["note"]


def test_what_valkey_counts() -> None:
    with Peer(played(VALKEY)) as peer:
        found = look_at(peer)
        of_a_cache = look_at(peer, "--cache", "default")
    assert [(one["key"], one["source"], one["score"]) for one in found["keys"]] == [
        ("page:1", "rate", 800)
    ]
    assert of_a_cache["keys"] == []
    assert b"HOTKEYS RESET" not in sent(peer)


def test_a_valkey_that_does_not_count() -> None:
    off = b"-ERR Hotkey detection is disabled\r\n"
    with Peer(played({**VALKEY, b"HOTKEYS GET": off})) as peer:
        found = look_at(peer)
    assert [one["source"] for one in found["keys"]] == ["recency"]
    assert "Hotkey detection is disabled" in found["nodes"][0]["note"]


def test_a_user_who_may_not_ask() -> None:
    refused = b"-NOPERM this user has no permissions to run the 'object' command\r\n"
    with Peer(played({**SERVER, b"OBJECT IDLETIME": refused})) as peer:
        found = look_at(peer)
    (node,) = found["nodes"]
    assert node["source"] is None
    assert "NOPERM" in node["note"]


def test_what_this_process_asks_for(cluster: Cluster, nodes: LocalNodes) -> None:
    cache, site = caches["default"], clusters["default"]
    cache.get("before")
    with counting(site) as counted:
        for _ in range(3):
            cache.get("page:1")
        cache.get_many(["page:1", "page:2", "none"])
        cache.set("page:2", 1)
        fetch_hot(Keyspace({"default": site}), Nodes({"default": site}), seconds=0.01)
    cache.get("after")
    assert counted.top(2) == [(b":1:page:1", 4), (b":1:page:2", 2)]
    assert dict(counted.top(10))[b":1:none"] == 1
    assert site.observers == ()
