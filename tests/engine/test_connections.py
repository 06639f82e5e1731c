"""How many connections a cluster says that it has, and which it keeps."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from django_rb.engine import Cluster
from django_rb.engine.threads.connections import Connection
from tests.helpers import wait_until


def test_connections_of_threads(cluster: Cluster) -> None:
    assert cluster.connections() == dict.fromkeys(range(4), (0, 0))
    cluster.call_nodes("PING", hosts=[0, 1])
    assert [cluster.connections()[n] for n in range(4)] == [(1, 1), (1, 1), (0, 0), (0, 0)]
    owner = cluster.get_host_for_key("list")
    client = cluster.get_routing_client()
    thread = threading.Thread(target=client.blpop, args=("list",), kwargs={"timeout": 1.5})
    thread.start()
    wait_until(lambda: cluster.connections()[owner].open > cluster.connections()[owner].idle)
    client.rpush("list", "x")
    thread.join()
    assert cluster.connections()[owner].open == cluster.connections()[owner].idle
    cluster.close()
    assert cluster.connections() == dict.fromkeys(range(4), (0, 0))


def test_connections_of_loops(cluster: Cluster) -> None:
    async def use() -> tuple[tuple[int, int], ...]:
        owner = cluster.get_host_for_key("list")
        waiting: Any = asyncio.ensure_future(cluster.aio.blpop("list", timeout=1.5))
        while cluster.connections()[owner].open == 0:
            await asyncio.sleep(0.001)
        before = cluster.connections()[owner]
        await cluster.aio.rpush("list", "x")
        await waiting
        return before, cluster.connections()[owner]

    assert asyncio.run(use()) == ((1, 0), (2, 2))
    assert cluster.connections() == dict.fromkeys(range(4), (0, 0))


def test_a_connection_is_not_kept_if_the_cluster_is_closed_meanwhile(cluster: Cluster) -> None:
    class Idle(list[Connection]):
        def append(self, connection: Connection) -> None:
            cluster.close()
            super().append(connection)

    pool = cluster._threads.pools[0]
    connection = pool.open()
    pool.idle = Idle()
    pool.keep(connection)
    assert not pool.idle
    assert connection.fd < 0


def test_an_outdated_connection_is_closed_alone(cluster: Cluster) -> None:
    pool = cluster._threads.pools[0]
    outdated = pool.open()
    cluster.close()
    current = pool.open()
    pool.keep(current)
    pool.keep(outdated)
    assert pool.idle == [current]
    assert (current.fd >= 0, outdated.fd >= 0) == (True, False)
