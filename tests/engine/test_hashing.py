from __future__ import annotations

import binascii
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import DataError, Redis

from django_rb.engine.routing.hashing import (
    KetamaRing,
    Key,
    crc16,
    crc32_signed,
    encode_key,
    hash_tag,
)
from tests.tables import for_each

# The input whose checksum catalogues give for every CRC.
CHECK = b"123456789"


def test_crc32_is_signed_as_in_python_2() -> None:
    assert crc32_signed(b"") == 0
    assert crc32_signed(CHECK) == 0xCBF43926 - 2**32


@given(st.binary())
def test_crc32_signed_has_the_bits_of_crc32(data: bytes) -> None:
    assert crc32_signed(data) & 0xFFFFFFFF == binascii.crc32(data)
    assert -(2**31) <= crc32_signed(data) < 2**31


def test_crc16_is_that_of_redis_cluster() -> None:
    assert crc16(CHECK) == 0x31C3
    # What CLUSTER KEYSLOT answers in its documentation.
    slots = [
        crc16(hash_tag(key)) % 16384 for key in (b"somekey", b"foo{hash_tag}", b"bar{hash_tag}")
    ]
    assert slots == [11058, 2515, 2515]


@for_each(
    ("key", "tag"),
    [
        (b"{user:7}:name", b"user:7"),
        (b"prefix:{user:7}", b"user:7"),
        (b"plain", b"plain"),
        (b"", b""),
        (b"a{}b", b"a{}b"),
        (b"a{}{b}", b"a{}{b}"),
        (b"a{{b}}c", b"{b"),
        (b"a{b}{c}", b"b"),
        (b"a}b{c", b"a}b{c"),
        (b"a}{b}", b"b"),
        (b"{", b"{"),
        (b"{\n}", b"\n"),
    ],
)
def test_hash_tag_follows_redis_cluster(key: bytes, tag: bytes) -> None:
    assert hash_tag(key) == tag


@given(st.text("{}ab", max_size=8).map(str.encode))
def test_hash_tag_is_the_first_filled_braces_after_the_first_brace(key: bytes) -> None:
    found = re.match(rb"[^{]*\{([^}]+)\}", key)
    assert hash_tag(key) == (found[1] if found else key)


REDIS: Any = Redis().get_encoder()

numbers_text_and_bytes = st.one_of(st.binary(), st.text(), st.integers(), st.floats())


@given(numbers_text_and_bytes)
def test_a_key_is_encoded_as_redis_py_encodes_it(key: Key) -> None:
    encoded = encode_key(key)
    assert type(encoded) is bytes
    assert encoded == bytes(REDIS.encode(key))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_keys(kind: Any) -> None:
    assert encode_key(kind(b"key")) == b"key"


@for_each("key", [None, True, False, ["a"], {"a": 1}, object(), 1j])
def test_other_things_are_no_keys_for_redis_py_nor_here(key: Key) -> None:
    with pytest.raises(DataError):
        REDIS.encode(key)
    with pytest.raises(TypeError, match=r"cannot be a key.*str\(value\)") as caught:
        encode_key(key)
    assert type(key).__name__ in str(caught.value)


def test_the_text_of_a_long_wrong_key_is_cut() -> None:
    with pytest.raises(TypeError) as caught:
        encode_key(["x" * 10_000] * 1000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


KEYS = [b"key:%d" % n for n in range(20_000)]


def test_a_ring_of_one_node_has_one_owner() -> None:
    ring = KetamaRing({7: "seven"})
    assert {ring.owner(key) for key in KEYS} == {7}


def test_a_node_that_leaves_a_ring_moves_only_its_own_keys() -> None:
    names = {n: f"10.0.0.{n}:6379" for n in range(8)}
    before = KetamaRing(names)
    after = KetamaRing({n: name for n, name in names.items() if n != 3})
    for key in KEYS:
        if before.owner(key) == 3:
            assert after.owner(key) != 3
        else:
            assert after.owner(key) == before.owner(key)


def test_the_order_of_names_does_not_matter() -> None:
    names = {n: str(n) for n in range(16)}
    one = KetamaRing(names)
    other = KetamaRing(dict(reversed(names.items())))
    assert [one.owner(key) for key in KEYS] == [other.owner(key) for key in KEYS]
