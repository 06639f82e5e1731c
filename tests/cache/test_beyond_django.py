"""What the cache can do under django-redis's names: expiry, patterns, locks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha1
from time import time
from typing import Any

import pytest
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import LockError

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.cache.numeric import Float16, Int8
from tests.helpers import Servers, make_cache, wait_until
from tests.tables import for_each

MANY = {f"key{n}": n for n in range(100)}


def test_ttl_and_pttl_say_what_is_left(cache: RBCache) -> None:
    cache.set("key", 1, 100.4)
    cache.set("forever", 1, None)

    assert cache.ttl("key") in {99, 100}
    left = cache.pttl("key")
    assert left is not None
    assert 99_000 < left <= 100_400
    assert cache.ttl("forever") is cache.pttl("forever") is None
    assert cache.ttl("nothing") == cache.pttl("nothing") == 0
    assert cache.ttl("key", version=2) == 0


@for_each(
    ("call", "milliseconds"),
    [
        (lambda cache, key, **kw: cache.expire(key, 60, **kw), 60_000),
        (lambda cache, key, **kw: cache.expire(key, 7.5, **kw), 7500),
        (lambda cache, key, **kw: cache.expire(key, timeout=7.001, **kw), 7001),
        (lambda cache, key, **kw: cache.pexpire(key, 7234, **kw), 7234),
        (lambda cache, key, **kw: cache.pexpire(key, timeout=60_000, **kw), 60_000),
        (lambda cache, key, **kw: cache.expire(key, Int8(60), **kw), 60_000),
        (lambda cache, key, **kw: cache.expire(key, timedelta(seconds=7.5), **kw), 7500),
        (lambda cache, key, **kw: cache.expire(key, DEFAULT_TIMEOUT, **kw), 300_000),
        (lambda cache, key, **kw: cache.pexpire(key, Float16(60_000), **kw), 60_000),
        (lambda cache, key, **kw: cache.pexpire(key, timedelta(seconds=7.5), **kw), 7500),
        (lambda cache, key, **kw: cache.pexpire(key, DEFAULT_TIMEOUT, **kw), 300_000),
        (lambda cache, key, **kw: cache.expire_at(key, Decimal(time() + 60), **kw), 60_000),
        (lambda cache, key, **kw: cache.expire_at(key, time() + 60, **kw), 60_000),
        (lambda cache, key, **kw: cache.expire_at(key, in_seconds(7.5), **kw), 7500),
        (lambda cache, key, **kw: cache.expire_at(key, when=in_seconds(60), **kw), 60_000),
    ],
)
def test_a_key_gets_a_new_expiry(
    cache: RBCache, servers: Servers, call: Callable[..., object], milliseconds: int
) -> None:
    cache.set("key", 1, 1000)
    cache.set("key", 2, None, version=2)

    with servers.expiring(b":1:key", milliseconds):
        assert call(cache, "key") is True
    assert cache.get("key") == 1
    assert cache.ttl("key", version=2) is None
    assert call(cache, "key", version=2) is True
    assert call(cache, "nothing") is False


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@for_each(
    "when",
    [
        2_000_000_000,
        2_000_000_000.125,
        datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
        datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5))),
        datetime(2030, 1, 2, 3, 4, 5),
    ],
)
def test_a_key_expires_at_a_time(
    cache: RBCache, servers: Servers, when: datetime | float
) -> None:
    cache.set("key", 1)

    assert cache.expire_at("key", when) is True
    seconds = when.timestamp() if isinstance(when, datetime) else when
    assert servers.ask_owner("PEXPIRETIME", b":1:key") == seconds * 1000


@for_each(
    "call",
    [
        lambda cache: cache.expire("key", 0),
        lambda cache: cache.expire("key", -1),
        lambda cache: cache.pexpire("key", 0),
        lambda cache: cache.pexpire("key", -5),
        lambda cache: cache.expire_at("key", 1),
        lambda cache: cache.expire_at("key", Int8(100)),
        lambda cache: cache.expire_at("key", -1),
        lambda cache: cache.expire_at("key", datetime(2001, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_expiry_in_the_past_deletes(
    cache: RBCache, call: Callable[[RBCache], object]
) -> None:
    cache.set("key", 1)

    assert call(cache) is True
    assert not cache.has_key("key")


@for_each("call", ["expire", "pexpire", "touch"])
def test_a_new_expiry_of_none_is_for_ever(cache: RBCache, call: str) -> None:
    cache.set("key", 1, 100)

    assert getattr(cache, call)("key", None) is True
    assert cache.ttl("key") is None
    assert getattr(cache, call)("nothing", None) is False


@for_each(
    ("argument", "call"),
    [
        ("timeout", lambda cache: cache.expire("key", "60")),
        ("timeout", lambda cache: cache.pexpire("key", "60")),
        ("when", lambda cache: cache.expire_at("key", "1750000000")),
        ("when", lambda cache: cache.expire_at("key", timedelta(1))),
        ("when", lambda cache: cache.expire_at("key", None)),
        ("timeout", lambda cache: cache.lock("name", timeout="60")),
        ("sleep", lambda cache: cache.lock("name", sleep="1")),
        ("blocking_timeout", lambda cache: cache.lock("name", blocking_timeout=[1])),
        ("itersize", lambda cache: list(cache.iter_keys("*", itersize="10"))),
        ("itersize", lambda cache: cache.delete_pattern("*", itersize=1.5)),
        ("pattern", lambda cache: cache.delete_pattern(b"*")),
        ("search", lambda cache: cache.keys(b"*")),
        ("prefix", lambda cache: cache.delete_pattern("*", None, 1000)),
    ],
)
def test_an_argument_of_the_wrong_type_is_an_error_that_names_it(
    cache: RBCache, argument: str, call: Callable[[RBCache], object]
) -> None:
    cache.set("key", 1)
    with pytest.raises(TypeError, match=f"The {argument} "):
        call(cache)
    assert cache.ttl("key") in {299, 300}


def test_a_negative_itersize_is_an_error(cache: RBCache) -> None:
    with pytest.raises(ValueError, match="itersize -1"):
        cache.delete_pattern("*", itersize=-1)


def test_persist_says_whether_there_was_an_expiry_to_take_away(cache: RBCache) -> None:
    cache.set("key", 1, 100)

    assert cache.persist("key") is True
    assert cache.ttl("key") is None
    assert cache.persist("key") is False
    assert cache.persist("nothing") is False


def test_keys_finds_this_version_and_prefix_on_every_node(nodes: LocalNodes) -> None:
    cache = make_cache(KEY_PREFIX="shop")
    cache.set_many(MANY)
    cache.set_many({"key1": 1, "other": 1}, version=2)
    make_cache().set_many({"key1": 1, "shop:1:key1": 1})
    make_cache(KEY_PREFIX="shopping").set("key1", 1)

    assert set(cache.keys()) == set(MANY)
    assert sorted(cache.keys("key1?")) == [f"key1{n}" for n in range(10)]
    assert set(cache.keys("*", version=2)) == {"key1", "other"}
    assert cache.keys("nothing*") == []
    assert cache.keys("key[78]") in (["key7", "key8"], ["key8", "key7"])
    assert cache.get_many(cache.keys()) == MANY


def test_iter_keys_goes_page_by_page(cache: RBCache, servers: Servers) -> None:
    cache.set_many(dict.fromkeys(map(str, range(1000)), 1))
    servers.reset_counts()

    found = cache.iter_keys(itersize=10)
    first = next(found)
    counts = servers.counts()
    assert all(set(commands) == {"scan"} for commands in counts.values())
    assert all(commands["scan"] == 1 for commands in counts.values())
    assert {first, *found} == set(map(str, range(1000)))
    assert all(commands["scan"] > 10 for commands in servers.counts().values())


@for_each("itersize", [None, 0, Int8(10)])
def test_the_size_of_a_page_may_be_left_to_the_cache(cache: RBCache, itersize: Any) -> None:
    cache.set_many(MANY)

    assert set(cache.iter_keys(search="*", itersize=itersize)) == set(MANY)
    assert set(cache.keys(search="key1*")) == {key for key in MANY if key.startswith("key1")}
    assert cache.delete_pattern("*", itersize=itersize) == len(MANY)


def test_delete_pattern_takes_another_prefix(nodes: LocalNodes, servers: Servers) -> None:
    cache = make_cache(KEY_PREFIX="shop")
    for prefix in ("shop", "old[*]", "old[*]er", ""):
        make_cache(KEY_PREFIX=prefix).set_many({"a": 1, "b": 2})
        make_cache(KEY_PREFIX=prefix).set("a", 1, version=2)

    assert cache.delete_pattern("*", prefix="old[*]") == 2
    assert cache.delete_pattern("*", version=2, prefix="") == 1
    left = set().union(*servers.keys().values())
    assert left == {
        *(b"shop:1:a", b"shop:1:b", b"shop:2:a", b":1:a", b":1:b", b"old[*]:2:a"),
        *(b"old[*]er:1:a", b"old[*]er:1:b", b"old[*]er:2:a"),
    }


class OwnKeys(RBCache):
    def make_key(self, key: Any, version: int | None = None) -> str:
        return f"own:{key}"


def test_delete_pattern_takes_no_prefix_where_keys_are_made_otherwise(
    nodes: LocalNodes,
) -> None:
    cache = OwnKeys("default", {})
    cache.set("key", 1)

    with pytest.raises(TypeError, match=r"OwnKeys overrides make_key\(\)"):
        cache.delete_pattern("*", prefix="other")
    assert cache.delete_pattern("*") == 1


def test_iter_keys_can_be_left_in_the_middle(cache: RBCache) -> None:
    cache.set_many(MANY)
    found = cache.iter_keys(itersize=1)
    next(found)
    del found
    assert cache.get_many(MANY) == MANY


def test_delete_pattern_deletes_one_version_and_prefix_on_every_node(
    nodes: LocalNodes, servers: Servers
) -> None:
    cache = make_cache(KEY_PREFIX="shop")
    cache.set_many(dict.fromkeys(map(str, range(1000)), 1))
    cache.set("keep", 1)
    cache.set("1", 1, version=2)
    make_cache().set("1", 1)
    make_cache(KEY_PREFIX="other").set("1", 1)

    assert cache.delete_pattern("[0-9]*", itersize=10) == 1000
    assert set().union(*servers.keys().values()) == {
        b"shop:1:keep",
        b"shop:2:1",
        b":1:1",
        b"other:1:1",
    }
    assert cache.delete_pattern("*", version=2) == 1
    assert cache.delete_pattern("*", version=2) == 0


@for_each("prefix", ["a[b]*c", "a?", "*", "\\", "[^a]", "[a-z]", "a\\*", "]["])
def test_characters_of_patterns_in_a_prefix_stand_for_themselves(
    nodes: LocalNodes, prefix: str
) -> None:
    caches = [make_cache(KEY_PREFIX=p) for p in ("ab", "abc", "a", "b", "^", "a[b]xc", "ax")]
    for other in caches:
        other.set_many({"key": 1, "another": 2})
    cache = make_cache(KEY_PREFIX=prefix)
    cache.set_many({"key": 1, "another": 2, "*": 3})

    assert sorted(cache.keys("*")) == ["*", "another", "key"]
    assert cache.keys("\\*") == ["*"]
    assert cache.delete_pattern("k*") == 1
    assert cache.delete_pattern("*") == 2
    for other in caches:
        assert sorted(other.keys()) == ["another", "key"]


def backwards(key: Any, prefix: str, version: int) -> str:
    return f"{version}[{prefix}]*{key}"


def forwards(made: str) -> str:
    return made.partition("]*")[2]


def hashed(key: Any, prefix: str, version: int) -> str:
    return f"{prefix}:{version}:{sha1(str(key).encode()).hexdigest()}"


@pytest.mark.parametrize("reverse", [forwards, f"{__name__}.forwards"])
def test_a_reverse_key_function_gives_the_keys_of_a_key_function(
    nodes: LocalNodes, reverse: object
) -> None:
    cache = make_cache(
        KEY_PREFIX="p", KEY_FUNCTION=backwards, OPTIONS={"REVERSE_KEY_FUNCTION": reverse}
    )
    cache.set_many(MANY)
    cache.set_many(MANY, version=2)

    assert set(cache.keys()) == set(MANY)
    assert sorted(cache.iter_keys("key1?", itersize=5)) == [f"key1{n}" for n in range(10)]
    assert cache.delete_pattern("key1*") == 11
    assert set(cache.keys("*", version=2)) == set(MANY)


@pytest.mark.parametrize("values", [{}, {"key": 1}])
def test_without_a_reverse_key_function_the_keys_of_a_key_function_are_not_listed(
    nodes: LocalNodes, values: dict[str, int]
) -> None:
    cache = make_cache(KEY_FUNCTION=backwards)
    cache.set_many(values)

    with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['REVERSE_KEY_FUNCTION'\]"):
        cache.keys("*")
    with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['REVERSE_KEY_FUNCTION'\]"):
        next(cache.iter_keys("*"))
    assert cache.delete_pattern("*") == len(values)


def test_keys_that_a_key_function_hashes_have_no_patterns(nodes: LocalNodes) -> None:
    cache = make_cache(KEY_FUNCTION=hashed)
    cache.set("key", 1)

    with pytest.raises(ValueError, match="cannot be found by pattern"):
        cache.delete_pattern("*")
    assert cache.get("key") == 1


@for_each("name", [f"lock{n}" for n in range(6)])
def test_a_lock_lives_on_the_node_that_owns_its_name(
    nodes: LocalNodes, servers: Servers, name: str
) -> None:
    cache = make_cache(KEY_PREFIX="p")
    with cache.lock(name, timeout=30):
        assert servers.owner(f"p:1:{name}".encode()) == cache.cluster.get_host_for_key(
            f"p:1:{name}"
        )
        assert cache.has_key(name)
        assert cache.ttl(name) in {29, 30}
    assert not cache.has_key(name)


def test_a_lock_excludes_others_until_it_is_released(cache: RBCache) -> None:
    assert cache.lock("name").acquire(blocking=False)
    assert not cache.lock("name", blocking=False).acquire()
    assert not cache.lock("name", blocking_timeout=0.01, sleep=0.001).acquire()
    assert cache.lock("name", version=2, blocking=False).acquire()
    with (
        pytest.raises(LockError),
        cache.lock("name", blocking_timeout=0.01, sleep=0.001),
    ):
        pytest.fail("two had the lock")


@pytest.mark.parametrize("timeout", [Int8(60), timedelta(minutes=1), Decimal(60)])
def test_the_times_of_a_lock_may_be_of_any_type(
    cache: RBCache, servers: Servers, timeout: Any
) -> None:
    with servers.expiring(b":1:name", 60_000):
        assert cache.lock("name", timeout=timeout).acquire()
    soon = timedelta(milliseconds=10)
    assert not cache.lock("name", blocking_timeout=soon, sleep=soon / 10).acquire()


@pytest.mark.parametrize("time", [Int8(60), timedelta(minutes=1), Decimal(60)])
def test_a_lock_is_extended_by_a_time_of_any_type(
    cache: RBCache, servers: Servers, time: Any
) -> None:
    lock = cache.lock("name", timeout=60)
    with servers.expiring(b":1:name", 120_000):
        assert lock.acquire()
        lock.extend(time)
    with pytest.raises(TypeError, match="additional_time '60'"):
        lock.extend("60")  # type: ignore[arg-type]

    async def extend_awaited() -> None:
        lock = cache.alock("awaited", timeout=60)
        assert await lock.acquire()
        await lock.extend(time)

    with servers.expiring(b":1:awaited", 120_000):
        asyncio.run(extend_awaited())


def test_a_lock_ends_by_itself(cache: RBCache) -> None:
    assert cache.lock("name", timeout=0.05).acquire()
    wait_until(cache.lock("name", blocking=False).acquire)


def test_threads_take_turns_with_a_lock(cache: RBCache) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(5):
            with cache.lock("turn", timeout=30, sleep=0.001):
                inside.append(1)
                most.append(len(inside))
                cache.set("step", 1)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
