"""A primary with replicas that change parts by hand, on a server that knows REDIRECT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import counts_as_online, wait_until
from tests.transports import awaited

OPTIONS = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
SECONDS = 20  # that a replica takes at most to have its primary's data, on a busy machine


@pytest.fixture(params=["threads", "loops"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests run in threads, and once more on event loops."""
    if request.param == "threads":
        yield request.param
    else:
        with awaited():
            yield request.param


class Admin:
    """Changes the parts of nodes, past the code under test.

    Args:
        nodes: one, with replicas.
    """

    def __init__(self, nodes: LocalNodes) -> None:
        self.nodes = nodes
        self.total = 1 + nodes.replicas
        self._clients: list[Any] = [redis.Redis(**nodes.address(n)) for n in range(self.total)]

    def ask(self, node: int, *command: Any) -> Any:
        return self._clients[node].execute_command(*command)

    def address(self, node: int) -> str:
        address = self.nodes.address(node)
        return f"{address['host']}:{address['port']}/0"

    def role(self, node: int) -> str:
        return str(self.ask(node, "ROLE")[0].decode())

    def follow(self, node: int, primary: int) -> None:
        """Have a node be a replica of another one."""
        address = self.nodes.address(primary)
        self.ask(node, "REPLICAOF", address["host"], address["port"])

    def promote(self, node: int) -> None:
        self.ask(node, "REPLICAOF", "NO", "ONE")

    def swap(self, old: int, new: int) -> None:
        """Have a replica be the primary of its primary."""
        self.promote(new)
        self.follow(old, new)

    def fail_over(self, old: int, new: int) -> None:
        """Have a primary hand over to a replica; it waits until that has everything."""
        address = self.nodes.address(new)
        wait_until(
            lambda: counts_as_online(self.ask(old, "INFO", "replication"), address["port"]),
            SECONDS,
        )
        self.ask(old, "FAILOVER", "TO", address["host"], address["port"])
        wait_until(lambda: (self.role(old), self.role(new)) == ("slave", "master"), SECONDS)

    def has_link(self, node: int) -> bool:
        return bool(self.ask(node, "INFO", "replication")["master_link_status"] == "up")

    def clients(self, node: int) -> list[dict[str, str]]:
        """Return the connections to a node but for this one's and those of replicas."""
        listed: list[dict[str, str]] = self.ask(node, "CLIENT LIST")
        return [c for c in listed if "django-rb" in c["lib-name"]]

    def reset(self) -> None:
        """Have node 0 be the primary of the others, and empty."""
        self.promote(0)
        self.ask(0, "FLUSHALL")
        for node in range(1, self.total):
            self.follow(node, 0)
        for node in range(1, self.total):
            wait_until(partial(self.has_link, node), SECONDS)


@pytest.fixture(scope="session")
def shard() -> Iterator[LocalNodes]:
    with LocalNodes(1, replicas=2) as nodes:
        if not nodes.server.startswith("valkey"):
            pytest.skip("only Valkey says REDIRECT")
        yield nodes


@pytest.fixture
def admin(shard: LocalNodes) -> Admin:
    admin = Admin(shard)
    admin.reset()
    return admin


@pytest.fixture
def site(shard: LocalNodes) -> Iterator[None]:
    """Settings with node 0 alone."""
    config = {"default": {"HOSTS": shard.hosts, "POOL_OPTIONS": OPTIONS}}
    with override_settings(RB_CLUSTERS=config):
        yield
    clusters.reset()


@pytest.fixture
def make_cluster(shard: LocalNodes) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of node 0."""
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        given = {"hosts": shard.hosts, "pool_options": OPTIONS, **options}
        made.append(Cluster(**given))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], transport: str) -> Cluster:
    return make_cluster()
