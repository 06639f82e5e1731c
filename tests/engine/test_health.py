"""When a node counts as down, and who may ask it then."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from time import monotonic, time

import pytest
import redis
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.engine import Cluster, HealthChange, NodeDown, failures_of
from django_rb.engine.nodes import changes, health
from django_rb.engine.nodes.changes import (
    DOWN,
    FAILING,
    QUIET_SECONDS,
    UP,
    HealthChanges,
    RecentlyLogged,
)
from django_rb.engine.nodes.health import Health, HealthOptions
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.rounds.batch import call_each
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import Servers, wait_until, without_redirects

OPTIONS = HealthOptions(3, 1.0, 30.0)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (health, changes):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


def make_health(
    options: HealthOptions = OPTIONS, probe_seconds: float | None = 3.0
) -> tuple[Health, HealthChanges]:
    changes = HealthChanges()
    return Health(7, "host:1/0", options, probe_seconds, changes), changes


def fail(node: Health, times: int = 1) -> None:
    for number in range(times):
        node.failed(redis.ConnectionError(f"refused {number} [node 7, host:1/0]"))


def states(changes: HealthChanges) -> list[tuple[str, str]]:
    return [(change.previous, change.state) for change in changes.waiting]


def test_a_node_is_left_alone_after_so_many_failures_in_a_row() -> None:
    node, changes = make_health()
    fail(node, 2)
    assert not node.is_well
    assert node.get().state == FAILING
    assert node.refusal() is None

    fail(node)
    assert node.get().state == DOWN
    assert isinstance(node.refusal(), NodeDown)
    assert states(changes) == [(UP, FAILING), (FAILING, DOWN)]


def test_a_success_between_failures_starts_the_count_anew() -> None:
    node, changes = make_health()
    fail(node, 2)
    node.answered()
    assert node.is_well
    assert (node.get().state, node.get().failures, node.get().error) == (UP, 0, None)
    fail(node, 2)
    assert node.refusal() is None
    assert states(changes) == [(UP, FAILING), (FAILING, UP), (UP, FAILING)]


def test_one_failure_can_be_enough(clock: Clock) -> None:
    node, changes = make_health(HealthOptions(1, 1.0, 30.0))
    fail(node)
    assert node.refusal() is not None
    assert states(changes) == [(UP, DOWN)]


def test_a_refusal_names_the_node_the_last_failure_and_the_next_try(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    text = str(node.refusal())
    seconds = node.get().retry_in
    assert text == (
        f"Node is down, next try in {seconds:.1f} s. It failed 3 times, last with: refused 2 "
        "[node 7, host:1/0]"
    )


def test_one_caller_at_a_time_probes(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    clock.now += 1.0
    assert node.refusal() is None  # the probe
    refusal = node.refusal()
    assert "it is being probed" in str(refusal)

    clock.now += 3.1  # whoever probed was never heard of again
    assert node.refusal() is None
    assert node.refusal() is not None


def test_many_threads_send_one_probe() -> None:
    node, _ = make_health(HealthOptions(1, 0.001, 0.001))
    for _ in range(50):
        fail(node)
        deadline = monotonic() + 0.01
        allowed: list[int] = []
        barrier = threading.Barrier(8)

        def ask(allowed: list[int] = allowed, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            while monotonic() < deadline:  # noqa: B023
                if node.refusal() is None:
                    allowed.append(1)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(allowed) <= 1
        node.answered()


def test_a_probe_that_succeeds_brings_the_node_back(clock: Clock) -> None:
    node, changes = make_health()
    fail(node, 3)
    clock.now += 1.0
    assert node.refusal() is None
    node.answered()
    assert node.is_well
    assert node.refusal() is None
    assert states(changes)[-1] == (DOWN, UP)
    assert changes.waiting[-1].seconds == 1.0


def test_pauses_double_up_to_the_bound_with_jitter(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    longest = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    for pause in longest:
        seconds = node.get().retry_in
        assert seconds is not None
        assert pause / 2 <= seconds <= pause
        clock.now += seconds
        assert node.refusal() is None
        fail(node)
    seen = set()
    for _ in range(20):
        clock.now += 31.0
        assert node.refusal() is None
        fail(node)
        seen.add(node.get().retry_in)
    assert len(seen) > 10


def test_a_pause_begins_anew_after_a_recovery(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    for _ in range(5):
        clock.now += 31.0
        assert node.refusal() is None
        fail(node)
    clock.now += 31.0
    assert node.refusal() is None
    node.answered()
    fail(node, 3)
    seconds = node.get().retry_in
    assert seconds is not None
    assert seconds <= 1.0


def test_a_thousand_probes_do_not_overflow(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    for _ in range(2000):
        clock.now += 31.0
        assert node.refusal() is None
        fail(node)
    assert node.get().failures == 2003


def test_failures_of_calls_that_began_before_do_not_lengthen_the_pause(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    before = node.get()
    clock.now += 0.1
    fail(node, 10)
    after = node.get()
    assert after.failures == before.failures
    assert before.retry_in is not None
    assert after.retry_in == pytest.approx(before.retry_in - 0.1)


def test_an_answer_of_a_call_that_began_before_brings_the_node_back(clock: Clock) -> None:
    node, _ = make_health()
    fail(node, 3)
    node.answered()
    assert node.refusal() is None


def test_a_node_that_is_loading_is_not_back_yet(clock: Clock) -> None:
    node, changes = make_health()
    fail(node, 3)
    clock.now += 1.0
    assert node.refusal() is None
    node.answered(is_ready=False)
    seconds = node.get().retry_in
    assert node.get().state == DOWN
    assert seconds is not None
    assert 1.0 <= seconds <= 2.0  # the next pause
    assert states(changes)[-1] == (FAILING, DOWN)


def test_a_node_that_is_up_stays_so_while_it_is_loading() -> None:
    node, changes = make_health()
    node.answered(is_ready=False)
    assert node.is_well
    assert not changes.waiting


def test_without_a_number_of_failures_no_node_is_down() -> None:
    node, changes = make_health(HealthOptions(None, 0.0, 0.0))
    fail(node, 1000)
    assert node.refusal() is None
    assert node.get().state == FAILING
    assert node.get().failures == 1000
    assert states(changes) == [(UP, FAILING)]


def test_what_is_known_of_a_node(clock: Clock) -> None:
    node, _ = make_health()
    known = node.get()
    assert (known.state, known.failures, known.since) == (UP, 0, None)
    assert (known.error, known.retry_in) == (None, None)
    fail(node)
    clock.now += 5
    known = node.get()
    assert (known.state, known.failures, known.error) == (FAILING, 1, "refused 0")
    assert known.since == pytest.approx(time() - 5, abs=1)


def test_a_complaint_is_told_once_a_minute(clock: Clock) -> None:
    node, changes = make_health()
    for _ in range(100):
        node.complained(redis.exceptions.OutOfMemoryError("OOM"))
        clock.now += 1.0
    node.complained(redis.exceptions.ReadOnlyError("READONLY"))
    assert [type(change.error).__name__ for change in changes.waiting] == [
        "OutOfMemoryError",
        "ReadOnlyError",
    ]
    assert states(changes) == [(UP, UP), (UP, UP)]
    clock.now += QUIET_SECONDS
    node.complained(redis.exceptions.OutOfMemoryError("OOM"))
    assert len(changes.waiting) == 3


def test_what_did_not_come_up_for_a_minute_is_new(clock: Clock) -> None:
    recent = RecentlyLogged()
    assert recent.is_new("a")
    assert not recent.is_new("a")
    assert recent.is_new("b")
    clock.now += QUIET_SECONDS - 1
    assert not recent.is_new("a")
    clock.now += QUIET_SECONDS - 1
    assert not recent.is_new("a")
    assert recent.is_new("b")


def test_callbacks_hear_every_change_and_one_that_raises_stops_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, changes = make_health()
    heard: list[HealthChange] = []

    def raise_error(change: HealthChange) -> None:
        raise RuntimeError("not my day")

    changes.add_callback(raise_error)
    changes.add_callback(heard.append)
    fail(node, 3)
    changes.tell()
    assert [change.state for change in heard] == [FAILING, DOWN]
    assert not changes.waiting
    assert "not my day" in caplog.text


def test_each_change_is_one_line_in_the_log(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_rb.health")
    node, changes = make_health()
    fail(node, 3)
    clock.now += 2.5
    node.answered()
    fail(node)
    node.answered()
    node.complained(redis.exceptions.OutOfMemoryError("OOM no room [node 7, host:1/0]"))
    changes.tell()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Node 7 fails: refused 0 [node 7, host:1/0]"),
        ("ERROR", "Node 7 is down after 3 failures in a row: refused 2 [node 7, host:1/0]"),
        ("WARNING", "Node 7 is up again after 2.5 s [node 7, host:1/0]"),
        ("WARNING", "Node 7 fails: refused 0 [node 7, host:1/0]"),
        ("INFO", "Node 7 is up again after 0.0 s [node 7, host:1/0]"),
        ("WARNING", "Node 7 reports an error: OOM no room [node 7, host:1/0]"),
    ]


def test_an_address_may_hold_a_percent_sign(caplog: pytest.LogCaptureFixture) -> None:
    changes = HealthChanges()
    node = Health(0, "[fe80::1%eth0]:6379/0", OPTIONS, 3.0, changes)
    fail(node, 3)
    node.answered()
    changes.tell()
    assert "is up again after 0.0 s [node 0, [fe80::1%eth0]:6379/0]" in caplog.text


# Of a cluster.


def test_calls_to_a_dead_node_fail_at_once_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[HealthChange] = []
    with LocalNodes(2) as nodes:
        cluster = Cluster(nodes.hosts, health={"FAILURES": 2, "PAUSE": 0.1, "MAX_PAUSE": 0.1})
        cluster.on_health_change(changes.append)
        assert {known.state for known in cluster.health().values()} == {UP}
        nodes.kill(1)
        errors = Counter[type[Exception]]()
        for _ in range(20):
            replies, failures = cluster.call_nodes("PING")
            assert replies == {0: b"PONG"}
            errors[type(failures[0].error)] += 1
        assert errors[NodeDown] >= 16
        assert cluster.health()[0].state == UP
        assert cluster.health()[1].state == DOWN

        nodes.restart(1)
        wait_until(lambda: len(cluster.call_nodes("PING")[0]) == 2)
        assert cluster.health()[1].state == UP
        cluster.close()
    assert [change.state for change in changes] == [FAILING, DOWN, UP]
    assert len([r for r in caplog.records if r.name == "django_rb.health"]) == 3


def test_a_map_says_that_the_node_is_down() -> None:
    cluster = Cluster([{"port": 1}], health={"FAILURES": 1})
    for error in (redis.ConnectionError, NodeDown):
        with pytest.raises(error, match=r"node 0, localhost:1/0") as caught, cluster.map() as m:
            m.get("key")
        (failure,) = failures_of(caught.value)
        assert failure.host_id == 0


def test_error_replies_are_no_failures(cluster: Cluster) -> None:
    client = cluster.get_routing_client()
    client.lpush("list", 1)
    for _ in range(5):
        with pytest.raises(redis.ResponseError):
            client.incr("list")
    assert {known.state for known in cluster.health().values()} == {UP}


def test_a_full_pool_is_no_failure_of_the_node(nodes: LocalNodes) -> None:
    small = Cluster([nodes.hosts[0]], pool_options={"max_connections": 1})
    taken = small._threads.pools[0].open()
    for _ in range(5):
        with pytest.raises(redis.exceptions.MaxConnectionsError, match="max_connections"):
            small.get_routing_client().get("key")
    assert small.health()[0].state == UP
    taken.close()


def test_a_forked_child_knows_what_its_parent_knew() -> None:
    cluster = Cluster([{"port": 1}], health={"FAILURES": 1})
    cluster.call_nodes("PING")
    node = cluster.nodes[0]
    with node.health._lock:  # as another thread may hold it
        child = os.fork()
        if child == 0:
            known = cluster.health()[0].state == DOWN and node.health.refusal() is not None
            os._exit(0 if known else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_callback_may_use_the_cluster(nodes: LocalNodes) -> None:
    """What its own calls see is told after it, and not within it."""
    dead = [{"port": 1} for _ in range(20)]
    cluster = Cluster([*dead, nodes.hosts[0]], health={"FAILURES": 1})
    heard: list[int] = []
    depth = deepest = 0

    def use_the_cluster(change: HealthChange) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        heard.append(change.host_id)
        cluster.call_nodes("PING")
        depth -= 1

    cluster.on_health_change(use_the_cluster)
    cluster.call_nodes("PING")
    assert sorted(heard) == list(range(20))
    assert deepest == 1
    cluster.close()


def test_a_deadline_blames_nobody_that_answered_in_earlier_rounds() -> None:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if len(peer.commands) < 4:
            connection.sendall(b"*2\r\n$2\r\n17\r\n*0\r\n")

    def scan(cluster: Cluster) -> Batch[Exception]:
        while True:
            _, failures = yield from call_each(cluster, {0: (b"SCAN", b"0")})
            for failure in failures:
                return failure.error

    with Peer(answer) as peer:
        cluster = Cluster([peer.host])
        assert isinstance(cluster.run(scan(cluster), 0.2), redis.TimeoutError)
        assert cluster.health()[0].state == UP
        assert isinstance(cluster.run(scan(cluster), 0.1), redis.TimeoutError)
        assert cluster.health()[0].state == FAILING  # it was silent from the start
        cluster.close()


def test_a_complaint_about_a_single_get_names_the_node(nodes: LocalNodes) -> None:
    # To this user a replica does not name its primary.
    user = ["old", "on", ">secret", "~*", "+@all", *without_redirects()]
    host = {**nodes.hosts[0], "username": "old", "password": "secret"}
    with (
        override_settings(RB_CLUSTERS={"default": {"HOSTS": [host]}}),
        Servers({0: nodes.hosts[0]}) as servers,
    ):
        servers.ask(0, "ACL", "SETUSER", *user)
        cache = RBCache("default", {})
        cache.set("key", 1)
        assert cache.get("key") == 1
        changes: list[HealthChange] = []
        cache.cluster.on_health_change(changes.append)
        try:
            servers.ask(0, "REPLICAOF", "127.0.0.1", "1")
            servers.ask(0, "CONFIG", "SET", "replica-serve-stale-data", "no")
            for _ in range(3):
                with pytest.raises(redis.exceptions.MasterDownError, match="node 0"):
                    cache.get("key")
        finally:
            servers.ask(0, "CONFIG", "SET", "replica-serve-stale-data", "yes")
            servers.ask(0, "REPLICAOF", "NO", "ONE")
        assert cache.get("key") == 1
        servers.ask(0, "ACL", "DELUSER", "old")
    (change,) = changes
    assert "[node 0, 127.0.0.1:" in str(change.error)
