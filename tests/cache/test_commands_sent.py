"""What one call costs the servers, counted by the servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache

MANY = {f"key{n}": n for n in range(100)}

Counts = Callable[[], dict[int, Counter[str]]]


@pytest.fixture
def sent(nodes: LocalNodes, servers: Servers) -> Counts:
    """Return the commands per node since the cache was filled."""
    make_cache().set_many(MANY)
    servers.reset_counts()
    return servers.counts


@pytest.fixture
def shares(sent: Counts, servers: Servers) -> dict[int, int]:
    return {host_id: len(keys) for host_id, keys in servers.keys().items()}


@pytest.mark.static
def test_get_many_is_one_mget_per_node(cache: RBCache, sent: Counts) -> None:
    cache.get_many(MANY)

    assert set(map(str, sent().values())) == {"Counter({'mget': 1})"}


@pytest.mark.static
def test_multi_key_calls_leave_nodes_alone_that_own_no_key(
    cache: RBCache, servers: Servers, sent: Counts
) -> None:
    busy = [name for name in MANY if servers.owner(f":1:{name}".encode()) in {1, 3}]
    servers.reset_counts()

    cache.get_many(busy)
    assert sent() == {0: {}, 1: {"mget": 1}, 2: {}, 3: {"mget": 1}}
    cache.delete_many(busy)
    assert sent() == {0: {}, 1: {"mget": 1, "unlink": 1}, 2: {}, 3: {"mget": 1, "unlink": 1}}


@pytest.mark.parametrize("timeout", [None, 100, 0.5])
def test_set_many_is_one_set_per_key(
    cache: RBCache, servers: Servers, shares: dict[int, int], timeout: float | None
) -> None:
    servers.reset_counts()
    cache.set_many(MANY, timeout)

    assert servers.counts() == {host_id: {"set": n} for host_id, n in shares.items()}


def test_set_many_sends_one_pipeline_per_node(
    cache: RBCache, servers: Servers, shares: dict[int, int]
) -> None:
    def reads() -> list[int]:
        return [
            servers.ask(host_id, "INFO", "stats")["total_reads_processed"] for host_id in shares
        ]

    before = reads()
    cache.set_many(MANY)
    # Each node read once for the pipeline and once for the question that counts.
    assert [after - then for after, then in zip(reads(), before, strict=True)] == [2] * 4


@pytest.mark.static
@pytest.mark.parametrize("timeout", [0, -1])
def test_set_many_of_nothing_that_lasts_is_one_unlink_per_node(
    cache: RBCache, sent: Counts, timeout: int
) -> None:
    cache.set_many(MANY, timeout)

    assert sent() == {host_id: {"unlink": 1} for host_id in range(4)}


@pytest.mark.static
def test_delete_many_is_one_unlink_per_node(cache: RBCache, sent: Counts) -> None:
    cache.delete_many(MANY)

    assert sent() == {host_id: {"unlink": 1} for host_id in range(4)}


def test_clear_is_one_flushdb_per_node(cache: RBCache, sent: Counts) -> None:
    cache.clear()

    assert sent() == {host_id: {"flushdb": 1} for host_id in range(4)}


@pytest.mark.parametrize(
    ("call", "commands"),
    [
        (lambda cache: cache.get("key7"), {"get": 1}),
        (lambda cache: cache.set("key7", 1), {"set": 1}),
        (lambda cache: cache.set("key7", 1, None), {"set": 1}),
        (lambda cache: cache.set("key7", 1, 0), {"unlink": 2}),
        (lambda cache: cache.add("key7", 1), {"set": 1}),
        (lambda cache: cache.add("key7", 1, 0), {"exists": 1}),
        (lambda cache: cache.touch("key7"), {"evalsha": 1, "getrange": 1, "pexpire": 1}),
        (
            lambda cache: cache.touch("key7", None),
            {"evalsha": 1, "getrange": 1, "persist": 1, "exists": 1},
        ),
        (lambda cache: cache.delete("key7"), {"unlink": 2}),
        (lambda cache: cache.has_key("key7"), {"exists": 1}),
        (lambda cache: cache.get_or_set("key7", 1), {"get": 1}),
        (lambda cache: cache.get_or_set("key7", 1, 60, stale=60, lock=5), {"get": 1}),
        (lambda cache: cache.ttl("key7"), {"evalsha": 1, "getrange": 1, "pttl": 1}),
        (lambda cache: cache.expire("key7", 5), {"evalsha": 1, "getrange": 1, "pexpire": 1}),
    ],
)
def test_a_single_key_is_one_command_on_its_owner(
    cache: RBCache,
    servers: Servers,
    sent: Counts,
    call: Callable[[RBCache], object],
    commands: dict[str, int],
) -> None:
    owner = servers.owner(b":1:key7")
    cache.touch("key7")  # the node may have to learn the scripts first
    cache.ttl("key7")
    servers.reset_counts()
    call(cache)

    assert sent() == {host_id: commands if host_id == owner else {} for host_id in range(4)}


def test_incr_is_one_script(cache: RBCache, servers: Servers, sent: Counts) -> None:
    owner = servers.owner(b":1:key7")
    cache.incr("key7")  # the node may have to learn the script first
    servers.reset_counts()

    cache.incr("key7")
    assert sent()[owner].keys() - {"exists", "incrby", "get"} == {"evalsha"}
    assert sum(map(len, sent().values())) == len(sent()[owner])


def test_patterns_go_without_keys(cache: RBCache, sent: Counts) -> None:
    assert len(cache.keys("key*")) == 100
    assert cache.delete_pattern("key1*") == 11

    for commands in sent().values():
        assert commands.keys() <= {"scan", "unlink"}
