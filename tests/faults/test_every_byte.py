"""A connection that ends at any byte of a reply: never a wrong value, never a lost write."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import redis

from django_rb.engine import failures_of
from tests.faults.operations import Caller, stored
from tests.faults.proxy import MakeTamper, Proxy, cut_after, only_first, reset_after
from tests.faults.rig import FAULTY, Rig

EndAfter = Callable[[int], MakeTamper]

ENDS: dict[str, EndAfter] = {"closed": cut_after, "reset": reset_after}


@pytest.fixture(params=["poll", "asyncio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways in which callers may wait."""
    way: str = request.param
    return way


@pytest.fixture(params=ENDS)
def end_after(request: pytest.FixtureRequest) -> EndAfter:
    return ENDS[request.param]


@pytest.fixture
def numbers(rig: Rig) -> dict[str, int]:
    """Return what each name of the faulty node holds: a number of its own."""
    return {name: 1000 + number for number, name in enumerate(rig.data.lost)}


def length_of_reply(proxy: Proxy, caller: Caller, method: str, *args: object) -> int:
    assert caller.cache(method, *args).error is None  # a connection is open now
    before = proxy.replied
    assert caller.cache(method, *args).error is None
    return proxy.replied - before


def check_whole(caller: Caller, numbers: dict[str, int]) -> None:
    """Fail unless the next calls get their own replies."""
    outcome = caller.cache("get_many", numbers)
    assert (outcome.error, outcome.value) == (None, numbers)


def check_lost(error: Exception | None) -> tuple[object, ...]:
    """Return the keys of a failure that says that the connection was lost."""
    assert isinstance(error, redis.ConnectionError)
    assert re.search(rf"(lost|closed|reset).*\[node {FAULTY}, ", str(error), re.IGNORECASE)
    (failure,) = failures_of(error)
    assert failure.host_id == FAULTY
    return failure.keys


@pytest.mark.parametrize("method", ["get", "get_many"])
def test_a_read_is_right_or_fails(
    method: str, end_after: EndAfter, rig: Rig, numbers: dict[str, int]
) -> None:
    asked: object = rig.data.one if method == "get" else list(numbers)
    expected: object = numbers[rig.data.one] if method == "get" else numbers
    with rig.cluster(FAULTY, HEALTH=None):
        caller = Caller()
        caller.cache("set_many", numbers)
        length = length_of_reply(rig.proxy, caller, method, asked)
        assert length > 8
        fates = []
        for position in range(length):
            with rig.proxy.tampering(replies=only_first(end_after(position))):
                outcome = caller.cache(method, asked)
            fates.append(outcome.error is None)
            if outcome.error is None:
                assert outcome.value == expected
            else:
                check_lost(outcome.error)
            check_whole(caller, numbers)
        assert fates[0]  # nothing came: it was asked again


def test_a_write_fails_for_the_keys_that_were_not_answered_for(
    end_after: EndAfter, rig: Rig, numbers: dict[str, int]
) -> None:
    keys = [stored(name).encode() for name in numbers]
    with rig.cluster(FAULTY, HEALTH=None):
        caller = Caller()
        length = length_of_reply(rig.proxy, caller, "set_many", numbers)
        assert length == len(numbers) * len(b"+OK\r\n")
        for position in range(length):
            rig.proxy.commands.clear()
            with rig.proxy.tampering(replies=only_first(end_after(position))):
                outcome = caller.cache("set_many", numbers)
            lost = check_lost(outcome.error)
            assert list(lost) == keys[position // len(b"+OK\r\n") :]
            assert rig.proxy.names() == [b"SET"] * len(keys)  # once each
            check_whole(caller, numbers)


def test_a_handshake_that_ends_at_any_byte_is_a_lost_connection(
    end_after: EndAfter, rig: Rig, numbers: dict[str, int]
) -> None:
    with rig.cluster(FAULTY, HEALTH=None) as cluster:
        caller = Caller()
        caller.cache("set_many", numbers)
        for position in range(rig.handshake(cluster)):
            caller.disconnect()
            with rig.proxy.tampering(replies=end_after(position)):
                outcome = caller.cache("get_many", numbers)
            check_lost(outcome.error)
            check_whole(caller, numbers)
