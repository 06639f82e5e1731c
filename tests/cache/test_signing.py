"""Signed values: whoever writes to a node past the site leaves misses, and is logged."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings
from django.views.debug import SafeExceptionReporterFilter
from hypothesis import given, settings
from hypothesis import strategies as st

import django_rb
from django_rb.cache import RBCache
from django_rb.cache.codec import Codec
from django_rb.cache.compressors import get_compressor
from django_rb.cache.serializers import get_serializer
from django_rb.cache.signing import BadSignature, Secret, SignedCodec, Signer
from django_rb.checks.from_settings import check_caches
from django_rb.testing import LocalNodes
from tests.cache.test_stored_form import COMMON, VALUES, Plain
from tests.helpers import Servers, make_cache
from tests.tables import for_each

SECRET = "the secret of the tests, long enough"
OLDER = "what was the secret before that one"
MARK = b"\xc1h"
PACKAGE = str(Path(django_rb.__file__).parent)
FORMS = [
    {"SERIALIZER": serializer, "COMPRESSOR": compressor, "COMPRESS_MIN_BYTES": 0}
    for serializer, compressor in (
        *(("pickle", name) for name in (None, "zlib", "zstd", "lz4")),
        *((name, "zlib") for name in ("json", "msgpack")),
    )
]

marks: list[str] = []


def leave_mark() -> None:
    marks.append("unpickled")


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return leave_mark, ()


PAYLOAD = pickle.dumps(Payload(), pickle.HIGHEST_PROTOCOL)


@pytest.fixture(autouse=True)
def no_mark() -> Iterator[None]:
    marks.clear()
    yield
    assert marks == []


@pytest.fixture
def cache(nodes: LocalNodes) -> RBCache:
    return signed_cache()


def signed_cache(key: str | bytes = SECRET, *fallbacks: str | bytes, **options: Any) -> RBCache:
    signing = {"SIGNING_KEY": key, "SIGNING_KEY_FALLBACKS": list(fallbacks)}
    return make_cache(OPTIONS={**signing, **options})


def make_codec(
    secret: str | bytes = SECRET, serializer: object = "pickle", compressor: str | None = None
) -> SignedCodec:
    chosen = None if compressor is None else get_compressor(compressor)
    return SignedCodec(Codec(get_serializer(serializer), chosen), Signer(Secret(secret)))


class Log:
    """What the logger of the cache said since it was asked last."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def lines(self) -> list[str]:
        records = [
            record for record in self._caplog.records if record.name == "django_rb.cache"
        ]
        self._caplog.clear()
        assert {record.levelno for record in records} <= {logging.WARNING}
        return [record.getMessage() for record in records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def raw(servers: Servers, key: str) -> bytes:
    """Return what is stored."""
    data: bytes = servers.ask_owner("GET", key.encode())
    return data


def forge(servers: Servers, cache: RBCache, key: str, data: bytes) -> None:
    """Store something past the cache, where the cache looks for it."""
    servers.ask(cache.cluster.get_host_for_key(key), "SET", key, data)


# The stored form.


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """RFC 2104, word for word."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + text).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def test_the_stored_form_is_the_documented_one(cache: RBCache, servers: Servers) -> None:
    signed_cache(SERIALIZER="json").set("key", "value")
    extracted = hmac_sha256(b"", SECRET.encode())
    derived = hmac_sha256(extracted, b"django_rb.cache.signing.1\x01")
    mac = hmac_sha256(derived, b"\0\0\0\x06:1:key" + b'"value"')

    assert raw(servers, ":1:key") == MARK + mac + b'"value"'
    # What sites have stored stays readable: a change here is a miss for every value.
    assert mac.hex() == "5c72d61b43904b9e02b0f6cd27247db70e43d27efc9a422395586c5b6f325e8d"


def test_a_key_of_bytes_is_the_same_as_its_text(cache: RBCache) -> None:
    cache.set("key", "value")
    assert signed_cache(SECRET.encode()).get("key") == "value"
    assert signed_cache(os.urandom(32)).get("key") is None


def test_a_longer_key_with_the_same_beginning_is_another(cache: RBCache) -> None:
    """HMAC itself pads its keys with zeros, and hashes long ones."""
    for key, other in (
        (b"k" * 32, b"k" * 32 + b"\0"),
        (b"k" * 100, hashlib.sha256(b"k" * 100).digest()),
        ("k" * 32 + "\ud800", "k" * 32 + "?"),
    ):
        signed_cache(key).set("key", "value")
        assert signed_cache(key).get("key") == "value"
        assert signed_cache(other).get("key") is None


@for_each("options", FORMS)
def test_values_come_back_in_every_form(
    nodes: LocalNodes, servers: Servers, log: Log, options: dict[str, Any]
) -> None:
    nodes.flush()
    cache = signed_cache(**options)
    everything = [*COMMON, *(VALUES if options["SERIALIZER"] == "pickle" else ())]
    values = {f"key{n}": value for n, value in enumerate(everything)}

    assert cache.set_many(values) == []
    assert cache.get_many(values) == values
    for name, value in values.items():
        cache.set("single", value)
        assert cache.get("single") == cache.get(name) == value
        assert type(cache.get("single")) is type(value)
        data = raw(servers, ":1:single")
        is_counted = type(value) is int and value.bit_length() <= 2048
        assert data == b"%d" % value if is_counted else data.startswith(MARK)
    assert log.lines() == []


@pytest.mark.parametrize("compressor", [None, "zlib"])
def test_a_serializer_of_ones_own_may_write_anything(
    nodes: LocalNodes, log: Log, compressor: str | None
) -> None:
    cache = signed_cache(SERIALIZER=Plain, COMPRESSOR=compressor, COMPRESS_MIN_BYTES=0)
    texts = (b"", b"5", b"-5", b"5\n", b"1_0", b"5" * 617, b"5" * 618, b"5" * 5000, b"\xc1")
    frames = (b"\xc10", b"\xc1z", MARK, MARK + bytes(32), MARK + bytes(40))
    values = {f"key{n}": data for n, data in enumerate((*texts, *frames))}

    assert cache.set_many(values) == []
    assert cache.get_many(values) == values
    assert log.lines() == []


def test_batches_far_larger_than_a_buffer(cache: RBCache, log: Log) -> None:
    values: dict[str, Any] = {f"key{n}": os.urandom(100) for n in range(10_000)}
    values |= {f"large{n}": os.urandom(300_000) for n in range(8)}

    assert cache.set_many(values) == []
    assert cache.get_many(values) == values
    assert log.lines() == []


# What was not written with the key.

READERS = {"the short way": {}, "as a batch": {"DEADLINE": 60}}


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_no_byte_can_be_changed(
    nodes: LocalNodes, servers: Servers, log: Log, options: dict[str, Any]
) -> None:
    cache = signed_cache(COMPRESSOR="zlib", COMPRESS_MIN_BYTES=0, **options)
    cache.set("key", "value " * 5)
    stored = raw(servers, ":1:key")
    assert stored[34:36] == b"\xc1z"

    for position, byte in enumerate(stored):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytes((byte ^ flip,))
            forge(
                servers, cache, ":1:key", stored[:position] + changed + stored[position + 1 :]
            )
            assert cache.get("key", "default") == "default"
            (line,) = log.lines()
        assert cache.get_many(["key"]) == {}
        assert log.lines() == [line]
    forge(servers, cache, ":1:key", stored)
    assert cache.get("key") == "value " * 5
    assert log.lines() == []


def test_nothing_can_be_cut_off_or_added(cache: RBCache, servers: Servers, log: Log) -> None:
    cache.set("key", "value")
    stored = raw(servers, ":1:key")
    pieces = [stored[:size] for size in range(len(stored))]
    for data in (*pieces, stored[34:], stored + b"\0", b"\0" + stored, stored[:34] + stored):
        forge(servers, cache, ":1:key", data)
        assert cache.get("key") is None
        assert len(log.lines()) == 1


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_a_value_counts_only_under_its_own_key(
    nodes: LocalNodes, servers: Servers, log: Log, options: dict[str, Any]
) -> None:
    cache = signed_cache(**options)
    cache.set_many({"ann": "is a user", "root": "is an admin"})
    cache.set("ann", "of another version", version=2)
    for place, other in (("ann", ":1:root"), ("ann", ":2:ann"), ("root", ":1:ann")):
        forge(servers, cache, f":1:{place}", raw(servers, other))
        assert cache.get(place) is None
        assert len(log.lines()) == 1


@pytest.mark.only_sync
def test_nothing_can_be_shifted_between_key_and_value() -> None:
    codec = make_codec(serializer=Plain)
    stored = codec.encode(b"bcd", b"a")
    for key, data in ((b"ab", b"cd"), (b"abcd", b""), (b"", b"abcd")):
        with pytest.raises(BadSignature):
            codec.decode(stored[:34] + data, key)


def test_the_prefix_is_part_of_the_key(cache: RBCache, servers: Servers) -> None:
    options = {"SIGNING_KEY": SECRET}
    shop, blog = (make_cache(KEY_PREFIX=name, OPTIONS=options) for name in ("shop", "blog"))
    shop.set("key", "value")
    forge(servers, blog, "blog:1:key", raw(servers, "shop:1:key"))
    assert (shop.get("key"), blog.get("key")) == ("value", None)


FORGED = {
    "a pickle": PAYLOAD,
    "a compressed pickle": b"\xc1z" + zlib.compress(PAYLOAD),
    "a framed pickle": b"\xc10" + PAYLOAD,
    "a pickle with a MAC of zeros": MARK + bytes(32) + PAYLOAD,
    "a pickle with less than a MAC": MARK + PAYLOAD[:20],
    "nothing": b"",
    "a frame": b"\xc1",
    "a mark": MARK,
    "text": b"text",
    "too many digits": b"5" * 618,
    "digits and a line break": b"5\n",
    "a sign": b"-",
}


@for_each("name", FORGED)
def test_what_was_forged_is_a_miss_and_runs_nothing(
    cache: RBCache,
    servers: Servers,
    log: Log,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zlib, "decompress", None)
    forge(servers, cache, ":1:key", FORGED[name])
    cache.set_many({"sound": "value", "n": 5})

    assert cache.get("key", "default") == "default"
    assert cache.get_many(["sound", "key", "none", "n"]) == {"sound": "value", "n": 5}
    with pytest.raises(ValueError, match="Key 'key' not found"):
        cache.incr_version("key")
    (line,) = set(log.lines())
    host_id = cache.cluster.get_host_for_key(":1:key")
    assert line == (
        f"Cache miss on node {host_id}, cluster default, for 1 keys: no valid signature. "
        "The first is ':1:key'."
    )


def test_the_payload_of_these_tests_does_run_where_nothing_is_signed(
    cache: RBCache, servers: Servers
) -> None:
    forge(servers, cache, ":1:key", PAYLOAD)
    make_cache().get("key")
    assert marks == ["unpickled"]
    marks.clear()


quickly = settings(max_examples=300, deadline=None, database=None)
prefixes = st.sampled_from([b"", b"\xc1", b"\xc10", b"\xc1z", MARK, MARK + bytes(32)])
stored_bytes = st.builds(
    lambda prefix, data: prefix + data,
    prefixes,
    st.binary(max_size=80)
    | st.just(PAYLOAD)
    | st.just(zlib.compress(PAYLOAD))
    | st.from_regex(rb"\A[-+ ]?[0-9_]{1,30}[ \n]?\Z"),
)


@pytest.mark.only_sync
@quickly
@given(data=stored_bytes, key=st.binary(max_size=20))
def test_bytes_of_a_stranger_are_an_integer_or_bad(data: bytes, key: bytes) -> None:
    codec, bad = make_codec(), list[bytes]()
    try:
        value = codec.decode(data, key)
    except BadSignature:
        value = None
    else:
        assert type(value) is int
        assert data.lstrip(b"-").isdigit()
    found = dict[str, object]()
    assert codec.decode_found(bad, found, ["name"], [key], [data]) == len(bad)
    assert (bad == [key]) == (value is None)
    assert found == ({} if bad else {"name": value})
    assert marks == []


@pytest.mark.only_sync
@quickly
@given(
    value=st.text() | st.binary() | st.integers(),
    key=st.binary(max_size=40),
    data=st.data(),
    compressor=st.sampled_from([None, "zlib", "zstd", "lz4"]),
)
def test_no_change_to_any_value_goes_unseen(
    value: object, key: bytes, data: st.DataObject, compressor: str | None
) -> None:
    codec = make_codec(compressor=compressor)
    stored = codec.encode(value, key)
    assert codec.decode(stored, key) == value
    if type(value) is int:
        assert stored == b"%d" % value
        return
    other = data.draw(st.binary(max_size=40).filter(lambda other: other != key))
    position = data.draw(st.integers(0, len(stored) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(stored)
    changed[position] ^= flip
    for forged, place in ((stored, other), (bytes(changed), key)):
        with pytest.raises(BadSignature):
            codec.decode(forged, place)


def test_what_the_site_signed_and_cannot_read_is_an_error_as_ever(
    cache: RBCache, servers: Servers
) -> None:
    signed_cache(SERIALIZER=Plain).set("key", b"no pickle")
    with pytest.raises(pickle.UnpicklingError):
        cache.get("key")
    with pytest.raises(pickle.UnpicklingError):
        cache.get_many(["key"])


def test_a_list_under_a_key_is_an_error_as_ever(cache: RBCache, servers: Servers) -> None:
    servers.ask(cache.cluster.get_host_for_key(":1:key"), "RPUSH", ":1:key", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.get("key")
    assert cache.get_many(["key"]) == {}


# The log.


def test_one_call_is_one_line(cache: RBCache, servers: Servers, log: Log) -> None:
    names = [f"key{n}" for n in range(200)]
    cache.set_many(dict.fromkeys(names, "value"))
    bad = names[50:150]
    for name in bad:
        forge(servers, cache, f":1:{name}", PAYLOAD)
    assert list(cache.get_many(names)) == [name for name in names if name not in bad]
    (line,) = log.lines()
    assert line.startswith("Cache miss on node 0, 1, 2, 3, cluster default, for 100 keys: ")
    assert any(line.endswith(f"The first is ':1:{name}'.") for name in bad)


@for_each(
    ("key", "shown"),
    [
        (
            "django.contrib.sessions.cache" + "q1w2e3r4t5y6u7i8" * 2,
            "':1:django.contrib.sessions.cacheq…'",
        ),
        ("user:5f0c8a52-7d0e-4b8e-9d43-1d5c2f6f7a10:name", "':1:user:5f0c8a…:name'"),
        (f"{'x' * 23}:{'Y' * 24}", f"':1:{'x' * 23}:YYYYYY…'"),
        ("line\u2028break", r"':1:line\u2028break'"),
        ("x." * 500, "':1:" + ("x." * 500)[:197] + "'"),
    ],
)
@pytest.mark.filterwarnings("ignore::django.core.cache.backends.base.CacheKeyWarning")
def test_a_line_shows_no_value_and_no_sessions_key(
    cache: RBCache, servers: Servers, log: Log, key: str, shown: str
) -> None:
    forge(servers, cache, f":1:{key}", b"the value")
    assert cache.get(key) is None
    (line,) = log.lines()
    assert line.endswith(f"The first is {shown}.")
    assert "the value" not in line


@pytest.mark.static
def test_a_failing_node_does_not_hide_bad_signatures(
    nodes: LocalNodes, servers: Servers, log: Log
) -> None:
    """A node whose values are fine fails while another's are forged."""
    cache = signed_cache()
    forge(servers, cache, ":1:key", PAYLOAD)
    host_id = cache.cluster.get_host_for_key(":1:key")
    other = next(
        f"key{n}" for n in range(100) if cache.cluster.get_host_for_key(f":1:key{n}") != host_id
    )
    hosts = {**nodes.hosts, cache.cluster.get_host_for_key(f":1:{other}"): {"port": 1}}
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
        with pytest.raises(redis.ConnectionError):
            signed_cache().get_many(["key", other])
        assert len(log.lines()) == 1
        assert signed_cache(ON_NODE_ERROR="miss").get_many(["key", other]) == {}
        assert len(log.lines()) == 1
        assert signed_cache(ON_NODE_ERROR="miss").get_or_set(other, "default") == "default"


# Integers.


def test_integers_are_counted_by_the_server(cache: RBCache, servers: Servers, log: Log) -> None:
    cache.set("n", 41)
    assert raw(servers, ":1:n") == b"41"
    assert [cache.incr("n"), cache.decr("n", 50), cache.get("n")] == [42, -8, -8]
    assert cache.get_many(["n"]) == {"n": -8}
    # Whoever can write can do so, too: docs/cache.md says it.
    forge(servers, cache, ":1:n", b"1000")
    assert cache.get("n") == 1000
    assert log.lines() == []


def test_other_values_are_not_counted(cache: RBCache, servers: Servers) -> None:
    cache.set_many({"text": "5", "true": True, "huge": 2**64})
    for name in ("text", "true", "huge"):
        with pytest.raises(ValueError, match="not an integer of 64 bits"):
            cache.incr(name)
    with pytest.raises(ValueError, match="not found"):
        cache.incr("none")


def test_the_longest_integers(cache: RBCache, servers: Servers) -> None:
    for value in (2**2048 - 1, -(2**2048) + 1, 2**2048, -(2**2048), 10**5000):
        cache.set("n", value)
        assert raw(servers, ":1:n").startswith(MARK) == (value.bit_length() > 2048)
        assert cache.get("n") == value


# Rotation, and switching on and off.


def test_keys_rotate(nodes: LocalNodes, log: Log) -> None:
    before, between = signed_cache(OLDER), signed_cache(SECRET, "some other key of ours", OLDER)
    after = signed_cache(SECRET)
    before.set_many({"a": "one", "b": "two"})

    assert between.get_many("ab") == {"a": "one", "b": "two"}
    assert between.get("a") == "one"
    assert log.lines() == []
    between.set("b", "new")
    assert before.get("b") is None
    assert after.get_many("ab") == {"b": "new"}
    assert after.get("a") is None
    assert len(log.lines()) == 3
    assert signed_cache(OLDER, SECRET).get_many("ab") == {"a": "one", "b": "new"}


def test_moving_a_value_signs_it_with_the_key_of_today(nodes: LocalNodes) -> None:
    signed_cache(OLDER).set("key", "value")
    assert signed_cache(SECRET, OLDER).incr_version("key") == 2
    assert signed_cache(SECRET).get("key", version=2) == "value"
    assert signed_cache(OLDER).get("key", version=2) is None


def test_switching_on_makes_misses(nodes: LocalNodes, log: Log) -> None:
    values = {"text": "value", "n": 5, "packed": "x" * 2000}
    make_cache(OPTIONS={"COMPRESSOR": "zlib"}).set_many(values)
    assert signed_cache().get_many(values) == {"n": 5}
    assert len(log.lines()) == 1


@for_each("options", FORMS)
def test_switching_off_keeps_the_values(
    nodes: LocalNodes, log: Log, options: dict[str, Any]
) -> None:
    nodes.flush()
    values = {f"key{n}": value for n, value in enumerate(COMMON)}
    signed_cache(**options).set_many(values)
    unsigned = make_cache(OPTIONS={"SERIALIZER": options["SERIALIZER"]})
    assert unsigned.get_many(values) == values
    assert [unsigned.get(name) for name in values] == list(values.values())
    assert log.lines() == []


def test_an_unsigned_cache_reads_any_value_that_is_signed(nodes: LocalNodes) -> None:
    data = (b"", b"5", b"\xc1", b"\xc10", b"\xc1z", MARK, MARK + bytes(50))
    values = {f"key{n}": value for n, value in enumerate(data)}
    signed_cache(SERIALIZER=Plain).set_many(values)
    assert make_cache(OPTIONS={"SERIALIZER": Plain}).get_many(values) == values


def test_frames_in_frames_are_no_way_to_exhaust_the_stack(
    cache: RBCache, servers: Servers
) -> None:
    forge(servers, cache, ":1:key", (MARK + bytes(32)) * 10_000)
    with pytest.raises(pickle.UnpicklingError):
        make_cache().get("key")
    assert cache.get("key") is None
    forge(servers, cache, ":1:key", MARK + bytes(32) + b"\xc1")
    with pytest.raises(pickle.UnpicklingError):
        make_cache().get("key")


@pytest.mark.static
def test_what_djangos_own_cache_wrote_is_a_miss(
    nodes: LocalNodes, servers: Servers, log: Log
) -> None:
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": [nodes.hosts[0]]}}):
        cache = signed_cache()
        django = RedisCache(nodes.urls[0], {})
        try:
            django.set_many({"text": "value", "n": 5})
            assert cache.get_many(["text", "n"]) == {"n": 5}
            assert cache.get("text") is None
            assert len(log.lines()) == 2
        finally:
            django._cache.get_client(None, write=True).connection_pool.disconnect()


# What the other methods make of a bad signature.


@pytest.fixture
def forged(cache: RBCache, servers: Servers) -> RBCache:
    """A cache with a forged value under "key"."""
    forge(servers, cache, ":1:key", PAYLOAD)
    return cache


def test_add_and_others_look_at_the_key_alone(
    forged: RBCache, servers: Servers, log: Log
) -> None:
    assert forged.add("key", "value") is False
    assert raw(servers, ":1:key") == PAYLOAD
    assert forged.has_key("key")
    assert "key" in forged
    assert forged.touch("key", 100)
    assert forged.ttl("key") in {99, 100}
    assert forged.keys() == ["key"]
    assert log.lines() == []
    assert forged.delete("key")
    assert forged.add("key", "value") is True
    assert forged.get("key") == "value"


def test_get_or_set_replaces_it(forged: RBCache, servers: Servers, log: Log) -> None:
    calls: list[str] = []

    def default() -> tuple[str]:
        calls.append("called")
        return ("value",)

    assert forged.get_or_set("key", default, 100) == ("value",)
    assert len(log.lines()) == 1
    assert forged.ttl("key") in {99, 100}
    assert forged.get_or_set("key", default) == forged.get("key") == ("value",)
    assert calls == ["called"]
    assert log.lines() == []


def test_aget_or_set_replaces_it(forged: RBCache, log: Log) -> None:
    aget_or_set = async_to_sync(forged.aget_or_set)
    assert aget_or_set("key", lambda: "value", 100) == "value"
    assert len(log.lines()) == 1
    assert forged.ttl("key") in {99, 100}
    assert aget_or_set("key", lambda: "other") == "value"
    assert aget_or_set("key2", None) is None
    assert aget_or_set("key2", "other") is None
    assert log.lines() == []


def test_get_or_set_without_a_value_is_djangos(cache: RBCache, log: Log) -> None:
    assert cache.get_or_set("key", "value", version=2) == "value"
    assert cache.get("key") is None
    assert cache.get_or_set("key", "other", version=2) == "value"
    assert cache.get_or_set("none", None) is None
    assert cache.get_or_set("none", "other") is None
    assert cache.get_or_set("gone", "value", 0) == "value"
    assert cache.get("gone") is None
    assert log.lines() == []


@pytest.mark.only_sync
def test_get_or_set_takes_what_another_has_stored_meanwhile(forged: RBCache) -> None:
    def default() -> str:
        signed_cache().set("key", "of another")
        return "of this one"

    assert forged.get_or_set("key", default) == "of another"
    assert async_to_sync(forged.aget_or_set)("key", default) == "of another"


def test_get_or_set_reads_what_it_stored(nodes: LocalNodes) -> None:
    cache = signed_cache(SERIALIZER="json")
    assert cache.get_or_set("key", (1, 2)) == [1, 2]


def test_incr_version_signs_for_the_new_key(cache: RBCache, servers: Servers, log: Log) -> None:
    cache.set_many({"key": "value", "n": 5}, 100)
    for delta, version in ((1, 2), (0, 2), (3, 5)):
        current = version - delta
        assert cache.incr_version("key", delta, version=current) == version
        assert cache.get("key", version=version) == "value"
    assert cache.decr_version("key", 4, version=5) == 1
    assert cache.get("key") == "value"
    assert cache.ttl("key") in {99, 100}
    assert cache.incr_version("n") == 2
    assert cache.get("n", version=2) == 5
    assert log.lines() == []


@pytest.mark.parametrize("delta", [0, 1])
def test_incr_version_moves_nothing_forged(
    forged: RBCache, servers: Servers, log: Log, delta: int
) -> None:
    with pytest.raises(ValueError, match="Key 'key' not found"):
        forged.incr_version("key", delta)
    assert raw(servers, ":1:key") == PAYLOAD
    assert sum(map(len, servers.keys().values())) == 1
    assert len(log.lines()) == 1


def test_sessions_and_cached_pages_are_signed(
    nodes: LocalNodes, servers: Servers, log: Log
) -> None:
    config = {"BACKEND": "django_rb.cache.RBCache", "OPTIONS": {"SIGNING_KEY": SECRET}}
    with override_settings(
        CACHES={"default": config},
        ROOT_URLCONF="tests.test_sessions_and_views",
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
    ):
        client = Client()
        assert [client.get("/visits/").content for _ in range(3)] == [b"1", b"2", b"3"]
        page = client.get("/page/").content
        assert client.get("/page/").content == page
        stored = [
            (key.decode(), raw(servers, key.decode()))
            for keys in servers.keys().values()
            for key in keys
        ]
        assert len(stored) == 3
        assert all(data.startswith(MARK) for _, data in stored)
        assert log.lines() == []

        cache = caches["default"]
        assert isinstance(cache, RBCache)
        for key, _ in stored:
            forge(servers, cache, key, PAYLOAD)
        assert client.get("/visits/").content == b"1"
        assert client.get("/page/").content != page
        assert len(log.lines()) >= 2


# Mistakes in the settings, and secrets.

SHORT = "hunter2"
WAY_OUT = "secrets.token_urlsafe(32)"


@for_each(
    ("options", "parts"),
    [
        ({"SIGNING_KEY": ""}, ["'SIGNING_KEY'", "is empty", WAY_OUT]),
        ({"SIGNING_KEY": b""}, ["'SIGNING_KEY'", "is empty", WAY_OUT]),
        ({"SIGNING_KEY": None}, ["'SIGNING_KEY'", "is None", "Leave the option out"]),
        ({"SIGNING_KEY": SHORT}, ["'SIGNING_KEY'", "fewer than 16 bytes", WAY_OUT]),
        ({"SIGNING_KEY": "x" * 15}, ["'SIGNING_KEY'", "fewer than 16 bytes"]),
        ({"SIGNING_KEY": 5 * 10**20}, ["'SIGNING_KEY'", "is a int", "str or bytes"]),
        ({"SIGNING_KEY": [SECRET]}, ["'SIGNING_KEY'", "is a list", "str or bytes"]),
        ({"SIGNING_KEY": bytearray(32)}, ["'SIGNING_KEY'", "is a bytearray"]),
        ({"SIGNING_KEYS": [SECRET]}, ["'SIGNING_KEYS'", "Did you mean 'SIGNING_KEY'?"]),
        ({"SIGNING_KEY_FALLBACKS": [OLDER]}, ["FALLBACKS'", "set without SIGNING_KEY"]),
        *(
            ({"SIGNING_KEY": SECRET, "SIGNING_KEY_FALLBACKS": fallbacks}, parts)
            for fallbacks, parts in (
                (OLDER, ["FALLBACKS'", "a single str", "into a list"]),
                (OLDER.encode(), ["FALLBACKS'", "a single bytes", "into a list"]),
                (None, ["FALLBACKS'", "is a NoneType, not a list of older keys"]),
                ({OLDER: 1}, ["FALLBACKS'", "is a dict, not a list of older keys"]),
                ([OLDER, SHORT], ["FALLBACKS'][1]", "fewer than 16 bytes"]),
                ([""], ["FALLBACKS'][0]", "is empty"]),
                ([None], ["FALLBACKS'][0]", "is None"]),
                ([[OLDER]], ["FALLBACKS'][0]", "is a list"]),
            )
        ),
    ],
)
def test_a_mistake_is_explained_and_shows_no_secret(
    nodes: LocalNodes, options: dict[str, Any], parts: list[str]
) -> None:
    cache = make_cache(OPTIONS=options)
    uses: list[Callable[[], object]] = [cache.check_settings, lambda: cache.get("key")]
    for use in uses:
        with pytest.raises(ImproperlyConfigured) as caught:
            use()
        for part in parts:
            assert part in str(caught.value)
        assert_no_secret(caught.value)
    config = {"BACKEND": "django_rb.cache.RBCache", "OPTIONS": options}
    with override_settings(CACHES={"default": config}):
        (message,) = check_caches()
        assert message.id == "django_rb.E002"
        assert not any(secret in str(message) for secret in (SECRET, OLDER, SHORT))


@for_each("fallbacks", [(), [], (OLDER,), [OLDER.encode(), SECRET]])
def test_what_is_sound_is_taken(fallbacks: Any) -> None:
    options = {"SIGNING_KEY": "x" * 16, "SIGNING_KEY_FALLBACKS": fallbacks}
    make_cache(OPTIONS=options).check_settings()
    make_cache(OPTIONS={"SIGNING_KEY_FALLBACKS": []}).check_settings()


def assert_no_secret(error: BaseException) -> None:
    """Look at what tools show that show variables, such as Django's debug page."""
    seen: BaseException | None = error
    shown: list[str] = []
    while seen is not None:
        told = traceback.TracebackException.from_exception(seen, capture_locals=True)
        ours = [frame for frame in told.stack if frame.filename.startswith(PACKAGE)]
        shown += [str(frame.locals) for frame in ours]
        shown += told.format_exception_only()
        seen = seen.__cause__ or seen.__context__
    assert len(shown) > 1
    for secret in (SECRET, OLDER, SHORT):
        assert secret not in "".join(shown)


class Tattler:
    """A serializer that fails on whatever it is given."""

    def dumps(self, value: Any) -> bytes:
        raise TypeError("cannot write")

    def loads(self, data: bytes) -> Any:
        raise TypeError("cannot read")


def test_errors_at_run_time_show_no_secret(cache: RBCache, servers: Servers) -> None:
    cache.set("key", "value")
    broken = signed_cache(SECRET, OLDER, SERIALIZER=Tattler, DEADLINE=60)
    uses: list[Callable[[], object]] = [
        lambda: broken.get("key"),
        lambda: broken.get_many(["key"]),
        lambda: broken.set("key", "value"),
        lambda: broken.set_many({"key": "value"}),
        lambda: broken.get_or_set("other", "value"),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="cannot") as caught:
            use()
        assert_no_secret(caught.value)
    for mistaken in ({"SERIALIZER": "no.such"}, {"DEADLINE": -1}, {"COMPRESSOR": "no"}):
        with pytest.raises(ImproperlyConfigured) as wrong:
            signed_cache(SECRET, OLDER, **mistaken).get("key")
        assert_no_secret(wrong.value)


def test_no_repr_shows_a_secret(cache: RBCache) -> None:
    cache = signed_cache(SECRET, OLDER)
    cache.get("key")
    for thing in (cache, cache._options, cache._settings, cache._ops, cache._settings.codec):
        assert SECRET not in f"{thing!r} {thing}"
        assert OLDER not in f"{thing!r} {thing}"
    config = {"OPTIONS": {"SIGNING_KEY": SECRET, "SIGNING_KEY_FALLBACKS": [OLDER]}}
    with override_settings(CACHES={"default": config}):
        shown = str(SafeExceptionReporterFilter().get_safe_settings()["CACHES"])
    assert "SIGNING_KEY" in shown
    assert SECRET not in shown
    assert OLDER not in shown
