"""The stored form, for any value: no server needed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from django.core.cache.backends.redis import RedisSerializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_rb.cache.codec import Codec
from django_rb.cache.compressors import get_compressor
from django_rb.cache.serializers import get_serializer
from django_rb.cache.signing import Secret, SignedCodec, Signer

pytestmark = pytest.mark.only_sync

quickly = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

COMPRESSORS = [None, "zlib", "zstd", "lz4"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.text(alphabet="0123456789-_ "),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def make_codec(serializer: object, compressor: str | None, min_bytes: int = 0) -> Codec:
    return Codec(
        get_serializer(serializer),
        None if compressor is None else get_compressor(compressor),
        min_bytes,
    )


def sent(encoded: bytes | int) -> bytes:
    """Return what the server stores for what a codec made."""
    return b"%d" % encoded if isinstance(encoded, int) else encoded


class Plain:
    def dumps(self, value: Any) -> bytes:
        return bytes(value)

    def loads(self, data: bytes) -> Any:
        return data


@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
@quickly
@given(value=values)
def test_values_come_back(serializer: str, value: object) -> None:
    codecs = [make_codec(serializer, compressor) for compressor in COMPRESSORS]
    for codec in codecs:
        data = sent(codec.encode(value))
        assert type(codec.decode(data)) is type(value)
        for reader in codecs:
            assert reader.decode(data) == value, (codec, reader)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@quickly
@given(
    data=st.binary()
    | st.binary().map(lambda data: b"\xc1" + data)
    | st.from_regex(rb"\A[-+ ]?[0-9_]{1,30}[ \n]?\Z")
    | st.integers().map(lambda number: b"%d" % number)
    | st.binary(min_size=1, max_size=8).map(lambda data: data * 200)
)
def test_any_bytes_come_back(compressor: str | None, data: bytes) -> None:
    codec = make_codec(Plain, compressor)
    stored = sent(codec.encode(data))

    decoded = codec.decode(stored)
    assert decoded == data
    assert type(decoded) is bytes
    assert make_codec(Plain, None).decode(stored) == data


@quickly
@given(value=values | st.integers() | st.binary() | st.tuples(scalars, scalars))
def test_the_default_is_byte_for_byte_djangos(value: object) -> None:
    codec, django = make_codec("pickle", None), RedisSerializer()

    assert sent(codec.encode(value)) == sent(django.dumps(value))
    assert codec.decode(sent(django.dumps(value))) == value


@quickly
@given(value=st.integers())
def test_integers_stay_integers_whatever_the_form(value: int) -> None:
    for serializer in ("pickle", "json", "msgpack"):
        for compressor in COMPRESSORS:
            assert make_codec(serializer, compressor).encode(value) == b"%d" % value


@quickly
@given(data=st.binary(max_size=4000), min_bytes=st.integers(0, 4000))
def test_nothing_is_stored_longer_than_it_is(data: bytes, min_bytes: int) -> None:
    for compressor in COMPRESSORS:
        stored = sent(make_codec("pickle", compressor, min_bytes).encode(data))
        plain = sent(make_codec("pickle", None).encode(data))
        assert len(stored) <= len(plain)
        if len(plain) < min_bytes:
            assert stored == plain


def test_nan_comes_back() -> None:
    for serializer in ("pickle", "json", "msgpack"):
        codec = make_codec(serializer, None)
        assert math.isnan(codec.decode(sent(codec.encode(math.nan))))


@pytest.mark.parametrize("signed", [False, True])
def test_a_codec_only_adds_what_it_finds(signed: bool) -> None:
    codec: Codec | SignedCodec = make_codec("pickle", None)
    if signed:
        codec = SignedCodec(make_codec("pickle", None), Signer(Secret("x" * 32)))
    keys = [b"a", b"b", b"c"]
    found, bad = {"other": 1, "b": 2}, list[bytes]()
    replies = [codec.encode("value", b"a"), None, codec.encode(3, b"c")]

    assert codec.decode_found(bad, found, ["a", "b", "c"], keys, replies) == 1
    assert found == {"other": 1, "b": 2, "a": "value", "c": 3}
    assert bad == []
