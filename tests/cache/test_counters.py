"""incr() and decr(): one step on the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ResponseError

from django_rb.cache import RBCache
from tests.cache.numeric import Int8, UInt8
from tests.helpers import Servers
from tests.tables import for_each

LARGEST = 2**63 - 1


def test_incr_and_decr_return_the_sum(cache: RBCache) -> None:
    cache.set("n", 40)

    assert cache.incr("n") == 41
    assert cache.incr("n", 9) == 50
    assert cache.decr("n") == 49
    assert cache.decr("n", 100) == -51
    assert cache.incr("n", -9) == -60
    assert cache.decr("n", 0) == -60
    assert cache.get("n") == -60


def test_a_delta_may_be_of_any_type_of_integer(cache: RBCache) -> None:
    one: Any = UInt8(1)
    cache.set("key", 10)

    assert cache.incr("key", one) == 11
    assert cache.decr("key", one) == 10
    least: Any = Int8(-128)
    assert cache.decr("key", least) == 138
    assert cache.incr_version("key", one) == 2
    assert cache.decr_version("key", one, version=2) == 1
    version: Any = Int8(127)
    cache.set("key", 10, version=127)
    assert cache.incr_version("key", Int8(100), version=version) == 227  # type: ignore[arg-type]


def test_incr_counts_in_a_version(cache: RBCache) -> None:
    cache.set("n", 1, version=2)

    assert cache.incr("n", version=2) == 2
    with pytest.raises(ValueError, match="Key 'n' not found"):
        cache.incr("n")


@for_each(
    ("start", "delta"),
    [
        (2**53, 1),  # beyond what a double can tell apart
        (-(2**53), -1),
        (LARGEST - 2, 1),
        (LARGEST, -1),
        (-LARGEST, -1),
        (0, LARGEST),
        (0, -LARGEST),
    ],
)
def test_all_64_bits_count(cache: RBCache, start: int, delta: int) -> None:
    cache.set("n", start)

    assert cache.incr("n", delta) == start + delta
    assert cache.get("n") == start + delta


@pytest.mark.parametrize("timeout", [None, 100])
def test_incr_keeps_the_expiry(cache: RBCache, timeout: int | None) -> None:
    cache.set("n", 1, timeout)

    cache.incr("n")
    assert cache.ttl("n") in ({None} if timeout is None else {99, 100})


@pytest.mark.parametrize("count", [RBCache.incr, RBCache.decr])
def test_a_missing_key_is_an_error_and_stays_missing(
    cache: RBCache, count: Callable[[RBCache, str], int]
) -> None:
    with pytest.raises(ValueError, match="Key 'nothing' not found"):
        count(cache, "nothing")
    assert not cache.has_key("nothing")


@for_each("value", ["text", "5", 1.5, True, None, [1], LARGEST + 1])
def test_what_is_no_integer_of_64_bits_is_an_error_and_stays(
    cache: RBCache, value: object
) -> None:
    cache.set("n", value)

    with pytest.raises(ValueError, match="Key 'n' cannot be incremented by 3"):
        cache.incr("n", 3)
    assert cache.get("n") == value


@pytest.mark.parametrize(("start", "delta"), [(LARGEST, 1), (-LARGEST - 1, -1)])
def test_a_sum_that_does_not_fit_is_an_error_and_changes_nothing(
    cache: RBCache, start: int, delta: int
) -> None:
    cache.set("n", start)

    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        cache.incr("n", delta)
    assert cache.get("n") == start


@pytest.mark.parametrize(
    "delta", [LARGEST + 1, -LARGEST - 2, 10**30, pytest.param(10**5000, id="huge")]
)
def test_a_delta_that_does_not_fit_is_an_error(cache: RBCache, delta: int) -> None:
    cache.set("n", 0)

    with pytest.raises(ValueError, match="delta does not fit into 64 bits"):
        cache.incr("n", delta)


@for_each("delta", [1.5, 2.0, "1", None])
def test_a_delta_that_is_no_integer_is_an_error(cache: RBCache, delta: object) -> None:
    cache.set("n", 1)

    with pytest.raises(TypeError):
        cache.incr("n", delta)  # type: ignore[arg-type]
    assert cache.get("n") == 1


def test_a_key_of_another_kind_is_the_servers_error(cache: RBCache, servers: Servers) -> None:
    owner = cache.cluster.get_host_for_key(":1:list")
    servers.ask(owner, "RPUSH", ":1:list", "entry")

    with pytest.raises(ResponseError, match=f"WRONGTYPE.*node {owner}"):
        cache.incr("list")


def test_threads_lose_no_step(cache: RBCache) -> None:
    cache.set_many({"a": 0, "b": 0})
    together = threading.Barrier(8)

    def count() -> set[int]:
        together.wait()
        return {cache.incr("a") for _ in range(60)} | {cache.decr("b") for _ in range(60)}

    with ThreadPoolExecutor(8) as threads:
        seen = [thread.result() for thread in [threads.submit(count) for _ in range(8)]]
    assert cache.get_many(["a", "b"]) == {"a": 480, "b": -480}
    assert set().union(*seen) == {*range(1, 481), *range(-480, 0)}


def test_a_key_that_vanishes_is_never_made_again(cache: RBCache, servers: Servers) -> None:
    """What a client that asks first and adds then gets wrong now and then."""
    is_over = threading.Event()

    def count() -> int:
        counted = 0
        while not is_over.is_set():
            try:
                cache.incr("n")
                counted += 1
            except ValueError:
                continue
        return counted

    with ThreadPoolExecutor(2) as threads:
        counting = [threads.submit(count) for _ in range(2)]
        try:
            for _ in range(300):
                cache.set("n", 1000, 100)
                cache.delete("n")
                assert not cache.has_key("n")
        finally:
            is_over.set()
        assert all(thread.result() for thread in counting)


def test_a_node_that_forgot_the_script_counts_all_the_same(
    cache: RBCache, servers: Servers
) -> None:
    cache.set("n", 1)
    assert cache.incr("n") == 2
    servers.ask(servers.owner(b":1:n"), "SCRIPT", "FLUSH")
    assert cache.incr("n") == 3
