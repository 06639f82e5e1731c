"""Error replies: which exception, and what they say of the node's health."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
import redis
from redis import exceptions

from django_rb.engine import Cluster, NodeBusy, NodeDown, failures_of
from tests.faults.faults import FAULTS, busy, configured, killed, replica
from tests.faults.operations import Caller
from tests.faults.proxy import instead, only_first
from tests.faults.rig import FAULTY, PATIENT, Rig
from tests.helpers import wait_until

ANSWERS = [name for name, fault in FAULTS.items() if fault.is_answer]
CALLS = 5  # more than make a node count as down
FAILURES = 3
QUICK = {"FAILURES": FAILURES, "PAUSE": 0.05, "MAX_PAUSE": 0.05}


@pytest.fixture(params=["poll", "asyncio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways in which callers may wait."""
    way: str = request.param
    return way


@pytest.mark.parametrize("name", ANSWERS)
def test_a_node_that_answers_with_an_error_is_up(
    name: str, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    fault = FAULTS[name]
    with rig.cluster() as cluster:
        caller = Caller("miss")
        assert caller.cache("get_many", rig.data.all).error is None
        with fault.inflict(rig):
            for _ in range(CALLS):
                assert caller.cache("set_many", dict.fromkeys(rig.data.all, 1)).value
            strict = Caller("raise").cache("set", rig.data.one, 1)
        assert isinstance(strict.error, fault.error)
        (failure,) = failures_of(strict.error)
        assert f"[node {FAULTY}, {failure.address}, cluster default]" in str(strict.error)
        health = cluster.health()[FAULTY]
        assert (health.state, health.failures, health.error) == ("up", 0, None)
    # One line for all calls and keys.
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"Node {FAULTY} " in caplog.text
    assert failure.address in caplog.text


def test_busy_has_an_exception_of_its_own(rig: Rig) -> None:
    with rig.cluster(), busy(rig):
        outcome = Caller().cache("get", rig.data.one)
    assert isinstance(outcome.error, NodeBusy)


# Nodes that answer and cannot do their work.


@pytest.mark.parametrize("name", ["loading", "busy", "master down"])
def test_a_node_that_is_down_is_not_back_until_it_is_ready(name: str, rig: Rig) -> None:
    fault = FAULTS[name]
    with rig.cluster(HEALTH=QUICK) as cluster:
        caller = Caller()
        with killed(rig):
            bring_down(cluster, caller, rig)
        rig.fill(FAULTY)
        with fault.inflict(rig):
            for _ in range(3):
                wait_until(lambda: cluster.health()[FAULTY].retry_in == 0)
                outcome = caller.cache("get", rig.data.one)
                assert isinstance(outcome.error, fault.error)
                assert cluster.health()[FAULTY].state == "down"
        wait_until(lambda: caller.cache("get", rig.data.one).error is None)
        assert cluster.health()[FAULTY].state == "up"


def bring_down(cluster: Cluster, caller: Caller, rig: Rig) -> None:
    for _ in range(FAILURES):
        assert isinstance(caller.cache("get", rig.data.one).error, redis.ConnectionError)
    assert cluster.health()[FAULTY].state == "down"


# Handshakes that fail.


@contextlib.contextmanager
def password_required(rig: Rig) -> Iterator[None]:
    """Let the node ask clients that come without a password for one."""
    with configured(rig, requirepass="secret"):
        yield


@pytest.mark.parametrize("name", ["wrong password", "max clients"])
def test_a_failed_handshake_counts_as_a_failure(name: str, rig: Rig) -> None:
    fault = FAULTS[name]
    with rig.cluster() as cluster:
        caller = Caller()
        with fault.inflict(rig):
            for number in range(1, 4):
                outcome = caller.cache("get", rig.data.one)
                assert isinstance(outcome.error, fault.error)
                assert cluster.health()[FAULTY].failures == number
            assert isinstance(caller.cache("get", rig.data.one).error, NodeDown)
        assert fault.says.split("|")[0] in str(cluster.health()[FAULTY].error)


def test_a_missing_password_counts_as_a_failure(rig: Rig) -> None:
    with password_required(rig):
        # A handshake asks something everywhere if there is a database to select.
        cluster = Cluster(rig.nodes.hosts, {"db": 1}, pool_options=PATIENT)
        for _ in range(3):
            _, (failure,) = cluster.call_nodes("PING")
            assert failure.host_id == FAULTY
            assert isinstance(failure.error, redis.AuthenticationError)
            assert "Authentication required" in str(failure.error)
            assert f"[node {FAULTY}, {failure.address}]" in str(failure.error)
        _, (failure,) = cluster.call_nodes("PING")
        assert isinstance(failure.error, NodeDown)
        cluster.close()


def test_max_clients_has_a_clear_error(rig: Rig) -> None:
    with rig.cluster() as cluster:
        with FAULTS["max clients"].inflict(rig):
            outcome = Caller().cache("get", rig.data.one)
        address = cluster.get_address(FAULTY)
        assert "max number of clients reached" in str(outcome.error)
        assert f"[node {FAULTY}, {address}, cluster default]" in str(outcome.error)
        assert isinstance(outcome.error, redis.ConnectionError)


# Connections that lead to what is no longer the right node, or the right user.


def open_two(cluster: Cluster, rig: Rig) -> None:
    """Let the faulty node have two idle connections."""
    pool = cluster._threads.pools[FAULTY]
    pool.keep(pool.open())
    pool.keep(pool.open())
    assert len(pool.idle) == 2
    assert Caller().cache("get", rig.data.one).error is None


def check_connects_anew(cluster: Cluster, rig: Rig) -> None:
    now = cluster.nodes[FAULTY].epoch
    # Threads close what is outdated when they next want a connection.
    assert all(idle.epoch != now for idle in cluster._threads.pools[FAULTY].idle)
    accepted = rig.proxy.accepted
    assert Caller().cache("get", rig.data.one).error is None
    assert rig.proxy.accepted == accepted + 1
    rig.check_connections(cluster)


def test_after_readonly_the_next_call_connects_anew(rig: Rig) -> None:
    with rig.cluster(FAULTY) as cluster:
        open_two(cluster, rig)
        with replica(rig):
            outcome = Caller().cache("set", rig.data.one, 1)
            assert isinstance(outcome.error, exceptions.ReadOnlyError)
        check_connects_anew(cluster, rig)


def test_after_noauth_the_next_call_connects_anew(rig: Rig) -> None:
    noauth = b"-NOAUTH Authentication required.\r\n"
    with rig.cluster(FAULTY) as cluster:
        open_two(cluster, rig)
        with rig.proxy.tampering(replies=only_first(instead(noauth))):
            outcome = Caller().cache("set", rig.data.one, 1)
        assert isinstance(outcome.error, redis.AuthenticationError)
        assert f"[node {FAULTY}, 127.0.0.1:{rig.proxy.port}/0, cluster default]" in str(
            outcome.error
        )
        assert cluster.health()[FAULTY].state == "up"
        check_connects_anew(cluster, rig)


def test_other_errors_keep_the_connection(rig: Rig) -> None:
    with rig.cluster(FAULTY) as cluster:
        open_two(cluster, rig)
        accepted = rig.proxy.accepted
        with configured(rig, maxmemory=1):
            assert Caller().cache("set", rig.data.one, 1).error is not None
        assert Caller().cache("get", rig.data.one).error is None
        assert rig.proxy.accepted == accepted
