"""Django's cache API, on four nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any

import pytest
from django.core.cache import cache as default_cache
from django.core.cache import caches
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.cache.numeric import Array, Series
from tests.helpers import Servers, make_cache
from tests.tables import for_each

MANY = {f"key{n}": n for n in range(100)}


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("not for pickling")


def test_what_was_set_comes_back(cache: RBCache) -> None:
    cache.set("greeting", {"hello": ["world", 1, None]})

    assert cache.get("greeting") == {"hello": ["world", 1, None]}
    assert cache.has_key("greeting")
    assert "greeting" in cache


def test_a_missing_key_gives_the_default(cache: RBCache) -> None:
    assert cache.get("nothing") is None
    assert cache.get("nothing", "default") == "default"
    assert not cache.has_key("nothing")


def test_none_is_a_value(cache: RBCache) -> None:
    cache.set("empty", None)

    assert cache.get("empty", "default") is None
    assert cache.get_many(["empty"]) == {"empty": None}
    assert cache.get_or_set("empty", "never") is None


def test_django_finds_the_cache_by_its_settings(nodes: LocalNodes) -> None:
    default_cache.set("greeting", "hello")

    assert isinstance(caches["default"], RBCache)
    assert default_cache.get("greeting") == "hello"


@pytest.mark.static
def test_a_cache_follows_its_cluster_to_other_nodes(nodes: LocalNodes) -> None:
    cache = make_cache()
    cache.set("key", "on four")
    one = {"default": {"HOSTS": [{**nodes.hosts[0], "db": 5}]}}
    with override_settings(RB_CLUSTERS=one):
        assert cache.get("key") is None
    assert cache.get("key") == "on four"


def test_keys_are_spread_over_all_nodes(cache: RBCache, servers: Servers) -> None:
    for name in MANY:
        cache.set(name, "value")

    shares = {host_id: len(keys) for host_id, keys in servers.keys().items()}
    assert sum(shares.values()) == 100
    assert min(shares.values()) > 5


def test_single_and_multi_key_calls_agree_on_where_a_key_is(cache: RBCache) -> None:
    cache.set_many(MANY)
    assert {key: cache.get(key) for key in MANY} == MANY

    for key in MANY:
        cache.set(key, "new")
    assert cache.get_many(MANY) == dict.fromkeys(MANY, "new")


def test_add_stores_only_what_is_not_there(cache: RBCache) -> None:
    assert cache.add("key", "first")
    assert not cache.add("key", "second")
    assert cache.get("key") == "first"


def test_delete_says_whether_the_key_was_there(cache: RBCache) -> None:
    cache.set("key", 1)

    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.get("key") is None


def test_touch_says_whether_the_key_is_there(cache: RBCache) -> None:
    cache.set("key", 1)

    assert cache.touch("key", 60) is True
    assert cache.touch("nothing", 60) is False


def test_get_or_set_calls_only_for_a_missing_key(cache: RBCache) -> None:
    calls: list[str] = []

    def compute() -> str:
        calls.append("called")
        return "computed"

    assert cache.get_or_set("key", compute) == "computed"
    assert cache.get_or_set("key", compute) == "computed"
    assert calls == ["called"]
    assert cache.get("key") == "computed"


def make_async(value: object) -> Callable[[], Any]:
    async def compute() -> object:
        await asyncio.sleep(0)
        return value

    return compute


class Later:
    """It is no function, but can be called, and what it returns can be awaited."""

    def __call__(self) -> Later:
        return self

    def __await__(self) -> Generator[Any, None, str]:
        return make_async("computed")().__await__()  # type: ignore[no-any-return]


@pytest.mark.only_sync
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_async("computed"),
        make_async("computed"),
        lambda: lambda: asyncio.ensure_future(make_async("computed")()),
        Later,
        lambda: partial(make_async("computed")),
    ],
    ids=["function", "coroutine", "future", "object", "partial"],
)
def test_aget_or_set_awaits_what_can_be_awaited(
    cache: RBCache, make: Callable[[], Any]
) -> None:
    async def use() -> None:
        assert await cache.aget_or_set("key", make()) == "computed"
        assert await cache.aget("key") == "computed"
        assert await cache.aget_or_set("key", make_async("other")) == "computed"

    asyncio.run(use())


@pytest.mark.only_sync
@pytest.mark.parametrize("default", [make_async(1), Later()])
def test_get_or_set_says_that_it_cannot_wait(cache: RBCache, default: Any) -> None:
    with pytest.raises(TypeError, match=r"default .* Use aget_or_set\(\)"):
        cache.get_or_set("key", default)
    assert not cache.has_key("key")


def test_get_many_answers_in_the_order_of_the_request(cache: RBCache) -> None:
    cache.set_many(MANY)
    wanted = [*reversed(MANY), "nothing", "nowhere"]

    assert list(cache.get_many(wanted)) == list(reversed(MANY))


def test_get_many_knows_keys_apart_that_python_takes_for_equal(cache: RBCache) -> None:
    cache.set_many({1: "one", "again": "again"})

    assert cache.get_many([True, 1, 1.0, "again", "again"]) == {1: "one", "again": "again"}
    assert cache.get_many([1.0, "nothing", "nothing"]) == {}


@for_each("make", [list, tuple, set, frozenset, iter, dict.fromkeys])
def test_get_many_takes_any_iterable(
    cache: RBCache, make: Callable[[Iterable[str]], Iterable[str]]
) -> None:
    cache.set_many(MANY)

    assert cache.get_many(make([*MANY, "nothing"])) == MANY


def test_get_many_takes_keys_that_are_no_text(cache: RBCache) -> None:
    cache.set_many({1: "one", (2,): "two", None: "none"})

    assert cache.get_many([1, (2,), None]) == {1: "one", (2,): "two", None: "none"}
    assert cache.get("1") == "one"


def test_get_many_takes_duplicates(cache: RBCache) -> None:
    cache.set_many({"a": 1, "b": 2})

    assert cache.get_many(["a", "b", "a", "a"]) == {"a": 1, "b": 2}


@for_each("keys", [[0], ["a"], [0, "a"]])
def test_keys_and_values_may_be_in_arrays(cache: RBCache, keys: list[Any]) -> None:
    """numpy's have no truth, and pandas' are no mappings and look among the labels."""
    values: Any = dict.fromkeys(keys, "value")
    series: Any = Series(values)

    assert cache.set_many(series) == []
    assert cache.get_many(Array([*keys, "nothing"])) == values
    cache.delete_many(Array(keys))
    assert cache.get_many(Array(keys)) == {}
    cache.set_many(values)
    assert cache.set_many(series, 0) == []
    assert cache.get_many(Array(keys)) == {}


@pytest.mark.parametrize("default", [Array([]), Array([1, 2])])
def test_a_default_may_be_an_array(cache: RBCache, default: Any) -> None:
    assert cache.get("key", default) is default
    assert list(cache.get_or_set("key", default)) == list(default)
    assert list(cache.get("key")) == list(default)


@for_each("nothing", [[], (), {}, iter(()), Array([])])
def test_multi_key_calls_of_nothing_ask_nobody(
    nodes: LocalNodes, servers: Servers, nothing: Any
) -> None:
    cache = make_cache()
    servers.reset_counts()

    assert cache.get_many(nothing) == {}
    assert cache.set_many({}) == []
    assert cache.set_many(Series({})) == []  # type: ignore[arg-type]
    cache.delete_many(nothing)
    assert not any(servers.counts().values())


def test_set_many_stores_all_and_returns_nothing_lost(cache: RBCache, servers: Servers) -> None:
    assert cache.set_many(MANY) == []

    assert cache.get_many(MANY) == MANY
    assert all(servers.keys().values())


def test_of_two_names_for_one_key_the_last_value_stays(cache: RBCache) -> None:
    assert cache.set_many({1: "number", "1": "text"}) == []

    assert cache.get_many(["1", 1]) == {"1": "text", 1: "text"}


@for_each("timeout", [0, -1, -0.5])
def test_set_many_with_a_timeout_that_is_over_deletes(cache: RBCache, timeout: float) -> None:
    cache.set_many(MANY)

    assert cache.set_many(dict.fromkeys(MANY, "late"), timeout=timeout) == []
    assert cache.get_many(MANY) == {}


def test_a_value_that_cannot_be_stored_keeps_a_small_batch_from_being_sent(
    cache: RBCache, servers: Servers
) -> None:
    with pytest.raises(TypeError, match="not for pickling"):
        cache.set_many({**MANY, "bad": Unpicklable()})

    assert not any(servers.keys().values())
    assert cache.set_many(MANY) == []
    assert cache.get_many(MANY) == MANY


def test_a_value_that_cannot_be_stored_leaves_the_cache_usable(cache: RBCache) -> None:
    # Enough for every node to be in the middle of its share when the bad one comes.
    large = {f"large{n}": "x" * 30_000 for n in range(100)}
    with pytest.raises(TypeError, match="not for pickling"):
        cache.set_many({**large, "bad": Unpicklable(), **MANY})

    assert cache.set_many(MANY) == []
    assert cache.get_many([*MANY, "bad"]) == MANY
    with pytest.raises(TypeError, match="not for pickling"):
        cache.set("bad", Unpicklable())
    assert cache.get("key7") == 7


def test_delete_many_deletes_on_every_node(cache: RBCache) -> None:
    cache.set_many(MANY)

    cache.delete_many(key for key in MANY if key != "key7")
    assert cache.get_many(MANY) == {"key7": 7}


@pytest.mark.static
def test_clear_empties_the_configured_database_of_every_node(
    nodes: LocalNodes, servers: Servers
) -> None:
    make_cache().set_many(MANY)
    third = {"default": {"HOSTS": nodes.hosts, "HOST_DEFAULTS": {"db": 3}}}
    with override_settings(RB_CLUSTERS=third), Servers(nodes.hosts, db=3) as databases:
        cache = make_cache()
        cache.set_many(MANY)
        assert all(databases.keys().values())

        assert cache.clear() is True
        assert not any(databases.keys().values())
    assert sum(map(len, servers.keys().values())) == len(MANY)


def test_versions_are_apart(cache: RBCache) -> None:
    cache.set("key", "one")
    cache.set("key", "two", version=2)
    second = make_cache(VERSION=2)

    assert cache.get("key") == "one"
    assert cache.get("key", version=2) == second.get("key") == "two"
    assert cache.get_many(["key"], version=2) == {"key": "two"}
    assert second.delete("key")
    assert cache.get("key") == "one"
    cache.set_many({"key": "three"}, version=3)
    assert cache.has_key("key", version=3)
    cache.delete_many(["key"], version=3)
    assert not cache.has_key("key", version=3)


@for_each("name", [f"key{n}" for n in range(8)])
@pytest.mark.parametrize("timeout", [None, 100, 7.75])
def test_incr_version_moves_value_and_expiry(
    cache: RBCache, servers: Servers, name: str, timeout: float | None
) -> None:
    cache.set(name, ["value"], timeout)

    assert cache.incr_version(name) == 2
    assert cache.get(name) is None
    assert cache.get(name, version=2) == ["value"]
    left = servers.ask_owner("PTTL", f":2:{name}".encode())
    assert left == -1 if timeout is None else 0 < left <= timeout * 1000

    assert cache.decr_version(name, version=2) == 1
    assert cache.get(name) == ["value"]
    assert not cache.has_key(name, version=2)


@pytest.mark.static
def test_incr_version_crosses_nodes(cache: RBCache, servers: Servers) -> None:
    crossed = 0
    for name in MANY:
        cache.set(name, name)
        before = servers.owner(f":1:{name}".encode())
        assert cache.incr_version(name, delta=4) == 5
        crossed += servers.owner(f":5:{name}".encode()) != before
    assert crossed > 50


def test_incr_version_of_a_missing_key_is_an_error(cache: RBCache) -> None:
    with pytest.raises(ValueError, match="Key 'nothing' not found"):
        cache.incr_version("nothing")
    with pytest.raises(ValueError, match="Key 'nothing' not found"):
        cache.decr_version("nothing")
    cache.set("key", 1, version=3)
    with pytest.raises(ValueError, match="Key 'key' not found"):
        cache.incr_version("key")


def test_incr_version_by_nothing_keeps_the_value(cache: RBCache) -> None:
    cache.set("key", "value", 100)

    assert cache.incr_version("key", delta=0) == 1
    assert cache.get("key") == "value"
    assert cache.ttl("key") in (99, 100)


def test_prefixes_are_apart(nodes: LocalNodes, servers: Servers) -> None:
    plain, shop = make_cache(), make_cache(KEY_PREFIX="shop", VERSION=7)
    plain.set("key", "plain")
    shop.set("key", "shop")

    assert (plain.get("key"), shop.get("key")) == ("plain", "shop")
    assert set().union(*servers.keys().values()) == {b":1:key", b"shop:7:key"}


def reversed_key(key: Any, prefix: str, version: int) -> str:
    return f"{key}|{version}|{prefix}"


@pytest.mark.parametrize("function", [reversed_key, f"{__name__}.reversed_key"])
def test_a_key_function_makes_the_keys_of_every_call(
    nodes: LocalNodes, servers: Servers, function: object
) -> None:
    cache = make_cache(KEY_PREFIX="p", KEY_FUNCTION=function)
    cache.set("a", 1)
    cache.set_many({"b": 2, 3: "c"}, version=9)

    assert set().union(*servers.keys().values()) == {b"a|1|p", b"b|9|p", b"3|9|p"}
    assert cache.get_many(["b", 3], version=9) == {"b": 2, 3: "c"}
    assert cache.get("a") == 1
    assert cache.incr_version("a", 4) == 5
    assert servers.owner(b"a|5|p") in nodes.hosts


def test_an_object_is_named_by_its_text(cache: RBCache, servers: Servers) -> None:
    class Name:
        def __str__(self) -> str:
            return "text"

        def __format__(self, spec: str) -> str:
            return "format"

    cache.set(Name(), 1)
    cache.set_many({Name(): 2})
    assert set().union(*servers.keys().values()) == {b":1:text"}


@for_each("size", [0, 1, 65_535, 65_536, 1_000_000])
def test_values_of_any_size(cache: RBCache, size: int) -> None:
    value = b"\r\n" * (size // 2) + b"x" * (size % 2)
    cache.set("value", value)
    cache.set_many({"one": value, "two": value})

    assert cache.get("value") == value
    assert cache.get_many(["two", "one"]) == {"two": value, "one": value}


def test_the_asynchronous_api(cache: RBCache) -> None:
    async def use() -> None:
        await cache.aset("key", 1)
        assert await cache.aget("key") == 1
        assert await cache.aincr("key") == 2
        assert await cache.aadd("key", 5) is False
        assert await cache.ahas_key("key")
        assert await cache.aset_many({"a": 1, "b": 2}) == []
        assert await cache.aget_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert await cache.aget_or_set("c", 3) == 3
        assert await cache.atouch("c", 60)
        assert await cache.aincr_version("c") == 2
        await cache.adelete_many(["a", "b"])
        assert await cache.adelete("key")
        await cache.aclear()
        assert await cache.aget("c", version=2) is None

    asyncio.run(use())
