from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256, shake_128
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_rb.engine.errors import BadHostSetup, UnroutableCommand
from django_rb.engine.nodes.hosts import HostInfo, parse_host
from django_rb.engine.routing.hashing import Key, encode_key
from django_rb.engine.routing.routers import (
    SLOTS,
    BaseRouter,
    ConsistentHashingRouter,
    PartitionRouter,
    SlotRouter,
    _rb_name,
)
from tests.tables import for_each


@dataclass
class Nodes:
    """A cluster, as far as a router looks at it."""

    hosts: Mapping[int, HostInfo]


def nodes(*host_ids: int, port: int = 7100) -> Nodes:
    return Nodes({n: HostInfo(n, "127.0.0.1", port + n) for n in host_ids})


KEYS: list[bytes] = [b":1:page:%d" % n for n in range(20_000)]
ROUTERS = [PartitionRouter, ConsistentHashingRouter, SlotRouter]
# Of hosts, where it is on record how rb places keys: few, and powers of 2 with neighbours.
COUNTS = [*range(1, 18), 31, 32, 33, 48, 63, 64]
SEVEN: dict[type[BaseRouter], BaseRouter] = {cls: cls(nodes(*range(7))) for cls in ROUTERS}


# ---- all routers ----


def test_the_number_that_places_a_key() -> None:
    partition, ring, slots = (SEVEN[cls] for cls in ROUTERS)
    for key in ("{user:7}:a", b"\xff", 7):
        assert list(partition.explain(key)) == ["crc32"]
        assert partition.explain(key)["crc32"] % 7 == partition.get_host_for_key(key)
        assert isinstance(slots, SlotRouter)
        slot = slots.explain(key)["slot"]
        assert slots.get_host_for_slot(slot) == slots.get_host_for_key(key)
    # As MD5 of "123456789" begins, little-endian: 25f9e794…
    assert ring.explain("123456789") == {"point": 0x94E7F925}
    assert partition.explain("123456789") == {"crc32": 0xCBF43926 - 2**32}
    assert slots.explain("{123456789}x") == {"slot": 0x3926}
    assert BaseRouter(nodes(0)).explain("a") == {}


@pytest.mark.parametrize("router_cls", ROUTERS)
def test_many_keys_at_once_go_where_each_goes_alone(router_cls: type[BaseRouter]) -> None:
    router = router_cls(nodes(*range(5)))
    keys: list[Key] = [b"a", "a", "ключ", 7, -1, 2.5, b"", "{user:7}:a", b"\xff{user:7}"]
    batches: list[list[Key]] = [keys, keys[:1], keys[2:3], [], list(KEYS[:50])]
    batches += [["{a}b", b"x"], [b"{a}b", b"x"]]
    for some in batches:
        assert router.get_hosts_for_keys(some) == [router.get_host_for_key(k) for k in some]


@pytest.mark.parametrize("router_cls", ROUTERS)
@given(key=st.one_of(st.binary(), st.text(), st.integers(), st.floats()))
def test_a_key_goes_where_its_bytes_go(router_cls: type[BaseRouter], key: Key) -> None:
    router = SEVEN[router_cls]
    owner = router.get_host_for_key(key)
    assert owner == router.get_host_for_key(encode_key(key))
    assert [owner] * 2 == router.get_hosts_for_keys([key, key])


@pytest.mark.parametrize("router_cls", ROUTERS)
@for_each("key", [None, True, ["a"], [b"a"], (b"a",), [], {}])
def test_what_is_no_key_has_no_host(router_cls: type[BaseRouter], key: Key) -> None:
    router = router_cls(nodes(0, 1))
    with pytest.raises(TypeError, match="cannot be a key"):
        router.get_host_for_key(key)
    for keys in ([key], [b"a", key], [b"{a}", key], ["a", key]):
        with pytest.raises(TypeError, match="cannot be a key"):
            router.get_hosts_for_keys(keys)


@pytest.mark.parametrize("router_cls", ROUTERS)
def test_bytearrays_and_memoryviews_are_routed(router_cls: type[BaseRouter]) -> None:
    router = router_cls(nodes(*range(5)))
    for key in (b"abc", b"{abc}d"):
        odd: list[Any] = [bytearray(key), memoryview(key)]
        assert router.get_hosts_for_keys(odd) == [router.get_host_for_key(key)] * 2


@pytest.mark.parametrize("router_cls", ROUTERS)
def test_a_cluster_without_hosts_has_no_router(router_cls: type[BaseRouter]) -> None:
    with pytest.raises(BadHostSetup, match="at least one"):
        router_cls(nodes())


@pytest.mark.parametrize("router_cls", ROUTERS)
def test_the_order_of_hosts_does_not_matter(router_cls: type[BaseRouter]) -> None:
    one, other = router_cls(nodes(0, 1, 2)), router_cls(nodes(2, 0, 1))
    assert one.get_hosts_for_keys(KEYS[:1000]) == other.get_hosts_for_keys(KEYS[:1000])


def test_placement_is_the_same_in_every_process() -> None:
    names = [router_cls.__name__ for router_cls in ROUTERS]
    source = f"""if True:
        from django_rb.engine.nodes.hosts import HostInfo
        from django_rb.engine.routing.routers import {", ".join(names)}
        class Nodes:
            hosts = {{n: HostInfo(n) for n in range(9)}}
        for router_cls in {", ".join(names)}:
            router = router_cls(Nodes())
            print(router.get_hosts_for_keys([b"key:%d" % n for n in range(500)]))
    """
    elsewhere = subprocess.run(
        [sys.executable, "-c", source], check=True, capture_output=True, text=True
    ).stdout
    cluster = Nodes({n: HostInfo(n) for n in range(9)})
    assert elsewhere.splitlines() == [
        str(router_cls(cluster).get_hosts_for_keys([b"key:%d" % n for n in range(500)]))
        for router_cls in ROUTERS
    ]


def test_a_router_of_your_own_implements_one_method() -> None:
    class ByLength(BaseRouter):
        def get_host_for_key(self, key: Key) -> int:
            return len(encode_key(key)) % len(self.cluster.hosts)

    cluster = nodes(0, 1, 2)
    assert ByLength(cluster).get_hosts_for_keys([b"a", "bb", b"ccc"]) == [1, 2, 0]
    with pytest.raises(NotImplementedError, match="BaseRouter lacks get_host_for_key"):
        BaseRouter(cluster).get_host_for_key(b"a")


def test_a_router_does_not_keep_its_cluster_alive() -> None:
    cluster = nodes(0, 1)
    router = SlotRouter(cluster)
    assert router.cluster is cluster
    del cluster  # no cycle keeps it
    with pytest.raises(RuntimeError, match="cluster of this SlotRouter does not exist"):
        _ = router.cluster
    assert router.get_host_for_key(b"a") in {0, 1}


def test_the_key_of_a_command() -> None:
    router = PartitionRouter(nodes(0, 1, 2))
    assert router.get_key("GET", ["page:1"]) == "page:1"
    assert router.get_key("eval", ["return 1", 1, b"key", "arg"]) == b"key"
    with pytest.raises(UnroutableCommand, match="MGET has 2 keys here, not one"):
        router.get_key("MGET", ["a", "b"])


def test_a_command_runs_where_all_its_keys_are() -> None:
    router = SlotRouter(nodes(*range(16)))
    assert router.get_host_for_command("GET", ["a"]) == router.get_host_for_key("a")
    together = ["{user:7}:a", "{user:7}:b"]
    host = router.get_host_for_key("{user:7}")
    assert router.get_host_for_command("SINTER", together) == host


def test_a_command_with_keys_on_several_hosts_is_refused_by_its_keys_and_hosts() -> None:
    router = SlotRouter(nodes(*range(16)))
    keys = ["a", "b", "c"]
    a, b, c = router.get_hosts_for_keys(list(keys))
    assert len({a, b, c}) > 1
    with pytest.raises(UnroutableCommand, match=f"SINTER.*'a' on {a}, 'b' on {b}, 'c' on {c}"):
        router.get_host_for_command("SINTER", list(keys))
    with pytest.raises(UnroutableCommand) as caught:
        router.get_host_for_command("SINTER", [f"key:{n}" for n in range(10_000)])
    assert len(str(caught.value)) < 400


def test_a_command_without_keys_or_description_has_no_host() -> None:
    router = PartitionRouter(nodes(0, 1))
    for ask in (router.get_key, router.get_host_for_command):
        with pytest.raises(UnroutableCommand, match=r"PING has no key.*fanout\(\)"):
            ask("PING", [])
        with pytest.raises(UnroutableCommand, match="NOSUCH"):
            ask("NOSUCH", ["a"])


# ---- as rb places keys ----


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """What scripts/record_rb_placements.py wrote."""
    path = Path(__file__).parent / "data" / "rb_placements.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture(scope="module")
def keys(recorded: dict[str, Any]) -> list[Key]:
    kinds = recorded["keys"]
    return [*kinds["text"], *kinds["integers"], *map(bytes.fromhex, kinds["bytes_hex"])]


def assert_places(router: BaseRouter, keys: list[Key], placements: str, digits: str) -> None:
    owners = router.get_hosts_for_keys(keys)
    assert len(owners) == len(placements) >= 2000
    wrong = {
        key: owner
        for key, owner, digit in zip(keys, owners, placements, strict=True)
        if digits[owner] != digit
    }
    assert not wrong


@for_each("count", COUNTS)
def test_partition_router_places_keys_as_rb_does(
    count: int, recorded: dict[str, Any], keys: list[Key]
) -> None:
    router = PartitionRouter(nodes(*range(count)))
    assert_places(router, keys, recorded["partition"][str(count)], recorded["digits"])


@for_each("count", COUNTS)
def test_the_ring_of_rb_places_keys_as_rb_does(
    count: int, recorded: dict[str, Any], keys: list[Key]
) -> None:
    router = ConsistentHashingRouter(nodes(*range(count)), ring="rb")
    assert_places(router, keys, recorded["ring_rb"][str(count)], recorded["digits"])


def test_the_ring_of_rb_knows_all_of_a_host_that_rb_knew(
    recorded: dict[str, Any], keys: list[Key]
) -> None:
    mixed = Nodes({n: HostInfo(n, **host) for n, host in enumerate(recorded["mixed_hosts"])})
    router = ConsistentHashingRouter(mixed, ring="rb")
    assert_places(router, keys, recorded["mixed_ring_rb"], recorded["digits"])


def test_where_points_of_two_hosts_meet_the_ring_of_rb_decides_as_rb_does(
    recorded: dict[str, Any], keys: list[Key]
) -> None:
    router = ConsistentHashingRouter(
        nodes(*reversed(range(64)), port=recorded["meeting_port"]), ring="rb"
    )
    assert_places(router, keys, recorded["meeting_ring_rb"], recorded["digits"])


@for_each("count", [1, 2, 3, 8, 64])
def test_the_ring_of_host_ids_is_the_ketama_of_rb_over_host_ids(
    count: int, recorded: dict[str, Any], keys: list[Key]
) -> None:
    router = ConsistentHashingRouter(nodes(*range(count)))
    assert_places(router, keys, recorded["ring_host_ids"][str(count)], recorded["digits"])


def test_weights_may_be_texts_of_digits() -> None:
    texts = SlotRouter(nodes(0, 1), weights={1: "2.5"})  # type: ignore[dict-item]
    numbers = SlotRouter(nodes(0, 1), weights={1: 2.5})
    assert texts.get_hosts_for_keys(KEYS) == numbers.get_hosts_for_keys(KEYS)


def test_slot_router_takes_no_host_id_that_makes_it_slow() -> None:
    SlotRouter(nodes(3, 9999))
    with pytest.raises(BadHostSetup, match="10000 is too high for SlotRouter"):
        SlotRouter(nodes(3, 10_000))


def test_partition_router_wants_host_ids_without_gaps() -> None:
    with pytest.raises(BadHostSetup, match=r'Expected host with ID "1".*\[0, 2, 3\]'):
        PartitionRouter(nodes(0, 2, 3))


# ---- ConsistentHashingRouter ----


def test_a_changed_password_or_address_moves_no_keys_on_the_ring_of_host_ids() -> None:
    before = ConsistentHashingRouter(nodes(0, 1, 2))
    after = ConsistentHashingRouter(
        Nodes({n: HostInfo(n, f"10.1.0.{n}", password="new", ssl=True) for n in range(3)})
    )
    assert before.get_hosts_for_keys(KEYS) == after.get_hosts_for_keys(KEYS)


def test_options_whose_passwords_are_hidden_have_the_ring_of_rb() -> None:
    options = {"password": "it's", "keyfile": "key.pem"}
    info = parse_host(
        0, {"host": "10.0.0.1", "password": "a", "ssl": True, "ssl_options": options}
    )
    assert "it's" not in repr(info.ssl_options)
    assert _rb_name(info) == (
        "<HostInfo db=0 host='10.0.0.1' host_id=0 password='a' port=6379 ssl=True "
        f"ssl_options={options!r} unix_socket_path=None>"
    )


def test_a_changed_password_moves_keys_on_the_ring_of_rb() -> None:
    cluster = nodes(0, 1, 2)
    changed = Nodes({**cluster.hosts, 1: HostInfo(1, "127.0.0.1", 7101, password="new")})
    before = ConsistentHashingRouter(cluster, ring="rb").get_hosts_for_keys(KEYS)
    after = ConsistentHashingRouter(changed, ring="rb").get_hosts_for_keys(KEYS)
    assert before != after


def test_an_unknown_ring_is_refused_by_name() -> None:
    with pytest.raises(BadHostSetup, match=r"'md5' is not a ring.*'host_ids', 'rb'") as caught:
        ConsistentHashingRouter(nodes(0), ring="md5")  # type: ignore[arg-type]
    assert caught.value.path == ("ROUTER_OPTIONS", "ring")


def test_a_ring_may_have_gaps() -> None:
    assert set(ConsistentHashingRouter(nodes(0, 3)).get_hosts_for_keys(KEYS)) == {0, 3}


# ---- SlotRouter ----


# Every fourth slot: each has its own owner, and to find one takes long if there are weights.
SAMPLE = range(0, SLOTS, 4)


def table(router: SlotRouter, slots: range = range(SLOTS)) -> list[int]:
    """Return the owner of every slot, or of some."""
    return [router.get_host_for_slot(slot) for slot in slots]


@cache
def equal_table(count: int) -> list[int]:
    """Return the table of a cluster of so many nodes."""
    return table(SlotRouter(nodes(*range(count))))


@pytest.mark.parametrize("host_ids", [[0], [3], [*range(64)], [*range(50), 63]])
def test_a_slot_belongs_to_the_host_with_the_highest_score(host_ids: list[int]) -> None:
    router = SlotRouter(nodes(*host_ids))
    for slot in range(0, SLOTS, 40):
        digest = shake_128(b"django-rb 509 " + slot.to_bytes(2, "little")).digest(512)
        scores = struct.unpack("<64Q", digest)
        owner = max(host_ids, key=scores.__getitem__)
        assert router.get_host_for_slot(slot) == owner


@pytest.mark.parametrize("count", [1, 3, 8, 64])
def test_a_node_added_takes_its_share_of_the_keys_and_moves_no_others(count: int) -> None:
    before = SlotRouter(nodes(*range(count))).get_hosts_for_keys(KEYS)
    after = SlotRouter(nodes(*range(count + 1))).get_hosts_for_keys(KEYS)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {count}
    assert len(moved) <= len(KEYS) / (count + 1) * 1.1


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_a_node_added_takes_its_share_of_the_slots(count: int) -> None:
    pairs = zip(equal_table(count), equal_table(count + 1), strict=True)
    moved = [new for old, new in pairs if old != new]
    assert set(moved) == {count}
    assert SLOTS / (count + 1) * 0.9 <= len(moved) <= SLOTS / (count + 1) * 1.1


@pytest.mark.parametrize("leaving", [0, 3, 7])
def test_a_node_removed_moves_only_its_own_keys(leaving: int) -> None:
    before = SlotRouter(nodes(*range(8))).get_hosts_for_keys(KEYS)
    staying = [n for n in range(8) if n != leaving]
    after = SlotRouter(nodes(*staying)).get_hosts_for_keys(KEYS)
    assert set(after) == set(staying)
    assert all(old in (new, leaving) for old, new in zip(before, after, strict=True))


@given(
    st.dictionaries(st.integers(0, 99), st.floats(0.01, 100), min_size=2, max_size=20),
    st.data(),
)
def test_whoever_leaves_moves_only_its_own_keys(
    weights: dict[int, float], data: st.DataObject
) -> None:
    leaving = data.draw(st.sampled_from(sorted(weights)))
    staying = {n: weight for n, weight in weights.items() if n != leaving}
    some = KEYS[:60]
    before = SlotRouter(nodes(*weights), weights=weights).get_hosts_for_keys(some)
    after = SlotRouter(nodes(*staying), weights=staying).get_hosts_for_keys(some)
    assert all(old in (new, leaving) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "weights",
    [
        {0: 1, 1: 2},
        {0: 1, 1: 2, 2: 3, 3: 4},
        {0: 0.5, 1: 0.25, 2: 0.25},
        {0: 3, 1: 1.5, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 4},
        {0: 1e-3, 1: 4e-3, 2: 2e-3},
    ],
    ids=str,
)
def test_weights_are_met(weights: dict[int, float]) -> None:
    router = SlotRouter(nodes(*weights), weights=weights)
    total = sum(weights.values())
    for owners, off in ((table(router, SAMPLE), 0.05), (router.get_hosts_for_keys(KEYS), 0.1)):
        shares = Counter(owners)
        for host_id, weight in weights.items():
            assert shares[host_id] / len(owners) == pytest.approx(weight / total, rel=off)


def test_a_host_without_a_weight_weighs_one() -> None:
    some = SlotRouter(nodes(0, 1, 2), weights={1: 2})
    every = SlotRouter(nodes(0, 1, 2), weights={0: 1, 1: 2, 2: 1.0})
    assert some.get_hosts_for_keys(KEYS) == every.get_hosts_for_keys(KEYS)


@pytest.mark.parametrize("weight", [1, 3, 0.1, 1e-9])
def test_equal_weights_are_no_weights(weight: float) -> None:
    weights = dict.fromkeys(range(8), weight)
    weighted = SlotRouter(nodes(*range(8)), weights)
    assert table(weighted, SAMPLE) == [equal_table(8)[slot] for slot in SAMPLE]


def test_weights_that_hardly_differ_place_keys_as_equal_ones_do() -> None:
    # The two ways of finding an owner agree where they meet.
    weights = {n: 1 + n * 1e-12 for n in range(8)}
    weighted = SlotRouter(nodes(*range(8)), weights)
    assert table(weighted, SAMPLE) == [equal_table(8)[slot] for slot in SAMPLE]


def test_a_raised_weight_moves_keys_only_to_its_host() -> None:
    before = SlotRouter(nodes(0, 1, 2)).get_hosts_for_keys(KEYS)
    after = SlotRouter(nodes(0, 1, 2), {1: 2}).get_hosts_for_keys(KEYS)
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {1}


@for_each(
    ("weights", "message"),
    [
        ({5: 1.0}, r"host id 5.*Host ids are: 0, 1"),
        ({"a": 1.0}, r"host id 'a'"),
        ({0: 0}, r"0 is not a weight.*above 0"),
        ({0: -1.5}, r"-1.5 is not a weight"),
        ({0: math.inf}, r"inf is not a weight"),
        ({0: math.nan}, r"nan is not a weight"),
        ({0: "two"}, r"'two' is not a weight"),
        ({0: True}, r"True is not a weight"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[int, float], message: str) -> None:
    with pytest.raises(BadHostSetup, match=message) as caught:
        SlotRouter(nodes(0, 1), weights=weights)
    assert caught.value.path == ("ROUTER_OPTIONS", "weights", *weights)


def test_weights_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(BadHostSetup, match=r"\[1, 2\] .*\{host id: weight\}"):
        SlotRouter(nodes(0, 1), weights=[1, 2])  # type: ignore[arg-type]


def test_keys_with_the_same_hash_tag_share_a_slot() -> None:
    router = SlotRouter(nodes(*range(16)))
    for n in range(200):
        same: list[Key] = [f"{{user:{n}}}:a", b":1:{user:%d}:b" % n, f"user:{n}"]
        assert len({router.get_slot(key) for key in same}) == 1
        assert len(set(router.get_hosts_for_keys(same))) == 1
    slots = {router.get_slot(f"{{user:{n}}}:a") for n in range(200)}
    assert len(slots) > 190


def test_hash_tags_are_seen_anywhere_in_a_batch() -> None:
    router = SlotRouter(nodes(*range(64)))
    keys = [*KEYS[:500], b"{tag}:1", *KEYS[500:1000], b"{tag}:2"]
    assert router.get_hosts_for_keys(keys) == [router.get_host_for_key(key) for key in keys]


def test_a_batch_finds_owners_that_were_not_asked_for_before() -> None:
    cluster = nodes(*range(8))
    fresh, warm = SlotRouter(cluster), SlotRouter(cluster)
    expected = warm.get_hosts_for_keys(KEYS)
    # Keys known and new, in one batch.
    for start, end in pairwise(range(0, 3000, 100)):
        assert (
            fresh.get_hosts_for_keys(KEYS[max(0, start - 50) : end])
            == (expected[max(0, start - 50) : end])
        )


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_there_are_65536_slots(slot: int) -> None:
    with pytest.raises(ValueError, match=f"{slot} is not a slot"):
        SlotRouter(nodes(0, 1)).get_host_for_slot(slot)


@for_each("count", [2, 3, 4, 8, 9, 32, 33, 64])
def test_equal_nodes_get_equal_shares(count: int) -> None:
    shares = Counter(equal_table(count))
    off = max(abs(shares[n] * count / SLOTS - 1) for n in range(count))
    assert off <= 0.008 * math.sqrt(count)
    assert off <= 0.06


def digest(owners: list[int]) -> str:
    return sha256(bytes(owners)).hexdigest()[:32]


# A change of these moves the keys of every cluster that uses SlotRouter: never change them.
@for_each(
    ("count", "expected"),
    [
        (2, "0df2fdd7c1b6bb241a798d2049eb0083"),
        (3, "d084d83483a36caf60634717b10d931b"),
        (8, "a63a9f46a944e7a6cd2ebc5d40ceebc1"),
        (64, "a15cce8acfe82fd0773fa73136365fa6"),
    ],
)
def test_the_table_never_changes(count: int, expected: str) -> None:
    assert digest(equal_table(count)) == expected


def test_the_table_with_weights_never_changes() -> None:
    weights = {0: 1, 1: 2, 2: 0.5, 3: 3}
    assert (
        digest(table(SlotRouter(nodes(*weights), weights)))
        == "074f610a6844868bedf063b2ca49c22d"
    )


def test_the_slot_of_a_key_never_changes() -> None:
    router = SlotRouter(nodes(0))
    # The low 16 bits of CBF43926, the crc32 of "123456789".
    assert router.get_slot(b"123456789") == 0x3926
    assert router.get_slot("x{123456789}y") == 0x3926
