"""A call ends in time: by its deadline, or within one connect and one socket timeout."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import pytest
import redis

from django_rb import clusters
from tests.faults.faults import AT_ONCE, FAULTS, SILENCE, Fault
from tests.faults.operations import OPERATIONS, Caller, Operation
from tests.faults.proxy import (
    HangUp,
    Send,
    Tamper,
    delayed,
    dripping,
    from_byte,
    only_first,
    swallow,
)
from tests.faults.rig import CONNECT_TIMEOUT, SOCKET_TIMEOUT, Rig
from tests.faults.test_faults import (
    LONGEST,
    SILENT,
    SLACK,
    TooBusy,
    best,
    check_held,
    meet,
    warm_up,
)

DEADLINE = 0.15

SLOW: dict[str, Fault] = {
    **{name: FAULTS[name] for name in SILENT},
    "slow drip": Fault(
        lambda rig: rig.proxy.tampering(replies=dripping(0.05)), FAULTS["killed"].fates
    ),
    "late replies": Fault(
        lambda rig: rig.proxy.tampering(replies=delayed(SOCKET_TIMEOUT - 0.02)),
        FAULTS["killed"].fates,
    ),
}


@pytest.mark.parametrize(
    ("operation", "transport"),
    [
        ("get", "poll"),
        ("set_many", "poll"),
        ("map of reads", "poll"),
        ("get", "asyncio"),
        ("set_many", "asyncio"),
    ],
)
@pytest.mark.parametrize("name", SLOW)
def test_a_deadline_is_kept(name: str, operation: str, rig: Rig) -> None:
    fault = replace(
        SLOW[name], error=redis.TimeoutError, says=f"Deadline exceeded|{SILENCE}", proxied=True
    )

    def attempt() -> float:
        return meet(rig, fault, OPERATIONS[operation], "raise", DEADLINE)

    best(attempt, rig, DEADLINE + SLACK)


# Faults of any node.


@contextlib.contextmanager
def killed(rig: Rig, host_id: int) -> Iterator[None]:
    rig.nodes.kill(host_id)
    try:
        yield
    finally:
        rig.nodes.restart(host_id)


@contextlib.contextmanager
def stopped(rig: Rig, host_id: int) -> Iterator[None]:
    rig.nodes.pause(host_id)
    try:
        yield
    finally:
        rig.nodes.resume(host_id)


@contextlib.contextmanager
def black_holed(rig: Rig, host_id: int) -> Iterator[None]:
    with rig.proxies[host_id].black_hole():
        yield


@contextlib.contextmanager
def never_answering(rig: Rig, host_id: int) -> Iterator[None]:
    rig.proxies[host_id].hang_up()
    with rig.proxies[host_id].tampering(requests=lambda: swallow):
        yield


Inflict = Callable[[Rig, int], contextlib.AbstractContextManager[None]]

# Host ids, what is wrong with them, and how long a call may take then.
LOSSES: dict[str, tuple[Mapping[int, Inflict], float]] = {
    "two killed": ({0: killed, 1: killed}, AT_ONCE),
    "two stopped": ({0: stopped, 1: stopped}, SOCKET_TIMEOUT),
    "two black-holed": ({0: black_holed, 1: black_holed}, CONNECT_TIMEOUT),
    "two never answering": ({0: never_answering, 1: never_answering}, SOCKET_TIMEOUT),
    "two in different ways": ({0: black_holed, 1: stopped}, SOCKET_TIMEOUT),
    "all stopped": ({0: stopped, 1: stopped, 2: stopped}, SOCKET_TIMEOUT),
    "all in different ways": (
        {0: black_holed, 1: stopped, 2: killed},
        CONNECT_TIMEOUT + SOCKET_TIMEOUT,
    ),
}


@pytest.mark.parametrize(
    ("operation", "deadline", "transport"),
    [
        ("get_many", None, "poll"),
        ("set_many", DEADLINE, "poll"),
        ("get_many", None, "asyncio"),
        ("set_many", DEADLINE, "asyncio"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_several_nodes_cost_no_more_time_than_one(
    loss: str, operation: str, deadline: float | None, rig: Rig
) -> None:
    faults, seconds = LOSSES[loss]
    bound = seconds if deadline is None else min(seconds, deadline)

    def attempt() -> float:
        return lose(rig, faults, OPERATIONS[operation], deadline)

    best(attempt, rig, bound + SLACK)


def lose(
    rig: Rig, faults: Mapping[int, Inflict], operation: Operation, deadline: float | None
) -> float:
    """Run an operation while several nodes are faulty; the others' work counts."""
    proxied = [host_id for host_id, fault in faults.items() if fault is not killed]
    with rig.cluster(*proxied, times_out=True) as cluster:
        warm_up(Caller("raise"), rig)
        with ExitStack() as stack:
            for host_id, fault in faults.items():
                stack.enter_context(fault(rig, host_id))
            outcome = operation.run(Caller("miss", deadline), rig.data)
        assert outcome.error is None
        health = cluster.health()
        failing = {i for i in health if health[i].state == "failing"}
        if deadline is not None and failing < set(faults):
            raise TooBusy  # a deadline for which this process was late itself does not count
        assert failing == set(faults)
        well = [i for i in rig.data.hosts if i not in faults]
        left = {
            name: value
            for name, value in operation.left(rig.data).items()
            if rig.data.node_of(name) in well
        }
        check_held(rig, left)
        assert Caller("raise").cache("get_many", rig.data.all).error is None
        rig.check_connections(cluster)
    return outcome.seconds


@contextlib.contextmanager
def closed_late_and_never_answering(rig: Rig) -> Iterator[None]:
    """The connection in use is closed just before its time is over; new ones hang."""
    late = after_a_while(SOCKET_TIMEOUT - 0.05)
    with rig.proxy.tampering(requests=only_first(lambda: late, others=swallow)):
        yield


@contextlib.contextmanager
def slow_handshake_then_silence(rig: Rig) -> Iterator[None]:
    """Each part of the handshake comes just in time, and nothing after it."""
    handshake = rig.handshake(clusters["default"])
    rig.proxy.hang_up()

    slow = delayed(SOCKET_TIMEOUT / 2)()
    with rig.proxy.tampering(replies=from_byte(handshake, swallow, before=slow)):
        yield


def after_a_while(seconds: float) -> Tamper:
    async def tamper(send: Send, data: bytes) -> None:
        await asyncio.sleep(seconds)
        raise HangUp

    return tamper


@pytest.mark.parametrize(
    ("operation", "transport"),
    [
        ("get", "poll"),
        ("get_many", "poll"),
        ("fanout", "poll"),
        ("get", "asyncio"),
        ("get_many", "asyncio"),
    ],
)
@pytest.mark.parametrize(
    "inflict", [closed_late_and_never_answering, slow_handshake_then_silence]
)
def test_time_is_not_counted_anew_for_a_second_connection(
    inflict: Callable[[Rig], contextlib.AbstractContextManager[None]], operation: str, rig: Rig
) -> None:
    fault = replace(FAULTS["accepted and never answered"], inflict=inflict)

    def attempt() -> float:
        return meet(rig, fault, OPERATIONS[operation], "raise")

    best(attempt, rig, LONGEST)
