"""Names of nodes: what is looked up for one node holds up no other, nor the site."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.nodes.failing import MOST_OPENINGS
from django_rb.engine.rounds.batch import call_each, pipeline
from django_rb.testing import LocalNodes
from tests.faults.names import Names
from tests.faults.proxy import Proxy
from tests.faults.sharing.checks import openings_under_way
from tests.helpers import wait_until
from tests.transports import awaited

CALLERS = 20
HANGING = 200
OPTIONS = {"socket_timeout": 2.0, "socket_connect_timeout": 0.4}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs addresses of 127.0.0.0/8")


@pytest.fixture
def names() -> Iterator[Names]:
    with Names() as names:
        yield names
    wait_until(lambda: not openings_under_way())


@pytest.fixture(params=["poll", "asyncio", "uvloop"])
def both(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let what a test has a cluster run go by each of the transports."""
    loops: dict[str, Callable[[], Any]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    if request.param == "poll":
        yield
    else:
        with awaited(loops[request.param]):
            yield


def make_cluster(nodes: LocalNodes, *hosts: str, **options: Any) -> Cluster:
    """Return a cluster of nodes by names."""
    return Cluster(
        [{**nodes.hosts[number], "host": name} for number, name in enumerate(hosts)],
        router_cls=SlotRouter,
        pool_options={**OPTIONS, **options},
    )


def key_of(cluster: Cluster, host_id: int) -> bytes:
    keys = (b"key:%d" % number for number in range(10_000))
    return next(key for key in keys if cluster.get_host_for_key(key) == host_id)


def count_threads() -> int:
    """Return how many threads this process has, or 0 where that is not to be seen."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0


def ping(cluster: Cluster, host_id: int = 0) -> str:
    """Return what a node answers, or its error."""
    command = dict.fromkeys([host_id], ("PING",))
    replies, failures = cluster.run(call_each(cluster, command))
    return str(failures[0].error) if failures else replies[host_id].decode()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_slow_name_holds_up_no_other_node_and_nothing_of_the_site(
    new_loop: Callable[[], Any], nodes: LocalNodes, names: Names
) -> None:
    names["slow.test"], names["quick.test"] = None, ["127.0.0.1"]
    cluster = make_cluster(
        nodes, "quick.test", "slow.test", socket_connect_timeout=20.0, socket_timeout=20.0
    )

    async def get(host_id: int) -> list[Any]:
        key = key_of(cluster, host_id)
        # A pipeline: single commands wait for each other, and would need few connections.
        _, failures = await cluster.arun(pipeline(cluster, key, (b"GET", key)))
        return failures

    async def main() -> None:
        slow = [asyncio.create_task(get(1)) for _ in range(CALLERS)]
        await asyncio.sleep(0.01)
        assert await asyncio.gather(*(get(0) for _ in range(CALLERS))) == [[]] * CALLERS
        await asyncio.to_thread(time.monotonic)  # something of the site's
        assert not any(task.done() for task in slow)
        assert names.most["slow.test"] == 1
        names.end_hanging()
        for failures in await asyncio.gather(*slow):
            assert isinstance(failures[0].error, redis.ConnectionError)
        assert cluster.health()[0].state == "up"
        await cluster.aclose()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_name_takes_no_more_time_than_connecting_may_take(
    both: None, nodes: LocalNodes, names: Names
) -> None:
    names["slow.test"] = None
    cluster = make_cluster(nodes, "slow.test", socket_timeout=20.0)
    began = time.monotonic()
    assert "Timeout while resolving the name 'slow.test' [node 0, " in ping(cluster)
    assert time.monotonic() - began < 5
    assert cluster.health()[0].state == "failing"
    cluster.close()


def test_two_hundred_names_that_hang_are_two_hundred_threads(
    both: None, nodes: LocalNodes, names: Names
) -> None:
    hanging = [f"n{number}.test" for number in range(HANGING)]
    for name in hanging:
        names[name] = None
    names["quick.test"] = ["127.0.0.1"]
    quick = {**nodes.hosts[0], "host": "quick.test"}
    patient = {"socket_timeout": 20.0, "socket_connect_timeout": 20.0}
    cluster = Cluster(
        [quick, *({"host": name} for name in hanging)], pool_options=patient, health=None
    )
    everywhere = dict.fromkeys(cluster.nodes, ("PING",))

    def ask() -> tuple[dict[int, bytes], int]:
        replies, failures = cluster.run(call_each(cluster, everywhere))
        return replies, len(failures)

    before = count_threads()
    with ThreadPoolExecutor(3) as callers:
        asked = [callers.submit(ask) for _ in range(3)]
        wait_until(lambda: names.under_way() == HANGING, 10)
        cluster.nodes[0].epoch += 1  # it has to be connected to once more
        assert ping(cluster) == "PONG"
        assert count_threads() < before + 2 * HANGING + MOST_OPENINGS

        def have_ended() -> bool:
            names.end_hanging()  # also of a caller that came late, and looks all up once more
            return all(one.done() for one in asked)

        wait_until(have_ended)
        assert [one.result() for one in asked] == [({0: b"PONG"}, HANGING)] * 3
    assert max(names.most.values()) == 1
    cluster.close()


@pytest.mark.parametrize("answer", [None, socket.EAI_AGAIN], ids=["hangs", "no name server"])
def test_the_last_address_counts_while_none_is_found(
    answer: int | None, both: None, nodes: LocalNodes, names: Names
) -> None:
    names["node.test"] = ["127.0.0.1"]
    cluster = make_cluster(nodes, "node.test")
    assert ping(cluster) == "PONG"
    names["node.test"] = answer
    for _ in range(2):
        cluster.nodes[0].epoch += 1  # whatever is connected is of no more use
        assert ping(cluster) == "PONG"
    assert cluster.health()[0].state == "up"
    cluster.close()


def test_a_name_that_does_not_exist_any_more_has_no_address(
    both: None, nodes: LocalNodes, names: Names
) -> None:
    names["node.test"] = ["127.0.0.1"]
    cluster = make_cluster(nodes, "node.test")
    assert ping(cluster) == "PONG"
    names["node.test"] = socket.EAI_NONAME
    cluster.nodes[0].epoch += 1
    port = nodes.hosts[0]["port"]
    assert ping(cluster) == (
        f"Error {int(socket.EAI_NONAME)} connecting to node.test:{port}. Name or service not "
        f"known. [node 0, node.test:{port}/0]"
    )
    cluster.close()


@on_linux
def test_a_node_may_come_back_with_another_address(
    both: None, open_nodes: LocalNodes, names: Names
) -> None:
    upstream = ("127.0.0.1", open_nodes.hosts[0]["port"])
    first = Proxy(upstream, "127.0.0.2")
    with first, Proxy(upstream, "127.0.0.3", first.port) as second:
        second.refuse()
        names["node.test"] = ["127.0.0.2"]
        cluster = Cluster(
            [{"host": "node.test", "port": first.port}],
            pool_options=OPTIONS,
            health={"FAILURES": 1, "PAUSE": 0.01, "MAX_PAUSE": 0.01},
        )
        assert ping(cluster) == "PONG"
        names["node.test"] = None
        first.refuse()
        assert "refused" in ping(cluster)
        assert cluster.health()[0].state == "down"
        second.listen()
        names["node.test"] = ["127.0.0.3"]
        names.end_hanging()
        wait_until(lambda: ping(cluster) == "PONG")
        assert second.accepted
        cluster.close()


@on_linux
def test_all_addresses_of_a_name_are_tried(both: None, nodes: LocalNodes, names: Names) -> None:
    names["node.test"] = ["127.0.0.4", "127.0.0.5", "127.0.0.1"]
    cluster = make_cluster(nodes, "node.test")
    assert ping(cluster) == "PONG"
    names["node.test"] = ["127.0.0.4", "127.0.0.5"]
    cluster.nodes[0].epoch += 1
    assert "connecting to 127.0.0.5" in ping(cluster)
    cluster.close()


def test_where_no_thread_can_be_started_the_node_is_not_to_blame(
    nodes: LocalNodes, names: Names
) -> None:
    """On event loops; a thread looks a name up itself."""
    names["node.test"] = ["127.0.0.1"]
    cluster = make_cluster(nodes, "node.test")

    async def main() -> None:
        threading.stack_size(2**46)
        try:
            _, failures = await cluster.arun(call_each(cluster, {0: ("PING",)}))
            assert "'node.test' cannot be resolved: can't start" in str(failures[0].error)
            assert cluster.health()[0].state == "up"
            assert cluster.call_nodes("PING") == ({0: b"PONG"}, [])
            # Now it is known.
            replies, _ = await cluster.arun(call_each(cluster, {0: ("PING",)}))
            assert replies == {0: b"PONG"}
        finally:
            threading.stack_size(0)
        await cluster.aclose()

    asyncio.run(main())
    cluster.close()
