"""An old layout that is dead, hangs or is slow costs a bounded time, and no call fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.cache.warming.conftest import KEYS, Caches, make_caches
from tests.faults.proxy import Proxy, delayed
from tests.helpers import make_cache, wait_until

pytestmark = pytest.mark.static

DEADLINE = 2.0
SHARE = DEADLINE / 4


@pytest.fixture(scope="module")
def own_nodes() -> Iterator[LocalNodes]:
    """The old layout, whose nodes die and hang."""
    with LocalNodes(2) as own:
        yield own


@pytest.fixture
def old_nodes(own_nodes: LocalNodes, nodes: LocalNodes) -> Iterator[LocalNodes]:
    for host_id, state in own_nodes.states().items():
        if state != "running":
            own_nodes.restart(host_id)
    own_nodes.flush()
    health = {"FAILURES": 3, "PAUSE": 0.05, "MAX_PAUSE": 0.1}
    with override_settings(
        RB_CLUSTERS={
            "old": {"HOSTS": own_nodes.hosts, "HEALTH": health},
            "default": {"HOSTS": nodes.hosts},
        }
    ):
        yield own_nodes
    clusters.reset()
    for host_id, state in own_nodes.states().items():
        if state == "paused":
            own_nodes.resume(host_id)


@pytest.fixture
def caches(old_nodes: LocalNodes) -> Caches:
    caches = make_caches(DEADLINE=DEADLINE)
    caches.before.set_many(dict.fromkeys(KEYS, 7), 1000)
    caches.after.has_key("nothing")  # it is known then who the nodes are
    return caches


CALLS: dict[str, tuple[Callable[[RBCache, str], Any], Any, int]] = {
    # What is called, the answer while the old node is dead, and how often it may be waited for.
    "get": (lambda cache, key: cache.get(key), None, 1),
    "get_many": (lambda cache, key: cache.get_many([key]), {}, 1),
    "has_key": (lambda cache, key: cache.has_key(key), False, 1),
    "ttl": (lambda cache, key: cache.ttl(key), 0, 1),
    "get_or_set": (lambda cache, key: cache.get_or_set(key, 8), 8, 2),
    "computed": (lambda cache, key: cache.get_or_set(key, 8, stale=9), 8, 2),
    "set": (lambda cache, key: cache.set(key, 8), None, 1),
    "set_many": (lambda cache, key: cache.set_many({key: 8}), [], 1),
    "add": (lambda cache, key: cache.add(key, 8), True, 2),
    "incr": (lambda cache, key: cache.incr(key, ignore_key_check=True), 1, 2),
    "touch": (lambda cache, key: cache.touch(key, 90), False, 1),
    "delete": (lambda cache, key: cache.delete(key), False, 1),
    "delete_many": (lambda cache, key: cache.delete_many([key]), None, 1),
    "delete_pattern": (lambda cache, key: cache.delete_pattern(key), 0, 1),
    "keys": (lambda cache, key: cache.keys(key), [], 1),
}


def test_a_dead_old_layout_is_a_miss(caches: Caches, old_nodes: LocalNodes) -> None:
    for host_id in old_nodes.hosts:
        old_nodes.kill(host_id)
    for number, (call, answer, _) in enumerate(CALLS.values()):
        assert call(caches.after, KEYS[2 * number]) == answer
        assert call(caches.after, KEYS[2 * number + 1]) == answer


@pytest.mark.parametrize("name", ["get", "get_many", "set", "add", "incr", "delete"])
def test_an_old_layout_that_hangs_has_its_share_of_the_time(
    caches: Caches, old_nodes: LocalNodes, name: str
) -> None:
    call, answer, looks = CALLS[name]
    for host_id in old_nodes.hosts:
        old_nodes.pause(host_id)
    began = monotonic()
    assert call(caches.after, KEYS[0]) == answer
    assert monotonic() - began < looks * SHARE + 0.9  # and a little, on a busy machine


@pytest.mark.only_sync  # both faces share these steps
@pytest.mark.parametrize("way", ["delete", "delete_many", "set", "set_many", "add", "incr"])
def test_what_was_changed_while_the_old_node_hung_does_not_come_back(
    caches: Caches, old_nodes: LocalNodes, way: str
) -> None:
    for host_id in old_nodes.hosts:
        old_nodes.pause(host_id)
    answer = CALLS[way][0](caches.after, KEYS[0])
    assert answer == CALLS[way][1]
    for host_id in old_nodes.hosts:
        old_nodes.resume(host_id)
    wait_until(lambda: caches.before.get(KEYS[1]) == 7)  # it goes on
    caches.before.set(KEYS[0], 7)  # as if what was sent meanwhile had been lost
    if way in {"set", "set_many", "add", "incr"}:
        assert caches.after.get(KEYS[0]) == {"incr": 1}.get(way, 8)
        caches.plain.delete(KEYS[0])
    assert caches.after.get(KEYS[0]) is None
    assert caches.after.get_many([KEYS[0]]) == {}


def test_clear_says_that_an_old_node_could_not_be_emptied(
    caches: Caches, old_nodes: LocalNodes, caplog: pytest.LogCaptureFixture
) -> None:
    old_nodes.kill(1)
    caches.after.get_many(KEYS)
    assert not caches.after.clear()
    assert "could not empty node 1 of old" in caplog.text
    assert caches.after.get_many(KEYS) == {}


def test_an_old_redis_cluster_that_is_gone_is_a_miss(nodes: LocalNodes) -> None:
    with override_settings(
        RB_CLUSTERS={
            "old": {"TOPOLOGY": "redis-cluster", "HOSTS": ["redis://127.0.0.1:1"]},
            "default": {"HOSTS": nodes.hosts},
        }
    ):
        cache = make_cache(OPTIONS={"WARM_FROM": "old"})
        for name, (call, answer, _) in CALLS.items():
            assert call(cache, f"{name}:1") == answer
        cache.set_many(dict.fromkeys(KEYS, 1))
        assert len(cache.get_many(KEYS)) == len(KEYS)


def test_a_slow_old_layout_is_waited_for_within_its_share(nodes: LocalNodes) -> None:
    host = nodes.hosts[0]
    with Proxy((host["host"], host["port"])) as proxy:
        slow = {**host, **proxy.host}
        with override_settings(
            RB_CLUSTERS={
                "old": {"HOSTS": [{**slow, "db": 1}]},
                "direct": {"HOSTS": [{**host, "db": 1}]},
                "default": {"HOSTS": nodes.hosts},
            }
        ):
            make_cache("direct").set_many(dict.fromkeys(KEYS, 1))
            cache = make_cache(OPTIONS={"WARM_FROM": "old", "DEADLINE": 4.0})
            with proxy.tampering(replies=delayed(0.1)):
                began = monotonic()
                assert len(cache.get_many(KEYS)) == len(KEYS)
                assert monotonic() - began >= 0.1
                assert cache.incr(KEYS[0]) == 2


@pytest.mark.only_sync
def test_a_node_that_dies_midway_fails_no_call(caches: Caches, old_nodes: LocalNodes) -> None:
    errors: list[BaseException] = []
    over = threading.Event()
    calls = [0] * 4

    def work(number: int) -> None:
        n = 0
        while not over.is_set():
            n += 1
            key = KEYS[n % len(KEYS)]
            try:
                caches.after.get_many(KEYS)
                caches.after.set(key, n)
                caches.after.incr(key)
                caches.after.delete(key)
                caches.after.add(f"{number}:{n}", 1)
            except ValueError:  # another has deleted it
                pass
            except BaseException as error:  # noqa: BLE001
                errors.append(error)
            calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for change in (old_nodes.kill, old_nodes.restart, old_nodes.pause, old_nodes.resume):
            seen = list(calls)
            change(0)
            deadline = monotonic() + 10
            while any(now < then + 3 for now, then in zip(calls, seen, strict=True)):
                assert monotonic() < deadline
                assert not errors
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors
