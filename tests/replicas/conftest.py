"""Shards with two replicas each, in every topology."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.transports import awaited

OPTIONS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


@pytest.fixture(params=["threads", "loops"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests run in threads, and once more on event loops."""
    if request.param == "threads":
        yield request.param
    else:
        with awaited():
            yield request.param


def settings_of(nodes: LocalNodes) -> dict[str, Any]:
    """Return arguments of Cluster for nodes, with their replicas."""
    if nodes.topology == "redis-cluster":
        return {"hosts": nodes.hosts, "topology": nodes.topology}
    if nodes.topology == "sentinel":
        return {
            "hosts": nodes.hosts,
            "topology": nodes.topology,
            "sentinels": nodes.sentinels,
            "router_cls": SlotRouter,
        }
    hosts = {
        host_id: {
            **host,
            "replicas": [
                nodes.address(host_id + nodes.count * n) for n in range(1, nodes.replicas + 1)
            ],
        }
        for host_id, host in nodes.hosts.items()
    }
    return {"hosts": hosts, "router_cls": SlotRouter}


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """Makes clusters on nodes and their replicas."""
    made: list[Cluster] = []

    def make(nodes: LocalNodes, read_from: str, **options: Any) -> Cluster:
        made.append(
            Cluster(**settings_of(nodes), read_from=read_from, pool_options=OPTIONS, **options)
        )
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


class Asked:
    """Who was asked what: commands of each node, by its number in LocalNodes."""

    def __init__(self, nodes: LocalNodes) -> None:
        total = nodes.count * (1 + nodes.replicas)
        self._clients: list[Any] = [redis.Redis(**nodes.address(n)) for n in range(total)]
        self.reset()

    def reset(self) -> None:
        for client in self._clients:
            client.config_resetstat()

    def by_node(self, *names: str) -> dict[int, int]:
        """Return how many of some commands each node was sent, where there were any."""
        counts = {}
        for number, client in enumerate(self._clients):
            stats = client.info("commandstats")
            calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)
            if calls:
                counts[number] = calls
        return counts

    def wait(self) -> None:
        """Wait until all replicas have what their primaries have."""
        said = [client.info("replication") for client in self._clients]
        offsets = {
            client.connection_pool.connection_kwargs["port"]: info["master_repl_offset"]
            for client, info in zip(self._clients, said, strict=True)
            if info["role"] == "master"
        }
        for client, info in zip(self._clients, said, strict=True):
            if info["role"] == "slave":
                wait_until(partial(_has_come_to, client, offsets[info["master_port"]]))


def _has_come_to(client: Any, offset: int) -> bool:
    return bool(client.info("replication").get("slave_repl_offset", -1) >= offset)
