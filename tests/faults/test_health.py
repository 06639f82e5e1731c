"""A node that keeps failing is left alone, probed by one caller at a time, and taken back."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, NodeDown, failures_of
from django_rb.signals import node_health_changed
from tests.faults.faults import FAULTS, killed
from tests.faults.operations import OPERATIONS, Caller
from tests.faults.proxy import cut_after, swallow
from tests.faults.rig import CONNECT_TIMEOUT, FAULTY, SOCKET_TIMEOUT, Rig
from tests.faults.test_faults import (
    SLACK,
    TRIES,
    best,
    check_each,
    check_held,
    check_own_replies,
    warm_up,
)
from tests.helpers import wait_until

FAILURES = 3
LONG = {"FAILURES": FAILURES, "PAUSE": 60, "MAX_PAUSE": 60}
SHORT = {"FAILURES": FAILURES, "PAUSE": 0.05, "MAX_PAUSE": 0.05}
AT_ONCE = 0.02

DEADLY = [
    name
    for name, fault in FAULTS.items()
    if not fault.is_answer
    and set(fault.fates.values()) == {"fails"}
    and name != "a reply too many"  # it comes once
]  # fmt: skip


@pytest.fixture(params=["poll", "asyncio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways in which callers may wait."""
    way: str = request.param
    return way


def bring_down(cluster: Cluster, rig: Rig) -> None:
    for number in range(FAILURES):
        assert cluster.health()[FAULTY].failures == number
        assert isinstance(Caller().cache("get", rig.data.one).error, redis.RedisError)
    assert cluster.health()[FAULTY].state == "down"


@pytest.mark.parametrize("name", DEADLY)
def test_a_node_that_fails_in_any_way_is_left_alone(name: str, rig: Rig) -> None:
    """What fails without an answer counts, and once the node is down no call waits for it."""
    fault = FAULTS[name]

    def attempt() -> float:
        proxied = (FAULTY,) if fault.proxied else ()
        with rig.cluster(*proxied, times_out=fault.is_silence, HEALTH=LONG) as cluster:
            caller = Caller()
            warm_up(caller, rig)
            with fault.inflict(rig):
                bring_down(cluster, rig)
                accepted = rig.proxy.accepted
                outcomes = [caller.cache("get_many", rig.data.all) for _ in range(20)]
            for outcome in outcomes:
                assert isinstance(outcome.error, NodeDown)
                (failure,) = failures_of(outcome.error)
                assert failure.host_id == FAULTY
                assert len(failure.keys) == len(rig.data.lost)
            assert rig.proxy.accepted == accepted
        return sorted(outcome.seconds for outcome in outcomes)[len(outcomes) // 2]

    best(attempt, rig, AT_ONCE)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_others_work_goes_on_while_a_node_is_down(name: str, rig: Rig) -> None:
    operation = OPERATIONS[name]
    with rig.cluster(HEALTH=LONG) as cluster, killed(rig):
        bring_down(cluster, rig)
        if operation.missed is None:
            outcome = operation.run(Caller("raise"), rig.data)
            assert isinstance(outcome.error, NodeDown)
        else:
            outcome = operation.run(Caller("miss"), rig.data)
            assert outcome.error is None
            assert outcome.value == operation.missed(rig.data)
        if operation.by_node is not None:
            check_each(outcome, operation, rig.data)
        check_held(rig, operation.left(rig.data))


def test_a_node_is_never_down_without_health(rig: Rig) -> None:
    with rig.cluster(FAULTY, HEALTH=None) as cluster:
        with rig.proxy.tampering(requests=cut_after(0)):
            for number in range(1, 11):
                outcome = Caller().cache("get", rig.data.one)
                assert isinstance(outcome.error, redis.ConnectionError)
                assert not isinstance(outcome.error, NodeDown)
                assert cluster.health()[FAULTY].state == "failing"
                assert cluster.health()[FAULTY].failures == number
        assert Caller().cache("get", rig.data.one).error is None


def test_health_says_how_every_node_is(rig: Rig) -> None:
    with rig.cluster(HEALTH=LONG) as cluster:
        caller = Caller("miss")
        caller.cache("get_many", rig.data.all)
        assert {health.state for health in cluster.health().values()} == {"up"}
        began = time.time()
        with killed(rig):
            for failures, state in ((1, "failing"), (2, "failing"), (3, "down"), (3, "down")):
                caller.cache("get_many", rig.data.all)
                health = cluster.health()[FAULTY]
                assert (health.failures, health.state) == (failures, state)
        assert health.since is not None
        assert health.error is not None
        assert health.retry_in is not None
        assert began - 0.1 <= health.since <= time.time() + 0.1
        assert "refused" in health.error
        assert 25 < health.retry_in <= 60  # a pause is shortened by up to a half
        others = {host: health.state for host, health in cluster.health().items()}
        assert others == {**dict.fromkeys(rig.data.hosts, "up"), FAULTY: "down"}


# Probes.


def run_in_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_caller_at_a_time_probes(rig: Rig) -> None:
    """Eight threads keep asking a node that takes connections and never answers."""
    # A probe that a busy machine kept waiting too long is followed by another one.
    best(lambda: most_probes_at_a_time(rig, seconds=1.2), rig, 1)


def most_probes_at_a_time(rig: Rig, seconds: float) -> float:
    with rig.cluster(FAULTY, times_out=True, HEALTH=SHORT) as cluster:
        with rig.proxy.tampering(requests=lambda: swallow):
            bring_down(cluster, rig)
            wait_until(lambda: not rig.proxy.open)
            accepted, rig.proxy.most_open = rig.proxy.accepted, 0
            waited: list[float] = []
            end = time.monotonic() + seconds

            def ask() -> None:
                caller = Caller()
                while time.monotonic() < end:
                    outcome = caller.cache("get", rig.data.one)
                    if not isinstance(outcome.error, NodeDown):
                        waited.append(outcome.seconds)
                    time.sleep(0.005)

            run_in_threads(8, ask)
            probes = rig.proxy.accepted - accepted
        assert 1 < probes <= seconds / SOCKET_TIMEOUT + 1
    # Callers that waited without a probe, or the other way round, count as well.
    return rig.proxy.most_open + abs(len(waited) - probes)


def test_pauses_grow_to_their_bound(rig: Rig) -> None:
    health = {"FAILURES": 1, "PAUSE": 0.02, "MAX_PAUSE": 0.08}
    pauses = [0.02, 0.04, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08]
    with rig.cluster(FAULTY, HEALTH=health):
        caller = Caller()
        probes: list[tuple[float, float]] = []
        with rig.proxy.tampering(requests=cut_after(0)):
            while len(probes) <= len(pauses):
                before = rig.proxy.accepted
                began = time.monotonic()
                outcome = caller.cache("get", rig.data.one)
                if rig.proxy.accepted > before:
                    probes.append((began, time.monotonic()))
                else:
                    assert isinstance(outcome.error, NodeDown)
                time.sleep(0.0005)
        # A pause lies between the failure of one probe and the beginning of the next. However
        # late this thread is woken, it is shorter than from the call before to the call after.
        took = [ended - began for (began, _), (_, ended) in itertools.pairwise(probes)]
        for pause, seconds in zip(pauses, took, strict=True):
            assert seconds >= pause / 2
        # A busy machine makes pauses longer; all of them together hardly by so much.
        assert sum(took) < sum(pauses) + 1


def test_one_success_brings_a_node_back_for_all(rig: Rig) -> None:
    with rig.cluster(HEALTH=SHORT) as cluster:
        with killed(rig):
            bring_down(cluster, rig)
        rig.fill(FAULTY)
        wait_until(lambda: Caller().cache("get", rig.data.one).error is None)
        assert cluster.health()[FAULTY].state == "up"
        assert cluster.health()[FAULTY].failures == 0
        failed: list[object] = []

        def ask() -> None:
            outcome = Caller().cache("get_many", rig.data.all)
            if outcome.error is not None:
                failed.append(outcome)

        run_in_threads(8, ask)
        assert failed == []
        check_own_replies(Caller(), rig)


def test_a_success_between_failures_counts(rig: Rig) -> None:
    with rig.cluster(FAULTY, HEALTH=LONG) as cluster:
        for _ in range(FAILURES):
            with rig.proxy.tampering(requests=cut_after(0)):
                for _ in range(FAILURES - 1):
                    assert Caller().cache("get", rig.data.one).error is not None
            assert Caller().cache("get", rig.data.one).error is None
            assert cluster.health()[FAULTY].state == "up"


def test_a_deadline_over_which_a_node_was_silent_counts(rig: Rig) -> None:
    def attempt() -> float:
        """Return after how many calls the node is down; one that was late does not count."""
        with rig.cluster(times_out=True, HEALTH=LONG) as cluster:
            warm_up(Caller(), rig)
            caller, calls = Caller("raise", SOCKET_TIMEOUT / 2), 0
            with FAULTS["stopped"].inflict(rig):
                while cluster.health()[FAULTY].state != "down":
                    assert calls < FAILURES + TRIES
                    outcome = caller.cache("get_many", rig.data.all)
                    assert isinstance(outcome.error, redis.TimeoutError)
                    calls += 1
                others = set(rig.data.hosts) - {FAULTY}
                assert {cluster.health()[host].state for host in others} == {"up"}
        assert calls >= FAILURES
        return calls

    best(attempt, rig, FAILURES)


def test_a_probe_of_a_black_hole_takes_one_connect_timeout(rig: Rig) -> None:
    def attempt() -> float:
        with (
            rig.cluster(FAULTY, times_out=True, HEALTH=SHORT) as cluster,
            rig.proxy.black_hole(),
        ):
            bring_down(cluster, rig)
            wait_until(lambda: cluster.health()[FAULTY].retry_in == 0)
            outcome = Caller().cache("get", rig.data.one)
            assert isinstance(outcome.error, redis.TimeoutError)
        return outcome.seconds

    best(attempt, rig, CONNECT_TIMEOUT + SLACK)


# What an operator learns.


@pytest.fixture
def signals() -> Iterator[list[dict[str, Any]]]:
    received: list[dict[str, Any]] = []

    def receive(sender: object, **kwargs: Any) -> None:
        kwargs.pop("signal")
        received.append(kwargs)

    node_health_changed.connect(receive)
    yield received
    node_health_changed.disconnect(receive)


@pytest.mark.parametrize("mode", ["miss", "raise"])
def test_one_line_and_one_signal_for_each_change(
    mode: Any, rig: Rig, caplog: pytest.LogCaptureFixture, signals: list[dict[str, Any]]
) -> None:
    """Whatever the number of keys, calls and threads."""
    caplog.set_level(logging.INFO, "django_rb")
    with rig.cluster(HEALTH=SHORT) as cluster:
        address = cluster.get_address(FAULTY)
        with killed(rig):

            def ask() -> None:
                caller = Caller(mode)
                for _ in range(10):
                    caller.cache("get_many", rig.data.all)
                    caller.cache("set_many", dict.fromkeys(rig.data.all, 1))
                    caller.cache("get", rig.data.one)

            run_in_threads(8, ask)
            states = [signal["state"] for signal in signals]
            assert states == ["failing", "down"]
        wait_until(lambda: Caller().cache("get", rig.data.one).error is None)
    assert [(signal["previous"], signal["state"]) for signal in signals] == [
        ("up", "failing"),
        ("failing", "down"),
        ("down", "up"),
    ]
    assert {signal["alias"] for signal in signals} == {"default"}
    assert {signal["host_id"] for signal in signals} == {FAULTY}
    assert {signal["address"] for signal in signals} == {address}
    assert [type(signal["error"]) for signal in signals[:2]] == [redis.ConnectionError] * 2
    assert signals[2]["error"] is None
    lines = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert [(name, level) for name, level, _ in lines] == [
        ("django_rb.health", "WARNING"),
        ("django_rb.health", "ERROR"),
        ("django_rb.health", "WARNING"),
    ]
    for start, (_, _, message) in zip(
        ("Node 1 fails: ", "Node 1 is down after 3 failures in a row: ", "Node 1 is up again"),
        lines,
        strict=True,
    ):
        assert message.startswith(start)
        assert message.endswith(f"[node {FAULTY}, {address}, cluster default]")
