"""Timeouts: seconds with fractions, None, and what has already passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.cache.numeric import Float16, Int8, UInt8
from tests.helpers import Servers, make_cache, wait_until
from tests.tables import for_each

KEY = b":1:key"
FOREVER = -1

Store = Callable[..., object]


class Age(IntEnum):
    SHORT = 7


def set_one(cache: RBCache, **timeout: Any) -> None:
    cache.set("key", "value", **timeout)


def set_many(cache: RBCache, **timeout: Any) -> None:
    assert cache.set_many({"key": "value", "other": "value"}, **timeout) == []


def add(cache: RBCache, **timeout: Any) -> None:
    cache.delete("key")
    assert cache.add("key", "value", **timeout)


def touch(cache: RBCache, **timeout: Any) -> None:
    cache.set("key", "value", 50_000)
    assert cache.touch("key", **timeout)


def get_or_set(cache: RBCache, **timeout: Any) -> None:
    cache.delete("key")
    cache.get_or_set("key", "value", **timeout)


STORES: list[Store] = [set_one, set_many, add, touch, get_or_set]
every_store = for_each("store", STORES)


def each_once(stores: Sequence[Any], values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the first store with every value, and the others with the first value.

    RBCache.get_backend_timeout() reads the timeouts of all of them.
    """
    return [
        *((stores[0], value) for value in values),
        *((store, values[0]) for store in stores[1:]),
    ]


@every_store
@pytest.mark.parametrize(
    ("timeout", "milliseconds"), [(7, 7000), (7.001, 7001)], ids=["seconds", "milliseconds"]
)
def test_every_store_sends_seconds_and_milliseconds(
    cache: RBCache, servers: Servers, store: Store, timeout: float, milliseconds: int
) -> None:
    with servers.expiring(KEY, milliseconds):
        store(cache, timeout=timeout)


@for_each(
    ("timeout", "milliseconds"),
    [
        (7.5, 7500),
        (100.123, 100_123),
        (Decimal("7.5"), 7500),
        (Fraction(15, 2), 7500),
        (Int8(60), 60_000),
        (UInt8(200), 200_000),
        (Float16(300.5), 300_500),
        (Age.SHORT, 7000),
        (timedelta(minutes=2, milliseconds=3), 120_003),
        (31_536_000 * 1000, 31_536_000_000_000),
    ],
)
def test_a_timeout_holds_to_the_millisecond(
    cache: RBCache, servers: Servers, timeout: float, milliseconds: int
) -> None:
    with servers.expiring(KEY, milliseconds):
        set_one(cache, timeout=timeout)


@every_store
def test_none_is_for_ever(cache: RBCache, servers: Servers, store: Store) -> None:
    cache.clear()
    store(cache, timeout=None)

    assert servers.ask_owner("PTTL", KEY) == FOREVER


@pytest.mark.parametrize("timeout", [None, 100])
def test_touch_with_none_makes_a_key_stay(
    cache: RBCache, servers: Servers, timeout: int | None
) -> None:
    cache.set("key", "value", timeout)

    assert cache.touch("key", None) is True
    assert servers.ask_owner("PTTL", KEY) == FOREVER
    assert cache.touch("nothing", None) is False


@for_each(
    ("store", "timeout"),
    each_once(
        [set_one, set_many, touch], [0, 0.0, -1, -0.001, -math.inf, Int8(-1), timedelta(-1)]
    ),
)
def test_a_timeout_that_is_over_deletes(
    cache: RBCache, store: Callable[..., object], timeout: Any
) -> None:
    cache.set("key", "old")

    store(cache, timeout=timeout)
    assert not cache.has_key("key")


@pytest.mark.parametrize("timeout", [0, -1])
def test_add_with_a_timeout_that_is_over_only_answers(cache: RBCache, timeout: int) -> None:
    assert cache.add("key", "value", timeout) is True
    assert not cache.has_key("key")

    cache.set("key", "old")
    assert cache.add("key", "value", timeout) is False
    assert cache.get("key") == "old"


def test_touch_with_a_timeout_that_is_over_says_whether_the_key_was_there(
    cache: RBCache,
) -> None:
    cache.set("key", "value")

    assert cache.touch("key", 0) is True
    assert cache.touch("key", 0) is False


@for_each(("store", "timeout"), each_once(STORES, [math.nan, math.inf, 1e16, 10**400]))
def test_what_is_no_time_is_an_error_that_names_none(
    cache: RBCache, servers: Servers, store: Store, timeout: float
) -> None:
    with pytest.raises(ValueError, match="Use None for keys that never expire"):
        store(cache, timeout=timeout)


@for_each(
    ("store", "timeout"),
    each_once(STORES, ["60", b"60", [60], object(), 1j, date(2030, 1, 1)]),
)
def test_what_is_no_number_is_an_error_that_names_the_argument(
    cache: RBCache, servers: Servers, store: Store, timeout: object
) -> None:
    with pytest.raises(TypeError, match=r"The timeout .* Give a number of seconds"):
        store(cache, timeout=timeout)


@for_each(
    ("store", "told"),
    each_once(
        STORES,
        [
            ({"TIMEOUT": 7.75}, 7750),
            ({}, 300_000),
            ({"TIMEOUT": 60}, 60_000),
            ({"TIMEOUT": "60"}, 60_000),
            ({"TIMEOUT": "7.5"}, 7500),
            ({"timeout": 7}, 7000),
            ({"TIMEOUT": timedelta(minutes=1)}, 60_000),
            ({"TIMEOUT": Int8(60)}, 60_000),
            ({"TIMEOUT": Decimal("7.5")}, 7500),
        ],
    ),
)
def test_the_default_timeout_is_the_setting(
    nodes: LocalNodes, servers: Servers, store: Store, told: tuple[dict[str, Any], int]
) -> None:
    setting, milliseconds = told
    with servers.expiring(KEY, milliseconds):
        store(make_cache(**setting))


@every_store
def test_the_default_timeout_may_be_none(
    nodes: LocalNodes, servers: Servers, store: Store
) -> None:
    nodes.flush()
    store(make_cache(TIMEOUT=None))

    assert servers.ask_owner("PTTL", KEY) == FOREVER


@for_each(
    ("use", "setting"),
    each_once(
        [RBCache.check_settings, set_one, set_many, add, touch],
        [
            {"timeout": math.inf},
            *(
                {"TIMEOUT": timeout}
                for timeout in (math.inf, math.nan, 10**400, "soon", "7.5s", [60], ())
            ),
        ],
    ),
)
def test_a_setting_that_is_no_time_is_an_error_of_the_first_use(
    nodes: LocalNodes, use: Callable[[RBCache], object], setting: dict[str, Any]
) -> None:
    cache = make_cache(**setting)
    with pytest.raises(ImproperlyConfigured, match=r"TIMEOUT of a cache is .* Give a number"):
        use(cache)


@for_each("timeout", [0, -1, -0.5])
def test_a_default_timeout_of_zero_caches_nothing(nodes: LocalNodes, timeout: float) -> None:
    cache = make_cache(TIMEOUT=timeout)
    cache.set("key", "value")
    cache.set_many({"key": "value"})

    assert cache.get("key") is None
    cache.set("key", "value", 60)
    assert cache.get("key") == "value"


def test_what_expired_is_gone(cache: RBCache) -> None:
    cache.set("key", "value", 0.02)
    cache.set_many({"a": 1, "b": 2}, 0.02)
    cache.set("short", "value", 0.000_001)

    wait_until(lambda: cache.get_many(["key", "a", "b", "short"]) == {})
    assert cache.get("key") is None
    assert not cache.has_key("key")
    assert cache.add("key", "new")
