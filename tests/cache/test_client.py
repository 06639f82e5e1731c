"""Redis's commands with a cache's keys and values, and django-redis's names."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.core.cache import cache as default_cache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import get_redis_connection
from django_rb.cache import RBCache
from django_rb.cache.values import PLACES
from django_rb.engine.protocol.commands import keys_of
from django_rb.testing import LocalNodes
from tests.cache.test_decorators import CACHES
from tests.helpers import Servers, make_cache

TUPLE = ("a", 1)


@pytest.fixture
def client(cache: RBCache, face: str) -> Any:
    """The cache's client; that of event loops behind the same names."""
    if face == "sync":
        return cache.client()
    return Twin(cache)


class Twin:
    def __init__(self, cache: RBCache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            async def wait() -> Any:
                return await getattr(self._cache.aclient(), name)(*args, **kwargs)

            return asyncio.run(wait())

        return run


def test_strings_are_those_of_the_cache(client: Any, cache: RBCache) -> None:
    assert client.set("k", TUPLE, ex=60)
    assert cache.get("k") == TUPLE
    assert 0 < (cache.ttl("k") or 0) <= 60
    cache.set("other", 5)
    assert client.mget("k", "missing", "other") == [TUPLE, None, 5]
    assert client.incr("other") == 6
    assert client.getdel("k") == TUPLE
    assert client.get("k") is None
    assert client.mset({"a": [1], "b": None})
    assert cache.get_many(["a", "b"]) == {"a": [1], "b": None}
    assert client.exists("a", "b", "c") == 2
    assert client.delete("a", "b") == 2


def test_sets(client: Any) -> None:
    assert client.sadd("s", TUPLE, 1, None) == 3
    assert client.smembers("s") == {TUPLE, 1, None}
    assert client.sismember("s", TUPLE)
    assert client.smismember("s", [1, 2]) == [1, 0]
    assert client.srem("s", None, 1) == 2
    assert client.spop("s") == TUPLE
    client.sadd("{t}1", [1], [2])
    client.sadd("{t}2", [2], [3])
    assert client.sinter("{t}1", "{t}2") == [[2]]  # which no set takes
    assert client.smove("{t}1", "{t}2", [1])
    assert client.scard("{t}2") == 3
    assert len(client.sscan("{t}2")[1]) == 3


def test_hashes(client: Any) -> None:
    assert client.hset("h", "field", TUPLE) == 1
    assert client.hset("h", mapping={"n": 1, "none": None}) == 2
    assert client.hget("h", "field") == TUPLE
    assert client.hgetall("h") == {"field": TUPLE, "n": 1, "none": None}
    assert client.hincrby("h", "n", 4) == 5
    assert client.hmget("h", "n", "missing") == [5, None]
    assert client.hvals("h") == [TUPLE, 5, None]
    assert client.hscan("h")[1] == {"field": TUPLE, "n": 5, "none": None}


def test_sorted_sets(client: Any) -> None:
    assert client.zadd("z", {TUPLE: 2, "b": 1.5}, nx=True) == 2
    assert client.zadd("z", {"b": 3}, xx=True, ch=True) == 1
    assert client.zrange("z", 0, -1) == [TUPLE, "b"]
    assert [tuple(pair) for pair in client.zrange("z", 0, -1, withscores=True)] == [
        (TUPLE, 2.0),
        ("b", 3.0),
    ]
    assert client.zscore("z", TUPLE) == 2.0
    assert client.zincrby("z", 5, TUPLE) == 7.0
    assert client.zrank("z", TUPLE) == 1
    assert tuple(client.zpopmin("z")[0]) == ("b", 3.0)
    assert client.zrem("z", TUPLE) == 1


def test_lists(client: Any) -> None:
    assert client.rpush("l", TUPLE, 2, None) == 3
    assert client.lrange("l", 0, -1) == [TUPLE, 2, None]
    assert client.linsert("l", "BEFORE", 2, "new") == 4
    assert client.lpos("l", 2) == 2
    assert client.lset("l", 0, "first")
    assert client.blpop("l") == ("l", "first")
    assert client.lpop("l", 2) == ["new", 2]
    assert client.lrem("l", 0, None) == 1


@pytest.mark.only_sync
def test_keys_are_those_of_the_cache(
    client: Any, cache: RBCache, servers: Servers, nodes: LocalNodes
) -> None:
    client.sadd("s", 1)
    client.hset("h", "f", 1)
    assert set.union(*servers.keys().values()) == {b":1:s", b":1:h"}
    assert client.type("s") == b"set"
    assert client.rename("{a}1", "{a}2") if client.set("{a}1", 1) else None
    assert sorted(cache.keys()) == ["h", "s", "{a}2"]
    other = make_cache(KEY_PREFIX="other", VERSION=3)
    assert other.client().smembers("s") == set()
    assert cache.client(version=2).scard("s") == 0
    assert sorted(cache.client().scan_iter("*")) == ["h", "s", "{a}2"]
    script = cache.client().register_script("return redis.call('SCARD', KEYS[1])")
    assert script(keys=["s"]) == 1
    with pytest.raises(TypeError, match="finds keys only by pattern"):
        cache.client().scan_iter(_type="set")


@pytest.mark.only_sync
def test_promises_have_the_values(cache: RBCache) -> None:
    with cache.client().map() as client:
        client.sadd("s", TUPLE)
        client.set("k", TUPLE)
        found = [
            client.smembers("s"),
            client.get("k"),
            client.mget("k", "no"),
        ]
        client.lpush("k", 1).done(None, lambda _error: None)
    assert [promise.value for promise in found] == [{TUPLE}, TUPLE, [TUPLE, None]]

    async def main() -> None:
        async with cache.aclient().map() as client:
            found = [client.smembers("s"), client.get("k")]
            assert await found[0] == {TUPLE}
        assert found[1].value == TUPLE
        assert [key async for key in cache.aclient().scan_iter("s*")] == ["s"]

    asyncio.run(main())


@pytest.mark.only_sync
@pytest.mark.parametrize(
    "options",
    [
        {"SIGNING_KEY": "a key of the tests' own"},
        {"SERIALIZER": "json", "COMPRESSOR": "zlib", "COMPRESS_MIN_BYTES": 10},
    ],
    ids=str,
)
def test_values_go_through_the_codec(
    nodes: LocalNodes, servers: Servers, options: dict[str, Any]
) -> None:
    cache = make_cache(OPTIONS=options)
    client: Any = cache.client()
    client.set("k", ["text"] * 20)
    assert cache.get("k") == ["text"] * 20
    client.rpush("{l}1", ["text"] * 20)
    client.lmove("{l}1", "{l}2")
    assert client.lrange("{l}2", 0, -1) == [["text"] * 20]
    assert servers.ask_owner("LINDEX", b":1:{l}2", 0)[0] == 0xC1
    if "SIGNING_KEY" in options:
        servers.ask_owner("LPUSH", b":1:{l}2", b"\x80\x04K\x01.")
        assert client.lrange("{l}2", 0, 0) == [None]  # whoever wrote that


@pytest.mark.only_sync
def test_the_table_knows_commands_of_the_engine() -> None:
    ways: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(["LMPOP", "ZMPOP"], (1, "k", "MIN")),
        **dict.fromkeys(["BLMPOP", "BZMPOP"], (0, 1, "k", "MIN")),
        **dict.fromkeys(["ZDIFF", "ZINTER", "ZUNION"], (1, "k")),
    }
    for name in PLACES:
        assert keys_of((name, *ways.get(name, ("k", "k2", "v", "w"))))[0] == "k"


# django-redis's names.


def test_set_on_a_condition(cache: RBCache) -> None:
    assert cache.set("k", 1, xx=True) is False
    assert cache.set("k", 1, 60, nx=True) is True
    assert cache.set("k", 2, nx=True) is False
    assert (cache.get("k"), cache.ttl("k")) == (1, 60)
    assert cache.set("k", 3, None, xx=True) is True
    assert (cache.get("k"), cache.ttl("k")) == (3, None)
    assert cache.set("k", 4, 0, xx=True) is True
    assert not cache.has_key("k")
    with pytest.raises(ValueError, match="nx=True and xx=True"):
        cache.set("k", 1, nx=True, xx=True)


def test_incr_of_what_does_not_exist(cache: RBCache) -> None:
    assert cache.incr("n", 5, ignore_key_check=True) == 5
    assert cache.incr("n", ignore_key_check=True) == 6
    assert cache.ttl("n") is None
    cache.set("text", "a")
    with pytest.raises(ValueError, match="not an integer"):
        cache.incr("text", ignore_key_check=True)


def test_expire_at_milliseconds(cache: RBCache) -> None:
    cache.set("k", 1)
    in_a_minute = datetime.now(tz=UTC) + timedelta(minutes=1)
    assert cache.pexpire_at("k", in_a_minute)
    # The node's clock may be a moment behind.
    assert 59_000 < (cache.pttl("k") or 0) <= 60_100
    assert cache.pexpire_at("k", int(in_a_minute.timestamp() * 1000) + 60_000)
    assert 119_000 < (cache.pttl("k") or 0) <= 120_100


def test_commands_as_methods(cache: RBCache) -> None:
    assert cache.sadd("{s}1", TUPLE, "b") == 2
    assert cache.sadd("{s}2", "b", version=2) == 1
    assert cache.smembers("{s}1") == {TUPLE, "b"}
    assert cache.smembers("{s}2") == set()
    assert cache.sdiff("{s}1", "{s}2") == {TUPLE, "b"}
    assert cache.hset("h", "f", TUPLE) == 1
    assert cache.hkeys("h") == ["f"]
    assert (cache.hlen("h"), cache.hexists("h", "f"), cache.hdel("h", "f")) == (1, True, 1)


@pytest.mark.only_sync
def test_a_raw_connection(nodes: LocalNodes) -> None:
    with override_settings(CACHES=CACHES):
        default_cache.set("k", 7)
        assert get_redis_connection().get(":1:k") == b"7"
        local: Any = get_redis_connection("default", key=":1:k")
        assert type(local) is redis.Redis
        pipe: Any = local.pipeline()
        assert pipe.get(":1:k").incr(":1:k").execute() == [b"7", 8]
        with pytest.raises(ImproperlyConfigured, match="LocMemCache"):
            get_redis_connection("local")
