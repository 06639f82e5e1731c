"""Nodes that join and are forgotten, and a whole cluster that is somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from django_rb.testing.supervising.members import CLUSTER_OPTIONS, IN_CLUSTER
from django_rb.testing.supervising.servers import ACCEPTS, CLUSTER_CONFIG, Server, reserve_port
from django_rb.testing.supervising.supervisor import config_line
from tests.helpers import idle_connections, wait_until
from tests.rediscluster.admin import Admin, slot_of
from tests.rediscluster.load import reading_and_writing

KEYS = [b"key:%d" % n for n in range(60)]
OPEN = {"requirepass": ""}


def make_server(number: int, program: str, directory: Path) -> Server:
    """Return a server for a Redis Cluster, which is not started yet."""
    return Server(
        f"Server {number}",
        program,
        b"".join(map(config_line, [*CLUSTER_OPTIONS, ["save", ""]])),
        directory / str(number),
        unix_socket=False,
        port=0,
        kept=None,
        bus_port=reserve_port(),
    )


class Three:
    """Two primaries, and a third server that owns nothing."""

    count, replicas = 3, 0

    def __init__(self, two: LocalNodes, newcomer: Server) -> None:
        self._places = [two.address(0), two.address(1), newcomer.address]

    def address(self, number: int, /) -> Mapping[str, Any]:
        return self._places[number]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with LocalNodes(2, topology="redis-cluster", options=OPEN) as two:
        newcomer = make_server(2, two.program, tmp_path)
        newcomer.spawn()
        try:
            wait_until(newcomer.ready)
            with Admin(Three(two, newcomer)) as admin:
                yield admin
        finally:
            newcomer.kill()
            newcomer.release_port()


def test_a_node_joins_and_is_forgotten(admin: Admin) -> None:
    hosts = [admin.nodes.address(n) for n in (0, 2)]  # the second is in no cluster at first
    cluster = Cluster(hosts, topology="redis-cluster")
    cluster.get_routing_client().mset({key: key for key in KEYS})
    slots = [slot for key in KEYS if (slot := slot_of(key.decode())) < 8192][:2]
    before = {c for c in idle_connections(cluster) if c.node.host_id in {0, 1}}
    with reading_and_writing(cluster, KEYS) as failed:
        admin.meet(2, 0)
        for slot in slots:
            admin.move(slot, 0, 2)
        wait_until(lambda: sorted(cluster.hosts) == [0, 1, 2])
        assert cluster.get_address(2) == f"{admin.address(2)}/0"
        wait_until(lambda: cluster.connections()[2].open)
        for slot in slots:
            admin.move(slot, 2, 0)
        for node in (0, 1):
            admin.ask(node, "CLUSTER", "FORGET", admin.ids[2])
        admin.ask(2, "CLUSTER", "RESET", "HARD")
        wait_until(lambda: sorted(cluster.hosts) == [0, 1])
    assert failed == []
    assert before <= set(idle_connections(cluster))
    assert cluster.get_routing_client().mget(KEYS) == KEYS
    cluster.close()


class Elsewhere:
    """The servers of a Redis Cluster, as they were, at other addresses."""

    def __init__(self, nodes: LocalNodes, directory: Path) -> None:
        self._nodes = nodes
        self.servers = [make_server(n, nodes.program, directory) for n in range(nodes.count)]

    def start(self) -> None:
        """Start them, and end those that were at the first addresses."""
        home = Path(self._nodes.control).parent
        known = [(home / str(n) / CLUSTER_CONFIG).read_text() for n in range(self._nodes.count)]
        for n in range(self._nodes.count):
            self._nodes.kill(n)
        for server, text in zip(self.servers, known, strict=True):
            for n, other in enumerate(self.servers):
                old = f"127.0.0.1:{self._nodes.address(n)['port']}@"
                start, _, rest = text.partition(old)
                text = start + other.cluster_address + rest.lstrip("0123456789")  # noqa: PLW2901
            server.cluster_config = text
            server.awaited = [ACCEPTS, IN_CLUSTER]
            server.spawn()
        wait_until(lambda: all(server.ready() for server in self.servers))

    def stop(self) -> None:
        for server in self.servers:
            server.kill()
            server.release_port()


def test_a_whole_cluster_restarts_on_other_addresses(tmp_path: Path) -> None:
    """HOSTS names a place of both; shards keep their host ids."""

    async def set_once(cluster: Cluster) -> None:
        await cluster.aio.mset(values)
        await cluster.aclose()

    def in_threads(cluster: Cluster) -> None:
        cluster.get_routing_client().mset(values)

    def on_loop(cluster: Cluster) -> None:
        asyncio.run(set_once(cluster))

    values = {key: key for key in KEYS}
    with LocalNodes(3, topology="redis-cluster", options=OPEN) as nodes:
        elsewhere = Elsewhere(nodes, tmp_path)
        hosts = [nodes.hosts[0], elsewhere.servers[1].address]
        used: list[tuple[Cluster, Callable[[Cluster], None]]] = [
            (Cluster(hosts, topology="redis-cluster"), use) for use in (in_threads, on_loop)
        ]
        for cluster, use in used:
            use(cluster)
        try:
            elsewhere.start()
            for cluster, use in used:
                wait_until(lambda cluster=cluster, use=use: works(use, cluster))  # type: ignore[misc]
                ports = {host_id: info.port for host_id, info in cluster.hosts.items()}
                assert ports == {n: s.address["port"] for n, s in enumerate(elsewhere.servers)}
                assert [cluster.get_host_for_key(key) for key in KEYS] == [
                    slot_of(key.decode()) * 3 // 16384 for key in KEYS
                ]
                cluster.close()
        finally:
            elsewhere.stop()


def works(use: Callable[[Cluster], None], cluster: Cluster) -> bool:
    with suppress(redis.RedisError):
        use(cluster)
        return True
    return False
