"""Replicas that are not read from: behind, loading, without their primary; and settings."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.engine.topology import replicas
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import wait_until
from tests.replicas.conftest import Asked

SECRET = "hunter2"


class Parts:
    """A primary and two replicas; each answers GET with its number, or what a test says."""

    def __init__(self) -> None:
        self.says: dict[int, bytes] = {}
        self.asked: list[int] = []
        self._stack = contextlib.ExitStack()
        self.peers = [Peer(self._make(number)) for number in range(3)]

    def _make(self, number: int) -> Callable[[Peer, socket.socket, list[bytes]], None]:
        def answer(_peer: Peer, connection: socket.socket, _command: list[bytes]) -> None:
            self.asked.append(number)
            connection.sendall(self.says.get(number, b"$1\r\n%d\r\n" % number))

        return answer

    def cluster(self, read_from: str) -> Cluster:
        primary, *others = self.peers
        host = {**primary.host, "replicas": [peer.host for peer in others]}
        return Cluster([host], read_from=read_from)


@pytest.fixture
def parts(transport: str) -> Iterator[Parts]:
    with contextlib.ExitStack() as stack:
        parts = Parts()
        for peer in parts.peers:
            stack.enter_context(peer)
        yield parts


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN", "BUSY"])
def test_a_replica_that_cannot_answer_is_skipped_for_a_while(parts: Parts, code: str) -> None:
    client = parts.cluster("prefer-replica").get_routing_client()
    parts.says[1] = f"-{code} not now\r\n".encode()
    assert [client.get("key") for _ in range(6)] == [b"2"] * 6
    assert parts.asked.count(1) == 1
    parts.says[2] = parts.says[1]
    assert client.get("key") == b"0"


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN", "BUSY"])
def test_a_primary_that_refuses_costs_no_read(parts: Parts, code: str) -> None:
    client = parts.cluster("prefer-primary").get_routing_client()
    parts.says[0] = f"-{code} not now\r\n".encode()
    assert {client.get("key") for _ in range(4)} == {b"1", b"2"}
    with pytest.raises(redis.RedisError, match="not now"):
        client.set("key", "value")
    assert client.get("key") in {b"1", b"2"}


def test_the_last_error_is_the_one_that_is_raised(parts: Parts) -> None:
    client = parts.cluster("prefer-primary").get_routing_client()
    for number in range(3):
        parts.says[number] = b"-LOADING number %d\r\n" % number
    with pytest.raises(redis.BusyLoadingError) as caught:
        client.get("key")
    assert parts.asked[0] == 0
    assert sorted(parts.asked) == [0, 1, 2]
    assert str(parts.peers[parts.asked[-1]].port) in str(caught.value)


def test_an_error_of_the_command_is_final(parts: Parts) -> None:
    client = parts.cluster("prefer-replica").get_routing_client()
    for number in range(3):
        parts.says[number] = b"-WRONGTYPE of this key\r\n"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.get("key")
    assert len(parts.asked) == 1


def test_a_replica_too_far_behind(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "LAG_PERIOD", 0.002)
    with LocalNodes(1, replicas=1) as nodes:
        cluster = make_cluster(nodes, "prefer-replica", max_lag=0.5)
        client = cluster.get_routing_client()
        client.set("key", "value")
        asked = Asked(nodes)
        asked.wait()
        wait_until(lambda: client.get("key") == b"value" and asked.by_node("get").get(1))
        replica: Any = redis.Redis(**nodes.address(1))
        replica.replicaof("127.0.0.1", 1)
        client.set("key", "new")
        wait_until(lambda: client.get("key") == b"new")
        for _ in range(10):
            assert client.get("key") == b"new"


def test_how_far_behind() -> None:
    written = replicas._Written()
    for when, offset in ((10.0, 100), (11.0, 200), (12.0, 200), (13.0, 300)):
        written.looks.append((when, offset))
    assert [written.behind(offset, 14.0) for offset in (300, 299, 200, 150, 0)] == [
        0.0,
        1.0,
        1.0,
        3.0,
        4.0,
    ]


HOSTS = [{"host": "10.0.0.1", "replicas": [{"host": "10.0.1.1"}]}]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"READ_FROM": "replica"}, "['READ_FROM']: 'replica' is not a valid choice. Did"),
        ({"READ_FROM": "prefer-replica", "MAX_LAG": 0}, "['MAX_LAG']: 0 is not a time in sec"),
        ({"MAX_LAG": 5}, "['MAX_LAG']: It only applies to reads from replicas."),
        ({"HOSTS": [{"host": "h", "replicas": "r"}]}, "['HOSTS'][0]['replicas']: 'r' is"),
        ({"HOSTS": [{"host": "h", "replicas": [{"hots": "h"}]}]},
         "['HOSTS'][0]['replicas'][0]['hots']: Unknown option"),
        ({"HOSTS": [{"host": "h", "replicas": [{"host": "r", "replicas": []}]}]},
         "['HOSTS'][0]['replicas'][0]: Replicas of replicas"),
        ({"HOSTS": [{"host": "h", "replicas": [f"redis://:{SECRET}#@r"]}]},
         "['HOSTS'][0]['replicas'][0]: "),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(config: dict[str, Any], said: str) -> None:
    with (
        override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS, **config}}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        clusters["default"]
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_replica_is_like_its_node_unless_it_says_otherwise() -> None:
    hosts = [
        {
            "host": "10.0.0.1",
            "port": 7000,
            "db": 2,
            "password": SECRET,
            "replicas": [{"host": "10.0.1.1"}, "redis://ann:x@10.0.1.2:7001/2"],
        }
    ]
    cluster = Cluster(hosts, host_defaults={"client_name": "site"}, read_from="prefer-primary")
    first, second = cluster.hosts[0].replicas
    assert (first.address, first.password) == ("10.0.1.1:6379/2", SECRET)
    assert (second.address, second.username) == ("10.0.1.2:7001/2", "ann")
    assert second.options["client_name"] == "site"
    assert list(cluster.nodes) == [0]
    assert SECRET not in repr(cluster.hosts)
