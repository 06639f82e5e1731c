"""The bytes on the server: Django's own by default, and what the options make of them."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.sessions.models import Session
from django.core.cache.backends.redis import RedisCache
from django.test import override_settings
from django.utils.safestring import mark_safe

from django_rb.cache import JSONSerializer, PickleSerializer, RBCache
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache
from tests.tables import for_each


@dataclass
class Product:
    name: str
    price: Decimal


class Size(enum.IntEnum):
    SMALL = 5
    DIGIT = ord("5")  # what MessagePack writes for it is a digit's byte


COMPRESSORS = [None, "zlib", "zstd", "lz4"]
LONG_TEXT = "abc " * 1000
VALUES: list[Any] = [
    0,
    1,
    -1,
    2**31,
    -(2**63),
    10**30,
    -(10**300),
    10**600,
    True,
    False,
    None,
    "",
    "text",
    "5",
    "-1",
    "ünïcödé",
    b"",
    b"5",
    b"\xc10",
    b"\xc1z",
    1.5,
    float("inf"),
    Decimal("1.10"),
    (1, 2),
    {"a": [1, {2, 3}]},
    datetime(2024, 2, 29, 12, tzinfo=UTC),
    Product("chair", Decimal("9.99")),
    Size.SMALL,
    LONG_TEXT,
    [],
]

# What the serializers have in common.
COMMON = [
    *(0, 5, -1, 2**40, -(2**60), True, False, None, 1.5, -0.25),
    *("", "5", "-7", "text", "ünïcödé", LONG_TEXT, "5" * 2000),
    *([], [1, [2, "3"]], {}, {"a": None}, list(range(1000)), {"key": LONG_TEXT}),
]


@pytest.fixture
def one(nodes: LocalNodes) -> Iterator[RBCache]:
    """A cache on the first node alone."""
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": [nodes.hosts[0]]}}):
        yield make_cache()


@pytest.fixture
def django(nodes: LocalNodes) -> Iterator[RedisCache]:
    """Django's own cache on the first node."""
    cache = RedisCache(nodes.urls[0], {})
    yield cache
    cache._cache.get_client(None, write=True).connection_pool.disconnect()


@pytest.mark.static
@for_each("value", VALUES)
def test_the_stored_bytes_are_djangos(
    one: RBCache, django: RedisCache, servers: Servers, value: object
) -> None:
    def stored() -> bytes:
        data: bytes = servers.ask(0, "GET", ":1:key")
        return data

    django.set("key", value)
    expected = stored()
    assert one.get("key") == value
    assert type(one.get("key")) is type(value)
    assert one.get_many(["key"]) == {"key": value}

    one.set("key", value)
    assert stored() == expected
    assert django.get("key") == value
    one.set_many({"key": value})
    assert stored() == expected
    one.delete("key")
    one.add("key", value)
    assert stored() == expected


def test_a_model_comes_back(cache: RBCache) -> None:
    session = Session(session_key="k", session_data="d")
    cache.set_many({"session": session, "safe": mark_safe("<b>")})

    assert cache.get("session") == session
    assert cache.get("session").session_data == "d"
    assert type(cache.get("safe")) is type(mark_safe(""))


@pytest.mark.static
def test_django_takes_over_where_the_cache_counted(one: RBCache, django: RedisCache) -> None:
    one.set("n", 1)
    assert django.incr("n") == 2
    assert one.incr("n") == 3
    assert django.get("n") == 3


def test_integers_that_python_does_not_write_out_come_back(cache: RBCache) -> None:
    for value in (10**5000, -(10**5000)):
        cache.set("n", value)
        cache.set_many({"m": value})
        assert cache.get_many(["n", "m"]) == {"n": value, "m": value}


@for_each(
    ("serializer", "compressor"),
    [
        *(("pickle", compressor) for compressor in COMPRESSORS),
        *((serializer, "zlib") for serializer in ("json", "msgpack")),
    ],
)
def test_values_come_back_in_every_form(
    nodes: LocalNodes, serializer: str, compressor: str | None
) -> None:
    nodes.flush()
    options = {"SERIALIZER": serializer, "COMPRESSOR": compressor, "COMPRESS_MIN_BYTES": 0}
    cache = make_cache(OPTIONS=options)
    values = {f"key{n}": value for n, value in enumerate(COMMON)}

    assert cache.set_many(values) == []
    assert cache.get_many(values) == values
    for name, value in values.items():
        cache.set("single", value)
        assert cache.get("single") == cache.get(name) == value
        assert type(cache.get("single")) is type(value)


def test_compression_can_change_in_a_rolling_deploy(nodes: LocalNodes) -> None:
    """From any to any. test_codec.py has the other serializers."""
    caches = [make_cache(OPTIONS={"COMPRESSOR": name}) for name in COMPRESSORS]
    values = {f"key{n}": value for n, value in enumerate(COMMON)}
    for writer in caches:
        writer.set_many(values)
        for reader in caches:
            assert reader.get_many(values) == values


@pytest.mark.parametrize("compressor", ["zlib", "zstd", "lz4"])
def test_what_is_long_enough_is_stored_in_less(
    nodes: LocalNodes, servers: Servers, compressor: str
) -> None:
    options = {"COMPRESSOR": compressor, "COMPRESS_MIN_BYTES": 500}
    cache = make_cache(OPTIONS=options)

    def size(value: object) -> int:
        cache.set("key", value)
        assert cache.get("key") == value
        length: int = servers.ask_owner("STRLEN", b":1:key")
        return length

    overhead = len(pickle.dumps("x" * 300, pickle.HIGHEST_PROTOCOL)) - 300
    assert size("x" * (499 - overhead)) == 499
    assert size("x" * (500 - overhead)) < 100
    # What grows by compression is stored as it is.
    noise = bytes((n * n * 7 + n) % 251 ^ (n >> 3) % 256 for n in range(64))
    assert size(noise) == len(pickle.dumps(noise, pickle.HIGHEST_PROTOCOL))


def test_values_under_a_kibibyte_are_not_compressed_by_default(
    nodes: LocalNodes, servers: Servers
) -> None:
    cache = make_cache(OPTIONS={"COMPRESSOR": "zlib", "SERIALIZER": Plain})
    cache.set("key", b"x" * 1023)
    assert servers.ask_owner("STRLEN", b":1:key") == 1023
    cache.set("key", b"x" * 1024)
    assert servers.ask_owner("STRLEN", b":1:key") < 100


def test_compressed_values_are_told_from_plain_ones_by_one_byte(
    nodes: LocalNodes, servers: Servers
) -> None:
    for compressor, code in (("zlib", b"z"), ("zstd", b"s"), ("lz4", b"l")):
        make_cache(OPTIONS={"COMPRESSOR": compressor}).set("key", LONG_TEXT)
        assert servers.ask_owner("GET", b":1:key")[:2] == b"\xc1" + code


@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
def test_a_cache_that_compresses_counts(nodes: LocalNodes, serializer: str) -> None:
    options = {"SERIALIZER": serializer, "COMPRESSOR": "zlib", "COMPRESS_MIN_BYTES": 0}
    cache = make_cache(OPTIONS=options)
    cache.set("n", 41)

    assert cache.incr("n") == 42
    assert cache.get("n") == 42
    cache.set("n", LONG_TEXT)
    with pytest.raises(ValueError, match="not an integer of 64 bits"):
        cache.incr("n")


@for_each("serializer", ["pickle", "json", "msgpack"])
@pytest.mark.parametrize("size", Size)
def test_children_of_int_are_not_taken_for_integers(
    nodes: LocalNodes, serializer: str, size: Size
) -> None:
    nodes.flush()
    cache = make_cache(OPTIONS={"SERIALIZER": serializer})
    cache.set("size", size)
    cache.set_many({"many": size})

    assert cache.get_many(["size", "many"]) == {"size": size, "many": size}
    if serializer == "pickle":
        assert cache.get("size") is size


def test_json_is_readable_by_others(nodes: LocalNodes, servers: Servers) -> None:
    cache = make_cache(OPTIONS={"SERIALIZER": "json"})
    cache.set("key", {"a": [1, "ü"], "day": date(2024, 2, 29), "id": UUID(int=1)})

    assert servers.ask_owner("GET", b":1:key") == (
        b'{"a":[1,"\\u00fc"],"day":"2024-02-29","id":"00000000-0000-0000-0000-000000000001"}'
    )


def test_msgpack_keeps_bytes_and_aware_times(nodes: LocalNodes) -> None:
    cache = make_cache(OPTIONS={"SERIALIZER": "msgpack"})
    value = {"raw": b"\x00\xff", 5: datetime(2024, 2, 29, 12, tzinfo=UTC)}
    cache.set("key", value)

    assert cache.get("key") == value


class Plain:
    """Bytes as they are."""

    def dumps(self, value: Any) -> bytes:
        return bytes(value)

    def loads(self, data: bytes) -> Any:
        return data


PLAIN = Plain()


@for_each(
    ("serializer", "compressor"),
    [
        *((Plain, compressor) for compressor in COMPRESSORS),
        *((named, "zlib") for named in (PLAIN, f"{__name__}.Plain", f"{__name__}.PLAIN")),
    ],
)
def test_a_serializer_of_ones_own_may_write_anything(
    nodes: LocalNodes, serializer: object, compressor: str | None
) -> None:
    nodes.flush()
    options = {"SERIALIZER": serializer, "COMPRESSOR": compressor, "COMPRESS_MIN_BYTES": 0}
    cache = make_cache(OPTIONS=options)
    values = {
        f"key{n}": data
        for n, data in enumerate(
            (
                *(
                    b"",
                    b"5",
                    b"-5",
                    b"-",
                    b"5 ",
                    b" 5",
                    b"+5",
                    b"1_0",
                    b"007",
                    b"5x",
                    b"5" * 5000,
                ),
                *(
                    b"\xc1",
                    b"\xc10",
                    b"\xc1z",
                    b"\xc1zx",
                    b"\xc1\xc1",
                    b"\xc1?",
                    b"\x80",
                    b"\x00",
                ),
            )
        )
    }

    assert cache.set_many(values) == []
    assert cache.get_many(values) == values


@pytest.mark.parametrize("serializer", [PickleSerializer(0), PickleSerializer(2)])
def test_other_protocols_of_pickle(nodes: LocalNodes, serializer: PickleSerializer) -> None:
    cache = make_cache(OPTIONS={"SERIALIZER": serializer})
    values = {f"key{n}": value for n, value in enumerate(COMMON)}
    cache.set_many(values)

    assert cache.get_many(values) == values
    assert make_cache().get_many(values) == values


def test_a_path_may_name_a_class_of_the_package(nodes: LocalNodes, servers: Servers) -> None:
    path = f"{JSONSerializer.__module__}.JSONSerializer"
    make_cache(OPTIONS={"SERIALIZER": path}).set("key", ["a"])

    assert servers.ask_owner("GET", b":1:key") == b'["a"]'


@for_each("data", [b"\xc1?data", b"\xc1", b"\xc1\xc1", b"x", b"-", b"5x"])
def test_bytes_of_a_stranger_are_the_serializers_error(
    cache: RBCache, servers: Servers, data: bytes
) -> None:
    servers.ask(cache.cluster.get_host_for_key(":1:key"), "SET", ":1:key", data)
    with pytest.raises(pickle.UnpicklingError):
        cache.get("key")
    with pytest.raises(pickle.UnpicklingError):
        cache.get_many(["key"])
    cache.set("key", "sound")
    assert cache.get("key") == "sound"
