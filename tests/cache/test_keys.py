"""Keys: Django's warnings, any text, and a subclass's own ideas."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
from django.core.cache.backends.base import BaseCache, CacheKeyWarning, InvalidCacheKey
from django.core.cache.backends.locmem import LocMemCache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_rb.cache import RBCache
from django_rb.cache.keys import Keys
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache
from tests.tables import for_each

NASTY = [
    *("", "plain", " ", "with space", "tab\t", "line\nfeed", "\r\n", "nul\0", "\x1f", "\x7f"),
    *("\x80", "\xa0", "ünïcödé", "日本語", "\u2028", "\u200b", "\ufeff", "🂡", "\U000e0001"),
    *("x" * 246, "x" * 247, "x" * 248, "x" * 249, "x" * 10_000, "ü" * 247, "ü" * 248),
    *("x y" * 100, "{tag}", "%s", ":1:", "*", "[a]", "\\", "'", '"'),
]

quickly = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def warnings_of(call: Callable[..., object], *args: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    assert all(warning.category is CacheKeyWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def expected_warnings(keys: Iterable[object], **params: Any) -> list[str]:
    local = LocMemCache("keys", params)
    return [text for key in keys for text in warnings_of(local.get, key)]


@for_each(
    "call",
    [
        lambda cache, key: cache.get(key),
        lambda cache, key: cache.set(key, 1),
        lambda cache, key: cache.set(key, 1, 0),
        lambda cache, key: cache.add(key, 1),
        lambda cache, key: cache.add(key, 1, 0),
        lambda cache, key: cache.touch(key),
        lambda cache, key: cache.touch(key, 0),
        lambda cache, key: cache.delete(key),
        lambda cache, key: cache.has_key(key),
        lambda cache, key: cache.ttl(key),
        lambda cache, key: cache.lock(key),
        lambda cache, key: cache.get_many([key]),
        lambda cache, key: cache.set_many({key: 1}),
        lambda cache, key: cache.set_many({key: 1}, 0),
        lambda cache, key: cache.delete_many([key]),
    ],
)
def test_every_call_warns_as_django_does(
    cache: RBCache, call: Callable[[RBCache, str], object]
) -> None:
    for key in ("plain", "ünïcödé", "with space", "x" * 260, "x y" * 100):
        assert warnings_of(call, cache, key) == expected_warnings([key])


@for_each("call", ["incr", "decr", "incr_version"])
def test_counting_warns_as_django_does(cache: RBCache, call: str) -> None:
    warnings_of(lambda: cache.set("with space", 1))

    assert set(warnings_of(lambda: getattr(cache, call)("with space"))) >= set(
        expected_warnings(["with space"])
    )


@for_each("key", NASTY)
def test_a_key_warns_as_django_does(cache: RBCache, key: str) -> None:
    assert warnings_of(lambda: cache.get(key)) == expected_warnings([key])
    assert warnings_of(lambda: cache.get_many([key])) == expected_warnings([key])


def test_many_keys_warn_as_django_does(cache: RBCache) -> None:
    expected = expected_warnings(NASTY)
    assert len(expected) > 10

    assert warnings_of(lambda: cache.get_many(NASTY)) == expected
    assert warnings_of(lambda: cache.set_many(dict.fromkeys(NASTY, 1))) == expected
    assert warnings_of(lambda: cache.delete_many(NASTY)) == expected


@quickly
@given(
    keys=st.lists(
        st.text() | st.text(alphabet="x ", min_size=240, max_size=260) | st.integers()
    ),
    prefix=st.sampled_from(["", "p", "p p", "x" * 200]),
)
def test_keys_and_warnings_are_djangos_for_any_text(keys: list[object], prefix: str) -> None:
    params = {"KEY_PREFIX": prefix, "VERSION": 3}
    local = LocMemCache("keys", params)
    ours = Keys(local)
    made: list[bytes] = []

    expected = expected_warnings(keys, **params)
    assert warnings_of(lambda: made.extend(ours.make_many(keys, None))) == expected
    assert made == [local.make_key(key).encode() for key in keys]
    single = [text for key in keys for text in warnings_of(ours.make, key, None)]
    assert single == expected


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_any_text_is_a_key(cache: RBCache, servers: Servers) -> None:
    values = {key: f"value of {n}" for n, key in enumerate(NASTY)}
    assert cache.set_many(values) == []
    for key, value in values.items():
        assert cache.get(key) == value
        cache.set(key, value)

    assert cache.get_many(NASTY) == values
    assert set(cache.keys()) == set(NASTY)
    assert set().union(*servers.keys().values()) == {f":1:{key}".encode() for key in NASTY}
    cache.delete_many(NASTY)
    assert not any(servers.keys().values())


@pytest.mark.parametrize("call", [RBCache.get, RBCache.delete])
def test_text_that_is_no_text_is_an_error(
    cache: RBCache, call: Callable[[RBCache, str], object]
) -> None:
    with pytest.raises(UnicodeEncodeError):
        call(cache, "\udc80")
    with pytest.raises(UnicodeEncodeError):
        cache.get_many(["fine", "\udc80"])


class Strict(RBCache):
    """Refuses what memcached would, and numbers its keys."""

    def validate_key(self, key: Any) -> None:
        if "bad" in key:
            raise InvalidCacheKey(f"{key!r} is bad")


class Shouting(RBCache):
    def make_key(self, key: Any, version: int | None = None) -> str:
        return f"[{self.key_prefix}*]{self.version if version is None else version}!{key}!"


class Careful(RBCache):
    def make_and_validate_key(self, key: Any, version: int | None = None) -> str:
        return f"careful:{key}"


@for_each(
    "call",
    [
        lambda cache: cache.get("bad"),
        lambda cache: cache.set("bad", 1),
        lambda cache: cache.get_many(["good", "bad"]),
        lambda cache: cache.set_many({"good": 1, "bad": 2}),
        lambda cache: cache.delete_many(["good", "bad"]),
        lambda cache: cache.incr("bad"),
    ],
)
def test_a_subclass_decides_which_keys_are_valid(
    nodes: LocalNodes, servers: Servers, call: Callable[[BaseCache], object]
) -> None:
    nodes.flush()
    cache = Strict("default", {})
    with pytest.raises(InvalidCacheKey, match="is bad"):
        call(cache)
    assert not any(servers.keys().values())

    assert warnings_of(lambda: cache.set("with space", 1)) == []
    assert warnings_of(lambda: cache.get_many(["with space", "x" * 300])) == []


def test_a_subclass_makes_the_keys(nodes: LocalNodes, servers: Servers) -> None:
    cache = Shouting("default", {"KEY_PREFIX": "p"})
    cache.set("a", 1)
    cache.set_many({"b": 2}, version=7)

    assert set().union(*servers.keys().values()) == {b"[p*]1!a!", b"[p*]7!b!"}
    assert cache.get_many(["a"]) == {"a": 1}
    assert warnings_of(lambda: cache.get("with space")) == [
        "Cache key contains characters that will cause errors if used with memcached: "
        "'[p*]1!with space!'"
    ]


def with_suffix(key: str, prefix: str, version: int) -> str:
    return f"{prefix}:{key}z"


@pytest.mark.static
def test_no_pattern_takes_a_suffix_along(nodes: LocalNodes, servers: Servers) -> None:
    keys = Keys(LocMemCache("keys", {"KEY_FUNCTION": with_suffix}))
    signs = "a]\\[-^"

    def words(letters: str, longest: int) -> list[str]:
        sizes = range(1, longest + 1)
        return ["".join(word) for size in sizes for word in product(letters, repeat=size)]

    servers.ask(
        0, "MSET", *(part for word in words(f"{signs}z", 3) for part in (f":{word}", 1))
    )
    accepted = []
    for pattern in words(signs, 3):
        try:
            made = keys.pattern(pattern, None)
        except ValueError:
            continue
        accepted.append(pattern)
        _, found = servers.ask(0, "SCAN", 0, "MATCH", made, "COUNT", 10_000)
        assert all(key.endswith(b"z") for key in found), (pattern, found)
    assert {"a", "[a]", "[^]", "\\[a", "\\\\", "-a]", "[]a"} <= set(accepted)
    assert not {"[", "\\", "a[", "[a\\", "a\\", "[a-", "\\\\["} & set(accepted)


@for_each("pattern", ["a[", "a\\", "[a-]", "[\\]", "[^"])
def test_a_pattern_that_is_open_is_refused(nodes: LocalNodes, pattern: str) -> None:
    cache = make_cache(KEY_FUNCTION=with_suffix)
    with pytest.raises(ValueError, match="could match keys of others"):
        cache.delete_pattern(pattern)
    assert make_cache().delete_pattern(pattern) == 0  # nothing behind it to be taken


def test_a_subclass_makes_the_patterns(nodes: LocalNodes, servers: Servers) -> None:
    cache = Shouting("default", {"KEY_PREFIX": "p"})
    cache.set_many({"a1": 1, "a2": 2, "b1": 3})
    cache.set("a1", 1, version=2)
    make_cache(KEY_PREFIX="p").set("a1", "another's")

    assert cache.delete_pattern("a*") == 2
    assert cache.get_many(["a1", "a2", "b1"]) == {"b1": 3}
    assert cache.has_key("a1", version=2)
    assert make_cache(KEY_PREFIX="p").get("a1") == "another's"


def test_a_subclass_makes_and_validates_in_one(nodes: LocalNodes, servers: Servers) -> None:
    cache = Careful("default", {})
    cache.set("a", 1)
    cache.set_many({"b": 2})

    assert set().union(*servers.keys().values()) == {b"careful:a", b"careful:b"}
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
