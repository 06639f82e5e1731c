"""What is sent a second time: only what cannot be seen. Counted at the node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, SlotRouter, failures_of
from tests.faults.faults import configured, drop_clients
from tests.faults.operations import COUNT, OPERATIONS, Caller, as_stored, own, stored
from tests.faults.proxy import (
    MakeTamper,
    cut_after,
    from_byte,
    hang_up,
    only_first,
    reset_after,
)
from tests.faults.rig import FAULTY, PATIENT, Rig
from tests.faults.test_faults import EXCHANGES, check_held, warm_up
from tests.helpers import wait_until

# All operations in the calling thread, and on an event loop those that differ there.
ALL = [
    *((name, "poll") for name in OPERATIONS),
    *((name, "asyncio") for name in EXCHANGES["raise"]),
]
READS = [case for case in ALL if OPERATIONS[case[0]].effect == "reads"]
WRITES = [case for case in ALL if case not in READS]

BOTH = ["poll", "asyncio"]

# What each operation sends to the faulty node, where it holds five of the names.
SENT = {
    "get": ["GET"],
    "get_many": ["MGET"],
    "set": ["SET"],
    "set_many": ["SET"] * 5,
    "add": ["SET"],
    "touch": ["EVALSHA"],
    "incr": ["EVALSHA"],
    "delete_many": ["UNLINK"],
    "clear": ["FLUSHDB"],
    "map of reads": ["MGET"],
    "map of writes": ["SET"] * 5,
    "fanout": ["GET"],
}


@pytest.fixture
def caller(rig: Rig) -> Iterator[Caller]:
    """A caller whose connections were used before; the proxy counts from here."""
    with rig.cluster(FAULTY):
        caller = Caller()
        warm_up(caller, rig)
        rig.fill()
        rig.proxy.commands.clear()
        yield caller


def came(rig: Rig) -> list[str]:
    """Return what came to the proxy of the faulty node, but for handshakes."""
    return [name.decode() for name in rig.proxy.names()]


def hung_up(rig: Rig) -> None:
    rig.proxy.hang_up()


def reset(rig: Rig) -> None:
    rig.proxy.hang_up(reset=True)


def client_killed(rig: Rig) -> None:
    drop_clients(rig)
    wait_until(lambda: not rig.proxy.open)


def restarted(rig: Rig) -> None:
    rig.nodes.restart(FAULTY)
    rig.fill(FAULTY)
    wait_until(lambda: not rig.proxy.open)


# Every operation meets both ends that a connection can have. What else closes one ends it in
# the same way: there, operations that read, that write and that need a script are enough.
CLOSED = [
    *((close, *case) for close in (hung_up, reset) for case in ALL),
    *(
        (close, name, transport)
        for close in (client_killed, restarted)
        for name in ("get", "incr", "touch", "set_many")
        for transport in BOTH
        if (name, transport) in ALL
    ),
]


@pytest.mark.parametrize(
    ("close", "operation", "transport"),
    [pytest.param(*case, id="-".join([case[0].__name__, *case[1:]])) for case in CLOSED],
)
def test_a_connection_closed_while_idle_is_replaced_unseen(
    operation: str, close: Callable[[Rig], None], rig: Rig, caller: Caller
) -> None:
    close(rig)
    outcome = OPERATIONS[operation].run(caller, rig.data)
    assert outcome.error is None
    assert outcome.value == OPERATIONS[operation].well(rig.data)
    again = ["EVAL"] if operation in {"incr", "touch"} and close is restarted else []
    assert came(rig) == SENT[operation] + again


def test_the_servers_own_idle_timeout_is_not_seen(rig: Rig) -> None:
    """The server looks after idle clients once a second."""

    def make_cluster() -> Cluster:
        cluster = Cluster(rig.hosts(), pool_options=PATIENT, router_cls=SlotRouter)
        assert cluster.call_nodes("PING")[1] == []
        return cluster

    key = stored(rig.data.counters[FAULTY][0])
    reading, writing = make_cluster(), make_cluster()
    with configured(rig, timeout=1):
        kept = 2 * (len(rig.data.hosts) - 1)
        wait_until(lambda: rig.connections() == kept)
        assert reading.get_routing_client().get(key) == b"%d" % COUNT
        assert writing.get_routing_client().incr(key) == COUNT + 1
    for cluster in (reading, writing):
        cluster.close()


# The connection looks well, and is closed when a command comes.

ENDINGS: dict[str, dict[str, MakeTamper]] = {
    "closed before the node heard it": {"requests": cut_after(0)},
    "reset before the node heard it": {"requests": reset_after(0)},
    "closed in mid-request": {"requests": cut_after(5)},
    "closed before its reply": {"replies": cut_after(0)},
    "reset before its reply": {"replies": reset_after(0)},
}


def ending(rig: Rig, name: str) -> contextlib.AbstractContextManager[None]:
    makers = {direction: only_first(make) for direction, make in ENDINGS[name].items()}
    return rig.proxy.tampering(**makers)


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize(("operation", "transport"), READS)
def test_a_read_is_asked_once_more(operation: str, name: str, rig: Rig, caller: Caller) -> None:
    with ending(rig, name):
        outcome = OPERATIONS[operation].run(caller, rig.data)
    assert outcome.error is None
    assert outcome.value == OPERATIONS[operation].well(rig.data)
    assert came(rig) == SENT[operation] * 2
    assert caller.cluster.health()[FAULTY].state == "up"


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize(("operation", "transport"), WRITES)
def test_a_write_is_sent_once_and_fails(
    operation: str, name: str, rig: Rig, caller: Caller
) -> None:
    with ending(rig, name):
        outcome = OPERATIONS[operation].run(caller, rig.data)
    assert isinstance(outcome.error, redis.ConnectionError)
    assert {failure.host_id for failure in failures_of(outcome.error)} == {FAULTY}
    assert came(rig) == SENT[operation]
    was_run = "reply" in name
    counter = rig.data.counters[FAULTY][0]
    if operation == "incr":
        check_held(rig, {counter: COUNT + was_run})
    if not was_run:
        check_held(rig, {name: own(name) for name in rig.data.lost})


# What the engine runs: (command, what it replies, whether it may be asked twice).
ALONE: dict[str, tuple[tuple[Any, ...], bool]] = {
    "GET": (("GET", "{key}"), True),
    "MGET": (("MGET", "{key}", "{key}"), True),
    "TTL": (("TTL", "{key}"), True),
    "STRLEN": (("STRLEN", "{key}"), True),
    "HGETALL": (("HGETALL", "{tag}:hash"), True),
    "EVAL_RO": (("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "{key}"), True),
    "SET": (("SET", "{key}", 1), False),
    "GETDEL": (("GETDEL", "{key}"), False),
    "GETEX": (("GETEX", "{key}"), False),
    "INCRBY": (("INCRBY", "{key}", 5), False),
    "LPUSH": (("LPUSH", "{tag}:list", 1), False),
    "SPOP": (("SPOP", "{tag}:set"), False),
    "EVAL": (("EVAL", "return redis.call('GET', KEYS[1])", 1, "{key}"), False),
    "EXPIRE": (("EXPIRE", "{key}", 100), False),
}


@pytest.mark.parametrize(
    ("name", "transport"),
    [*((name, "poll") for name in ALONE), ("GET", "asyncio"), ("GETDEL", "asyncio")],
)
def test_only_commands_that_read_are_asked_twice(name: str, rig: Rig, caller: Caller) -> None:
    words, reads = ALONE[name]
    key = stored(rig.data.counters[FAULTY][0])
    tag = f"{{{key}}}"
    command = [
        word.replace("{key}", key).replace("{tag}", tag) if isinstance(word, str) else word
        for word in words
    ]
    with rig.proxy.tampering(replies=only_first(reset_after(0))):
        outcome = caller.map(command)
    assert came(rig) == [name] * (1 + reads)
    assert (outcome.error is None) == reads


@pytest.mark.parametrize("transport", BOTH)
def test_a_batch_that_writes_anything_is_sent_once(rig: Rig, caller: Caller) -> None:
    one, two, *_ = map(stored, rig.data.lost)
    counter = stored(rig.data.counters[FAULTY][0])
    with rig.proxy.tampering(replies=only_first(reset_after(0))):
        outcome = caller.map(
            ("GET", one), ("INCR", counter), ("STRLEN", two), ("APPEND", two, "!")
        )
    assert isinstance(outcome.error, redis.ConnectionError)
    assert all(isinstance(result, redis.ConnectionError) for result in outcome.value)
    assert came(rig) == ["GET", "INCR", "STRLEN", "APPEND"]
    check_held(rig, {rig.data.counters[FAULTY][0]: COUNT + 1})
    assert rig.ask("GET", two) == as_stored(own(rig.data.lost[1])) + b"!"


@pytest.mark.parametrize("transport", BOTH)
def test_a_read_on_a_new_connection_is_not_asked_again(rig: Rig) -> None:
    """Nothing lay idle: the node closes what it has just taken."""
    with rig.cluster(FAULTY) as cluster:
        closing = from_byte(rig.handshake(cluster), hang_up())
        rig.proxy.commands.clear()
        with rig.proxy.tampering(replies=closing):
            outcome = Caller().cache("get_many", rig.data.lost)
        assert isinstance(outcome.error, redis.ConnectionError)
        assert came(rig) == ["MGET"]


@pytest.mark.parametrize("transport", BOTH)
def test_a_read_that_is_closed_twice_fails(rig: Rig, caller: Caller) -> None:
    with rig.proxy.tampering(replies=cut_after(0)):
        outcome = caller.cache("get_many", rig.data.lost)
    assert isinstance(outcome.error, redis.ConnectionError)
    assert came(rig) == ["MGET"]  # the other connection did not get that far


@pytest.mark.parametrize("transport", BOTH)
def test_a_read_of_which_some_replies_came_is_not_asked_again(rig: Rig, caller: Caller) -> None:
    commands = [("STRLEN", stored(name)) for name in rig.data.lost]
    (first, *rest) = caller.map(*commands).value
    rig.proxy.commands.clear()
    whole = len(b":%d\r\n" % first)
    with rig.proxy.tampering(replies=only_first(cut_after(whole + 1))):
        outcome = caller.map(*commands)
    assert isinstance(outcome.error, redis.ConnectionError)
    assert outcome.value[0] == first
    assert all(isinstance(result, redis.ConnectionError) for result in outcome.value[1:])
    assert len(rest) == len(outcome.value[1:])
    assert came(rig) == ["STRLEN"] * len(commands)
