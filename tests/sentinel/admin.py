"""What an operator does with shards that Sentinels watch, past the code under test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes
from tests.helpers import counts_as_online

NAME = "of-the-cluster"


class Admin:
    """Asks nodes and Sentinels directly.

    Args:
        nodes: with replicas and Sentinels.
    """

    def __init__(self, nodes: LocalNodes) -> None:
        self.nodes = nodes
        self._clients: dict[int, redis.Redis] = {}

    def ask(self, node: int, *command: Any) -> Any:
        """Run a command on a node, by its number in LocalNodes."""
        if node not in self._clients:
            self._clients[node] = redis.Redis(**self.nodes.address(node))
        client: Any = self._clients[node]
        return client.execute_command(*command)

    @property
    def first_sentinel(self) -> int:
        return self.nodes.count * (1 + self.nodes.replicas)

    def members(self, shard: int) -> list[int]:
        return list(range(shard, self.first_sentinel, self.nodes.count))

    def primary(self, shard: int, sentinel: int = 0) -> int:
        """Return the number of a shard's primary, as a Sentinel says."""
        name = f"node-{shard}"
        said = self.ask(
            self.first_sentinel + sentinel, "SENTINEL GET-MASTER-ADDR-BY-NAME", name
        )
        ports = {self.nodes.address(n)["port"]: n for n in self.members(shard)}
        return ports[int(said[1])]

    def replica(self, shard: int) -> int:
        """Return the number of the other node of a shard."""
        (other,) = {*self.members(shard)} - {self.primary(shard)}
        return other

    def role(self, node: int) -> str:
        return str(self.ask(node, "ROLE")[0].decode())

    def counts_as_online(self, primary: int, port: int) -> bool:
        """Return whether a primary may hand over to the replica at a port."""
        return counts_as_online(self.ask(primary, "INFO", "replication"), port)

    def fail_over(self, shard: int) -> None:
        self.ask(self.first_sentinel, "SENTINEL FAILOVER", f"node-{shard}")

    def connections(self, node: int) -> int:
        """Return how many connections of the cluster's a node has, by their name."""
        return sum(client["name"] == NAME for client in self.ask(node, "CLIENT LIST"))

    def address(self, node: int) -> str:
        address = self.nodes.address(node)
        return f"{address['host']}:{address['port']}/0"


def make_cluster(nodes: LocalNodes, socket_timeout: float = 0.5, **options: Any) -> Cluster:
    return Cluster(
        options.pop("hosts", nodes.hosts),
        topology="sentinel",
        sentinels=nodes.sentinels,
        router_cls=SlotRouter,
        pool_options={
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": 0.5,
            "client_name": NAME,
        },
        **options,
    )


def key_of(cluster: Cluster, shard: int) -> str:
    """Return a key of a shard."""
    return next(
        f"key:{n}" for n in range(1000) if cluster.get_host_for_key(f"key:{n}") == shard
    )


@contextmanager
def at_work(*calls: Callable[[], object]) -> Iterator[list[Exception]]:
    """Repeat calls, each in a thread, while the block runs; tell what they raised."""
    failed: list[Exception] = []
    is_over = threading.Event()

    def work(call: Callable[[], object]) -> None:
        while not is_over.wait(0.002):
            try:
                call()
            except Exception as error:  # noqa: BLE001 (the test tells)
                failed.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
