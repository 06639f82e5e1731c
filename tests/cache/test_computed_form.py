"""How computed values are stored, and who reads them."""

from __future__ import annotations

import json
import pickle
import zlib
from time import monotonic
from typing import Any

import pytest
from django.core.cache.backends.redis import RedisCache

from django_rb.cache import RBCache
from django_rb.cache.companions import lease_of
from django_rb.cache.leases import take
from django_rb.cache.tails import SIZE, read_tail
from django_rb.engine import Cluster, ConsistentHashingRouter, PartitionRouter, SlotRouter
from django_rb.engine.routing.hashing import crc16, hash_tag
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache, wait_until
from tests.tables import for_each

KEY, STORED = "report", b":1:report"
VALUES = [None, 42, True, "text", [1, 2], {"a": {"b": None}}, "long " * 1000, 0.5]
SIGNED = {"SIGNING_KEY": "a key of the tests' own"}

FORMS = [
    {},
    SIGNED,
    {"SERIALIZER": "json"},
    {"SERIALIZER": "msgpack"},
    {"SERIALIZER": "json", **SIGNED},
    {"COMPRESSOR": "zlib"},
    {"COMPRESSOR": "zstd"},
    {"COMPRESSOR": "lz4"},
    {"COMPRESSOR": "zlib", **SIGNED},
    {"SERIALIZER": "json", "COMPRESSOR": "zstd"},
]


def fail() -> Any:
    raise AssertionError("It is there.")


def compute(cache: RBCache, value: Any, key: str = KEY, timeout: float | None = 60) -> Any:
    return cache.get_or_set(key, lambda: value, timeout, stale=60, lock=5)


@for_each("options", FORMS)
def test_every_form_is_read_back(
    nodes: LocalNodes, servers: Servers, options: dict[str, Any]
) -> None:
    nodes.flush()
    cache = make_cache(OPTIONS=options)
    for number, value in enumerate(VALUES):
        assert compute(cache, value, f"k{number}") == value
        assert cache.get(f"k{number}") == value
        assert cache.get_or_set(f"k{number}", fail, 60, stale=60) == value
        assert read_tail(servers.ask_owner("GET", f":1:k{number}".encode()))
    values = {f"k{number}": value for number, value in enumerate(VALUES)}
    assert cache.get_many(values) == values
    assert cache.incr_version("k3") == 2
    assert cache.get("k3", version=2) == "text"
    assert cache.get_or_set("k3", fail, 60, version=2, stale=60) == "text"
    assert cache.ttl("k3", version=2) in {59, 60}


@pytest.mark.only_sync
def test_djangos_own_backend_reads_the_values(open_nodes: LocalNodes, settings: Any) -> None:
    settings.RB_CLUSTERS = {"default": {"HOSTS": {0: open_nodes.hosts[0]}}}
    host = open_nodes.hosts[0]
    theirs = RedisCache(f"redis://{host['host']}:{host['port']}", {})
    ours = make_cache()
    for value in VALUES:
        ours.delete(KEY)
        assert compute(ours, value) == value
        assert theirs.get(KEY, "a miss") == value
        assert theirs.get_or_set(KEY, fail) == value
    assert theirs.touch(KEY, 30)
    assert ours.get_or_set(KEY, fail, 60, stale=60) == VALUES[-1]
    assert 29 <= (ours.ttl(KEY) or 0) <= 30
    theirs.set(KEY, "theirs", 60)
    assert ours.get_or_set(KEY, fail, 60, stale=60) == "theirs"


def test_what_follows_a_value_is_ignored_by_who_does_not_know_it(
    nodes: LocalNodes, servers: Servers
) -> None:
    compute(make_cache(), [1, 2])
    assert pickle.loads(servers.ask_owner("GET", STORED)) == [1, 2]
    compute(make_cache(OPTIONS={"SERIALIZER": "json"}), [1, 2], "json")
    # Every reader of this package takes 0xC1 and "z" for what zlib has compressed.
    data = servers.ask_owner("GET", b":1:json")
    assert data[:2] == b"\xc1z"
    assert json.loads(zlib.decompress(data[2:])) == [1, 2]


def test_a_bad_signature_is_computed_anew(nodes: LocalNodes, servers: Servers) -> None:
    unsigned, signed = make_cache(), make_cache(OPTIONS=SIGNED)
    compute(unsigned, "forged")
    assert compute(signed, "signed") == "signed"
    assert signed.get(KEY) == "signed"
    data = servers.ask_owner("GET", STORED)
    # A tail of the year 33658: it must not keep others from storing.
    forged = data[: -SIZE - 1] + b"x" + b"\x42\x8c\x6b\xf5\x26\x34\x00\x00" * 4 + data[-8:]
    servers.ask_owner("SET", STORED, forged)
    assert signed.get(KEY) is None
    assert compute(signed, "again") == "again"
    assert signed.get(KEY) == "again"


def test_an_unsigned_reader_reads_signed_values(nodes: LocalNodes) -> None:
    compute(make_cache(OPTIONS=SIGNED), ["signed"])
    assert make_cache().get(KEY) == ["signed"]
    assert make_cache().get_or_set(KEY, fail, 60, stale=60) == ["signed"]


# The expiry.


def test_a_new_timeout_is_that_in_which_the_value_is_fresh(
    cache: RBCache, servers: Servers
) -> None:
    compute(cache, 1)
    assert cache.ttl(KEY) == 60
    with servers.expiring(STORED, 160_000):
        assert cache.touch(KEY, 100)
    assert cache.ttl(KEY) == 100
    began = monotonic()
    with servers.expiring(STORED, 65_000):
        assert cache.pexpire(KEY, 5000)
    left = cache.pttl(KEY) or 0
    assert 4999 - (monotonic() - began) * 1000 <= left <= 5000
    assert cache.persist(KEY)
    assert (cache.ttl(KEY), servers.ask_owner("TTL", STORED)) == (None, -1)
    assert not cache.persist(KEY)
    assert cache.touch(KEY, 0.02)
    wait_until(lambda: cache.pttl(KEY) == 0)
    assert cache.get(KEY) == 1  # to who knows nothing of it
    assert compute(cache, 2) == 2
    assert cache.touch(KEY, None)
    assert cache.ttl(KEY) is None
    assert cache.expire_at(KEY, 1)
    assert not cache.has_key(KEY)


def test_a_stale_value_that_is_touched_is_fresh_again(cache: RBCache) -> None:
    compute(cache, "old", timeout=0.02)
    wait_until(lambda: cache.pttl(KEY) == 0)
    assert cache.touch(KEY, 60)
    assert compute(cache, "new") == "old"


def test_a_computed_integer_can_be_counted_with(cache: RBCache, servers: Servers) -> None:
    compute(cache, 41)
    assert cache.incr(KEY) == 42
    assert servers.ask_owner("GET", STORED) == b"42"
    assert cache.ttl(KEY) in {59, 60}
    assert 50_000 < servers.ask_owner("PTTL", STORED) <= 60_000
    compute(cache, "text", "other")
    with pytest.raises(ValueError, match="not an integer"):
        cache.incr("other")
    compute(cache, 7, "third", None)
    assert cache.incr("third", 3, ignore_key_check=True) == 10
    assert cache.ttl("third") is None


# Leases.

KEYS = [
    b":1:plain", b"{tag}:1", b":1:{tag}x", b":1:{", b":1:}", b":1:{}", b":1:}{", b"{}{a}",
    b':1:{"page": 1}', b":1:a}b{c", b":1:{{a}}", b":1:{}x}",
]  # fmt: skip


@pytest.mark.only_sync
@for_each("key", KEYS)
def test_a_lease_has_the_slot_of_its_key(key: bytes) -> None:
    lease = lease_of(key)
    assert crc16(hash_tag(lease)) % 16384 == crc16(hash_tag(key)) % 16384
    assert lease.startswith(key)  # users of a node may be restricted to a prefix


@pytest.mark.only_sync
@pytest.mark.static
@pytest.mark.parametrize("router", [SlotRouter, PartitionRouter, ConsistentHashingRouter])
def test_a_lease_is_on_the_node_of_its_key(
    nodes: LocalNodes, servers: Servers, router: Any
) -> None:
    cluster = Cluster(nodes.hosts, router_cls=router)
    told, failures = cluster.run(take(cluster, KEYS, 5000, is_overtaking=False))
    assert not failures
    assert all(begun > 0 and data is None for begun, data in told.values())
    for key in KEYS:
        assert servers.owner(lease_of(key)) == cluster.get_host_for_key(key)
    told, _ = cluster.run(take(cluster, KEYS, 5000, is_overtaking=False))
    assert all(-5000 <= begun < 0 for begun, _ in told.values())
    cluster.close()


def test_leases_are_no_keys_of_the_cache(cache: RBCache, servers: Servers) -> None:
    cache.set("report:2", 1)
    cluster = cache.cluster
    cluster.run(take(cluster, [STORED], 5000, is_overtaking=False))
    assert cache.keys() == ["report:2"]
    assert cache.delete_pattern("*") == 1
    assert not any(servers.keys().values())


def test_deleting_says_whether_there_was_a_value(cache: RBCache) -> None:
    cluster = cache.cluster
    cluster.run(take(cluster, [STORED], 5000, is_overtaking=False))
    assert cache.delete(KEY) is False
    cache.set(KEY, 1)
    assert cache.delete(KEY) is True
