"""Every fault, met by every operation: the same promises hold.

The outcome; the other nodes' results; the time; no connection, descriptor or thread left
over; and once the fault is over, every node gets its own replies again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import redis

from django_rb.engine import failures_of
from tests.faults.faults import FAULTS, Fault
from tests.faults.operations import (
    CACHE_OPERATIONS,
    COUNT,
    OPERATIONS,
    Caller,
    Data,
    Mode,
    Operation,
    Outcome,
    as_stored,
    new,
    own,
    stored,
)
from tests.faults.proxy import delayed
from tests.faults.rig import CONNECT_TIMEOUT, FAULTY, SOCKET_TIMEOUT, Rig

# A bound in time is the best of so many: other processes may keep this one from its CPU.
TRIES = 20
SLACK = 0.05
LONGEST = CONNECT_TIMEOUT + SOCKET_TIMEOUT + SLACK

SILENT = [name for name, fault in FAULTS.items() if fault.is_silence]
# A transport sees an exchange, and not the operation behind it: one command that reads or
# writes, which may be joined with others; one per node; many per node.
EXCHANGES = {
    "raise": ("get", "get_many", "incr", "set_many", "map of reads", "fanout"),
    "miss": ("get_many", "set_many"),
}
# Of these, what is left for a fault of which another of its kind meets all: one command, one
# per node, many per node, a write, and an error that is a miss.
FEWER = {"raise": ("get", "map of reads", "set_many"), "miss": ("get_many",)}


def kind_of(fault: Fault) -> object:
    """Return what an operation sees of a fault: it makes the same of all of one kind."""
    return fault.is_silence, fault.is_answer, tuple(fault.fates.items())


# One fault of each kind meets every operation, on threads, and every form of an exchange.
FIRST_OF_KIND = {kind_of(FAULTS[name]): name for name in reversed(FAULTS)}.values()


def forms(name: str, mode: str) -> tuple[str, ...]:
    return (EXCHANGES if name in FIRST_OF_KIND else FEWER)[mode]


CASES = [
    (name, operation, mode, transport)
    for transport in ("poll", "asyncio")
    for mode in EXCHANGES
    for name in FAULTS
    for operation in (OPERATIONS if mode == "raise" else CACHE_OPERATIONS)
    if mode == "raise" or "fails" in FAULTS[name].fates.values()
    if operation in forms(name, mode) or (transport == "poll" and name in FIRST_OF_KIND)
]


@pytest.mark.parametrize(
    ("fault", "operation", "mode", "transport"),
    [
        pytest.param(
            FAULTS[fault],
            OPERATIONS[operation],
            mode,
            transport,
            id=f"{fault}-{operation}-{mode}-{transport}",
        )
        for fault, operation, mode, transport in CASES
    ],
)
def test_a_fault_is_met(fault: Fault, operation: Operation, mode: Mode, rig: Rig) -> None:
    bound = min(fault.takes + SLACK, LONGEST)
    best(lambda: meet(rig, fault, operation, mode), rig, bound)


@pytest.mark.parametrize("transport", ["poll", "asyncio"])
@pytest.mark.parametrize("name", ["get", "get_many", "map of reads", "fanout"])
def test_a_reply_that_comes_too_late_reaches_nobody(name: str, rig: Rig) -> None:
    """The next call comes before it, and would take it for its own on that connection."""
    too_late = delayed(SOCKET_TIMEOUT + 0.05)
    with rig.cluster(FAULTY, times_out=True) as cluster:
        caller = Caller()
        warm_up(caller, rig)
        for _ in range(TRIES):
            with rig.proxy.tampering(replies=too_late):
                outcome = OPERATIONS[name].run(caller, rig.data)
            if outcome.error is not None:  # else this process was late itself
                break
        assert isinstance(outcome.error, redis.TimeoutError)
        check_own_replies(caller, rig)
        rig.check_connections(cluster)


class TooBusy(Exception):
    """This process, or a node, did not get its CPU while there was no fault yet."""


def best(attempt: Callable[[], float], rig: Rig, bound: float) -> None:
    """Fail unless the best of a few attempts gives no more than `bound`, say in seconds."""
    results: list[float] = []
    while not results or min(results) > bound:
        assert len(results) < TRIES, f"It was {results}, not {bound}"
        rig.fill()
        try:
            results.append(attempt())
        except TooBusy:
            results.append(float("inf"))


def meet(
    rig: Rig, fault: Fault, operation: Operation, mode: Mode, deadline: float | None = None
) -> float:
    """Run an operation on a faulty node and check all but the time, which is returned."""
    proxied = (FAULTY,) if fault.proxied else ()
    with rig.cluster(*proxied, times_out=fault.is_silence) as cluster:
        warm_up(Caller(), rig)
        with fault.inflict(rig):
            outcome = operation.run(Caller(mode, deadline), rig.data)
        check_outcome(outcome, fault, operation, mode, rig)
        check_held(rig, operation.left(rig.data))
        check_own_replies(Caller(mode), rig)
        rig.check_connections(cluster)
    return outcome.seconds


def warm_up(caller: Caller, rig: Rig) -> None:
    """Let the nodes have connections, and the scripts of incr() and touch()."""
    calls = [
        ("get_many", rig.data.all),
        *(("touch", names[0]) for names in rig.data.names.values()),
        *((call, n[0]) for n in rig.data.counters.values() for call in ("incr", "decr")),
    ]
    for name, argument in calls:
        error = caller.cache(name, argument).error
        if isinstance(error, redis.TimeoutError):
            raise TooBusy from error
        assert error is None


def in_time(outcome: Outcome) -> Outcome:
    """Return the outcome of a call without a fault.

    Raises:
        TooBusy: it timed out later than it should, so this process was late itself.
    """
    is_late = outcome.seconds > SOCKET_TIMEOUT + SLACK
    if is_late and isinstance(outcome.error, redis.TimeoutError):
        raise TooBusy from outcome.error
    return outcome


def check_outcome(
    outcome: Outcome, fault: Fault, operation: Operation, mode: Mode, rig: Rig
) -> None:
    data = rig.data
    fate = fault.fates[operation.effect]
    if fate == "well" or (fate == "either" and outcome.error is None):
        assert outcome.error is None
        allowed = [operation.well(data)]
        if fate == "either" and operation.missed is not None:
            allowed.append(operation.missed(data))  # of a node that lost its data
        if fate == "well" or operation.by_node is None:
            assert outcome.value in allowed
    elif mode == "miss" and operation.missed is not None:
        assert outcome.error is None
        check_missed(outcome.value, operation.missed(data), rig)
    else:
        check_error(outcome.error, fault, operation, data, rig)
    if operation.by_node is not None:
        check_each(outcome, operation, data)


def check_missed(value: Any, missed: Any, rig: Rig) -> None:
    if isinstance(value, list):  # of keys that were not stored: then the others were
        assert value
        assert set(value) <= set(missed)
        kept = [name for name in rig.data.lost if name not in value]
        assert rig.held(kept) == {name: as_stored(new(name)) for name in kept}
    else:
        assert value == missed


def check_error(
    error: Exception | None, fault: Fault, operation: Operation, data: Data, rig: Rig
) -> None:
    assert isinstance(error, fault.error), repr(error)
    assert re.search(fault.says, str(error), re.IGNORECASE), str(error)
    failures = failures_of(error)
    assert {failure.host_id for failure in failures} == {FAULTY}
    (address,) = {failure.address for failure in failures}
    port = rig.proxy.port if fault.proxied else rig.nodes.hosts[FAULTY]["port"]
    assert address == f"127.0.0.1:{port}/0"
    assert f"[node {FAULTY}, {address}, cluster default]" in str(error)
    assert error in [failure.error for failure in failures]
    keys = {text(key) for failure in failures for key in failure.keys}
    allowed = {stored(name) for name in operation.keys(data)}
    # What the node had said before it failed has not failed.
    assert keys <= allowed
    assert bool(keys) == bool(allowed)


def check_each(outcome: Outcome, operation: Operation, data: Data) -> None:
    """Fail unless the commands to the other nodes have their results."""
    assert operation.by_node is not None
    for host_id, result, expected in zip(
        operation.by_node(data), outcome.value, operation.well(data), strict=True
    ):
        if host_id != FAULTY:
            assert result == expected
        else:  # nothing but the right result, or that of a node that lost its data
            assert isinstance(result, Exception) or result in (expected, None, {FAULTY: None})


def check_held(rig: Rig, left: dict[str, Any]) -> None:
    """Fail unless the nodes hold what `left` says; see `Operation`."""
    expected = {name: in_store(value) for name, value in left.items()}
    assert rig.held(list(left)) == expected


def check_own_replies(caller: Caller, rig: Rig) -> None:
    """Fail unless every node answers the next calls, each with what it was asked for."""
    data = rig.data
    others = data.all[::-1]  # in another order: what was meant for another call would show
    read = in_time(caller.cache("get_many", others))
    assert read.error is None
    for name, value in read.value.items():
        assert value in (own(name), new(name), COUNT)
    written = in_time(caller.cache("set_many", {name: own(name) for name in data.all}))
    assert (written.error, written.value) == (None, [])
    read = in_time(caller.cache("get_many", data.all))
    assert read.value == {name: own(name) for name in data.all}
    for names in data.names.values():
        assert in_time(caller.cache("get", names[0])).value == own(names[0])
    said = in_time(OPERATIONS["fanout"].run(caller, data))
    assert (said.error, said.value) == (None, OPERATIONS["fanout"].well(data))


def in_store(value: object) -> bytes | None:
    if value is None:
        return None
    return b"%d" % value if isinstance(value, int) else as_stored(value)


def text(key: object) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
