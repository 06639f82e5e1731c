"""Nothing outlives its time: not a scan, a lock, a call without threads, or a stopped clock.

What the caller takes of a call's time is not held against its nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import freezegun
import pytest
import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.rounds.batch import call_each, find, store
from django_rb.testing import LocalNodes
from tests.faults.operations import Caller
from tests.faults.proxy import delayed
from tests.faults.rig import FAULTY, Rig
from tests.helpers import idle_connections, make_cache, wait_until

DEADLINE = 0.3
KEYS = [b"key:%d" % number for number in range(40)]


@pytest.fixture(params=["poll", "asyncio"])
def transport(request: pytest.FixtureRequest) -> str:
    wanted: str = request.param
    return wanted


def run(cluster: Cluster, transport: str, batch: Batch[object], timeout: float) -> None:
    async def arun() -> None:
        await cluster.arun(batch, timeout)
        await cluster.aclose()

    if transport == "poll":
        cluster.run(batch, timeout)
    else:
        asyncio.run(arun())


@contextlib.contextmanager
def stopped(nodes: LocalNodes) -> Iterator[None]:
    for host_id in nodes.hosts:
        nodes.pause(host_id)
    try:
        yield
    finally:
        for host_id in nodes.hosts:
            nodes.resume(host_id)


def test_a_scan_has_one_deadline(rig: Rig) -> None:
    """And not one for each of its pages."""
    for number in range(0, 10_000, 1000):
        names = [f":1:scan{number + n}" for n in range(1000)]
        rig.ask("MSET", *(word for name in names for word in (name, 1)))
    late = delayed(0.12)
    with rig.cluster(FAULTY) as cluster:
        assert len(Caller().cache("keys", "scan*").value) == 10_000
        with rig.proxy.tampering(replies=late):
            outcome = Caller(deadline=DEADLINE).cache("keys", "scan*")
        assert isinstance(outcome.error, redis.TimeoutError)
        assert outcome.seconds < 1
        assert cluster.health()[FAULTY].state == "up"  # it answered, page by page


def test_what_is_opened_after_close_is_not_kept(rig: Rig) -> None:
    late = delayed(0.3)
    with rig.cluster(FAULTY) as cluster, rig.proxy.tampering(replies=late):
        outcome = Caller(deadline=0.1).cache("get", rig.data.one)
        assert isinstance(outcome.error, redis.TimeoutError)
        cluster.close()
        openings = cluster._threads._openings
        wait_until(lambda: openings.count() == 0)
        assert idle_connections(cluster) == []
        wait_until(lambda: rig.connections() == 0)


@pytest.mark.parametrize("way", ["acquire", "release", "extend"])
def test_a_lock_on_a_silent_node_keeps_the_deadline_and_names_the_node(
    way: str, transport: str, nodes: LocalNodes
) -> None:
    cache = make_cache(OPTIONS={"DEADLINE": 0.2})
    arguments = [1] if way == "extend" else []

    def check(began: float, error: redis.TimeoutError) -> None:
        assert time.monotonic() - began < 1
        host_id = cache.cluster.get_host_for_key(cache.make_key("name"))
        assert f"[node {host_id}, 127.0.0.1:" in str(error)

    def in_a_thread() -> None:
        lock = cache.lock("name", timeout=30)
        if way != "acquire":
            assert lock.acquire()
        with stopped(nodes):
            began = time.monotonic()
            with pytest.raises(redis.TimeoutError) as caught:
                getattr(lock, way)(*arguments)
        check(began, caught.value)

    async def on_a_loop() -> None:
        lock = cache.alock("name", timeout=30)
        if way != "acquire":
            assert await lock.acquire()
        with stopped(nodes):
            began = time.monotonic()
            with pytest.raises(redis.TimeoutError) as caught:
                await getattr(lock, way)(*arguments)
        check(began, caught.value)
        await cache.cluster.aclose()

    if transport == "poll":
        in_a_thread()
    else:
        asyncio.run(on_a_loop())


def make_slowly(cluster: Cluster) -> Batch[object]:
    """A call whose keys take most of its time to be made."""
    time.sleep(0.22)
    found = yield from find(cluster, KEYS)
    return found


def pack_slowly(cluster: Cluster) -> Batch[object]:
    """A call whose values take most of its time to be packed."""

    def encode(value: bytes) -> bytes:
        time.sleep(0.055)
        return value

    one_of_each = {cluster.get_host_for_key(key): key for key in KEYS}.values()
    return store(cluster, list(one_of_each), list(one_of_each), encode)


def ask(cluster: Cluster) -> Batch[object]:
    return call_each(cluster, dict.fromkeys(cluster.nodes, ("ECHO", "word")))


@pytest.mark.parametrize(
    ("make", "state"), [(make_slowly, "up"), (pack_slowly, "up"), (ask, "failing")]
)
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "not connected"])
def test_what_the_caller_takes_of_the_time_is_not_the_nodes_fault(
    make: Callable[[Cluster], Batch[object]],
    state: str,
    is_connected: bool,
    transport: str,
    nodes: LocalNodes,
) -> None:
    """Nodes that are stopped had a quarter of the time, or all of it."""
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter)

    async def on_a_loop() -> None:
        if is_connected:
            await cluster.arun(ask(cluster))
        with stopped(nodes):
            await cluster.arun(make(cluster), DEADLINE)
        await cluster.aclose()

    if transport == "asyncio":
        asyncio.run(on_a_loop())
    else:
        if is_connected:
            cluster.run(ask(cluster))
        with stopped(nodes):
            cluster.run(make(cluster), DEADLINE)
    assert {health.state for health in cluster.health().values()} == {state}
    cluster.close()


@pytest.fixture
def no_threads() -> Iterator[None]:
    """No thread can be started: there is no room for its stack."""
    threading.stack_size(2**46)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(0)


def test_where_no_thread_can_be_started_time_is_kept_and_healthy_nodes_answer(
    open_nodes: LocalNodes, no_threads: None
) -> None:
    deadline = 1.2  # a sixth of it is enough to connect a node, on a busy machine too
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        hosts = [{"port": silent.getsockname()[1], "db": number} for number in range(5)]
        cluster = Cluster([*hosts, open_nodes.hosts[0]], router_cls=SlotRouter)
        began = time.monotonic()
        replies, failures = cluster.call_nodes("ECHO", "word", timeout=deadline)
        assert time.monotonic() - began < deadline + 0.2
        assert replies == {5: b"word"}
        assert {failure.host_id for failure in failures} == {0, 1, 2, 3, 4}
        assert {health.state for health in cluster.health().values()} == {"up"}
        # Alone, a silent node has all the time, and has failed then.
        replies, failures = cluster.call_nodes("ECHO", "word", hosts=[0], timeout=DEADLINE)
        assert "[node 0, " in str(failures[0].error)
        assert replies == {}
        cluster.close()


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "not connected"])
@pytest.mark.parametrize("deadline", [0.1, None])
def test_a_stopped_clock_does_not_stop_time(
    deadline: float | None, is_connected: bool, nodes: LocalNodes
) -> None:
    """As tests of sites do with freezegun. (It stops event loops as a whole.)"""
    seconds = 0.5 if deadline is None else 5.0  # time enough for nodes that answer
    options = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    cluster = Cluster(nodes.hosts, pool_options=options, router_cls=SlotRouter)
    if is_connected:
        cluster.run(find(cluster, KEYS))
    with stopped(nodes), freezegun.freeze_time("2026-01-01"):
        _, failures = cluster.run(find(cluster, KEYS), deadline)
    assert {type(failure.error) for failure in failures} == {redis.TimeoutError}
    assert len(failures) == len(nodes.hosts)
    with freezegun.freeze_time("2026-01-01"):
        assert cluster.run(find(cluster, KEYS)) == ({}, [])
    cluster.close()
