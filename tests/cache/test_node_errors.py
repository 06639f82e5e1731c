"""OPTIONS["ON_NODE_ERROR"]: what the cache says when one of its nodes is down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from time import monotonic

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import failures_of
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache

DEAD = 1
NAMES = [f"key{n}" for n in range(60)]
SECRET = "hunter2"


@pytest.fixture(scope="module")
def own_nodes() -> Iterator[LocalNodes]:
    """Three nodes; one of them is dead in every test here."""
    with LocalNodes(3) as own:
        yield own


@pytest.fixture
def lost(own_nodes: LocalNodes) -> Iterator[list[str]]:
    """The keys that the dead node owned; all keys were stored before it died."""
    own_nodes.restart(DEAD)
    own_nodes.flush()
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": own_nodes.hosts}}):
        make_cache().set_many({name: n for n, name in enumerate(NAMES)})
        owner_of = clusters["default"].get_host_for_key
        own_nodes.kill(DEAD)
        yield [name for name in NAMES if owner_of(f":1:{name}") == DEAD]


@pytest.fixture
def alive(lost: list[str]) -> list[str]:
    return [name for name in NAMES if name not in lost]


@pytest.fixture
def living(own_nodes: LocalNodes, lost: list[str]) -> Iterator[Servers]:
    """The nodes that are left."""
    with Servers({host: own_nodes.hosts[host] for host in (0, 2)}) as servers:
        yield servers


@pytest.fixture
def strict(lost: list[str]) -> RBCache:
    return make_cache(OPTIONS={"ON_NODE_ERROR": "raise"})


@pytest.fixture
def lenient(lost: list[str]) -> RBCache:
    return make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})


def test_raise_names_the_node_and_its_keys(
    own_nodes: LocalNodes, strict: RBCache, lost: list[str]
) -> None:
    address = f"127.0.0.1:{own_nodes.hosts[DEAD]['port']}/0"
    with pytest.raises(redis.ConnectionError, match=rf"node {DEAD}, {address}") as caught:
        strict.get_many(NAMES)

    (failure,) = failures_of(caught.value)
    assert (failure.host_id, failure.address) == (DEAD, address)
    assert failure.error is caught.value
    assert failure.keys == tuple(f":1:{name}".encode() for name in lost)


def test_raise_comes_after_the_other_nodes_work_was_done(
    strict: RBCache, living: Servers, alive: list[str]
) -> None:
    with pytest.raises(redis.ConnectionError):
        strict.set_many(dict.fromkeys(NAMES, "new"))
    assert strict.get_many(alive) == dict.fromkeys(alive, "new")

    with pytest.raises(redis.ConnectionError):
        strict.delete_many(NAMES)
    assert strict.get_many(alive) == {}

    strict.set_many(dict.fromkeys(alive, "new"))
    with pytest.raises(redis.ConnectionError):
        strict.clear()
    assert not any(living.keys().values())


@pytest.mark.parametrize(
    "call",
    [
        lambda cache, key: cache.get(key),
        lambda cache, key: cache.set(key, 1),
        lambda cache, key: cache.add(key, 1),
        lambda cache, key: cache.add(key, 1, 0),
        lambda cache, key: cache.touch(key),
        lambda cache, key: cache.touch(key, None),
        lambda cache, key: cache.delete(key),
        lambda cache, key: cache.has_key(key),
        lambda cache, key: cache.incr(key),
        lambda cache, key: cache.incr_version(key),
        lambda cache, key: cache.ttl(key),
        lambda cache, key: cache.persist(key),
        lambda cache, key: cache.get_or_set(key, 1),
        lambda cache, key: cache.get_many([key]),
        lambda cache, key: cache.set_many({key: 1}),
        lambda cache, key: cache.set_many({key: 1}, 0),
        lambda cache, key: cache.delete_many([key]),
        lambda cache, key: cache.keys(),
        lambda cache, key: cache.delete_pattern("*"),
    ],
)
def test_by_default_every_call_raises(
    lost: list[str], call: Callable[[RBCache, str], object]
) -> None:
    with pytest.raises(redis.ConnectionError, match=f"node {DEAD}") as caught:
        call(make_cache(), lost[0])
    assert [failure.host_id for failure in failures_of(caught.value)] == [DEAD]


def test_calls_to_living_nodes_notice_nothing(strict: RBCache, alive: list[str]) -> None:
    assert list(strict.get_many(alive)) == alive
    assert strict.set_many(dict.fromkeys(alive, 1)) == []
    assert strict.incr(alive[0]) == 2


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda cache, key: cache.get(key), None),
        (lambda cache, key: cache.get(key, "default"), "default"),
        (lambda cache, key: cache.get_many([key]), {}),
        (lambda cache, key: cache.set(key, 1), None),
        (lambda cache, key: cache.set_many({key: 1}), lambda key: [key]),
        (lambda cache, key: cache.set_many({key: 1}, 0), lambda key: [key]),
        (lambda cache, key: cache.add(key, 1), False),
        (lambda cache, key: cache.add(key, 1, 0), False),
        (lambda cache, key: cache.touch(key), False),
        (lambda cache, key: cache.touch(key, None), False),
        (lambda cache, key: cache.touch(key, 0), False),
        (lambda cache, key: cache.delete(key), False),
        (lambda cache, key: cache.delete_many([key]), None),
        (lambda cache, key: cache.has_key(key), False),
        (lambda cache, key: cache.get_or_set(key, "computed"), "computed"),
        (lambda cache, key: cache.clear(), False),
        (lambda cache, key: cache.ttl(key), 0),
        (lambda cache, key: cache.pttl(key), 0),
        (lambda cache, key: cache.expire(key, 5), False),
        (lambda cache, key: cache.persist(key), False),
    ],
)
def test_miss_answers_as_if_the_key_were_not_there(
    lenient: RBCache,
    lost: list[str],
    caplog: pytest.LogCaptureFixture,
    call: Callable[[RBCache, str], object],
    answer: object,
) -> None:
    key = lost[0]
    assert call(lenient, key) == (answer(key) if callable(answer) else answer)

    assert caplog.records[0].levelno == logging.WARNING
    assert {record.name for record in caplog.records} == {"django_rb.health"}
    assert f"[node {DEAD}, 127.0.0.1:" in caplog.text


def test_miss_gives_the_hits_of_the_living_nodes(
    lenient: RBCache, lost: list[str], alive: list[str]
) -> None:
    assert list(lenient.get_many(NAMES)) == alive
    assert lenient.set_many(dict.fromkeys(NAMES, "new")) == lost
    assert lenient.get_many(NAMES) == dict.fromkeys(alive, "new")
    assert set(lenient.keys()) == set(alive)
    assert lenient.delete_pattern("*") == len(alive)
    lenient.set_many(dict.fromkeys(NAMES, "again"))
    lenient.delete_many(NAMES)
    assert lenient.get_many(NAMES) == {}


@pytest.mark.parametrize(
    "call",
    [RBCache.incr, RBCache.decr, RBCache.incr_version, RBCache.decr_version],
)
def test_counting_raises_even_so(
    lenient: RBCache, lost: list[str], call: Callable[[RBCache, str], int]
) -> None:
    with pytest.raises(redis.ConnectionError, match=f"node {DEAD}"):
        call(lenient, lost[0])


def test_a_node_that_is_back_is_used_again(
    own_nodes: LocalNodes, lenient: RBCache, lost: list[str]
) -> None:
    assert lenient.get_many(lost) == {}
    own_nodes.restart(DEAD)

    assert lenient.set_many(dict.fromkeys(lost, "back")) == []
    assert lenient.get_many(lost) == dict.fromkeys(lost, "back")


def test_a_deadline_ends_a_call_to_a_silent_node(
    own_nodes: LocalNodes, lost: list[str], alive: list[str]
) -> None:
    own_nodes.restart(DEAD)
    cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss", "DEADLINE": 0.1})
    cache.set_many(dict.fromkeys(NAMES, "value"))
    own_nodes.pause(DEAD)
    try:
        began = monotonic()
        assert list(cache.get_many(NAMES)) == alive
        with pytest.raises(redis.TimeoutError, match=f"Deadline.*node {DEAD}"):
            make_cache(OPTIONS={"DEADLINE": 0.1}).get(lost[0])
        assert 0.2 <= monotonic() - began < 1.5  # POOL_OPTIONS would give it 2 seconds
    finally:
        own_nodes.resume(DEAD)


def test_an_error_reply_loses_one_nodes_keys() -> None:
    with (
        LocalNodes(2, options={"maxmemory-policy": "noeviction"}) as own,
        override_settings(RB_CLUSTERS={"default": {"HOSTS": own.hosts}}),
        Servers(own.hosts) as servers,
    ):
        servers.ask(0, "CONFIG", "SET", "maxmemory", "1")
        strict, lenient = make_cache(), make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
        lost = [n for n in NAMES if strict.cluster.get_host_for_key(f":1:{n}") == 0]

        assert lenient.set_many(dict.fromkeys(NAMES, 1)) == lost
        assert set(strict.get_many(NAMES)) == set(NAMES) - set(lost)
        with pytest.raises(redis.ResponseError, match=r"OOM.*node 0") as caught:
            strict.set_many(dict.fromkeys(NAMES, 1))
        assert failures_of(caught.value)[0].keys == tuple(f":1:{n}".encode() for n in lost)


def test_a_wrong_password_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with LocalNodes(1, options={"requirepass": "right"}) as own:
        hosts = [{**own.hosts[0], "username": "default", "password": SECRET}]
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
            with pytest.raises(redis.AuthenticationError, match="node 0") as caught:
                make_cache().get("key")
            assert make_cache(OPTIONS={"ON_NODE_ERROR": "miss"}).get("key") is None
        told = f"{caught.value!r} {failures_of(caught.value)!r} {caplog.text}"
        assert SECRET not in told
        hosts[0]["password"] = "right"
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
            make_cache().set("key", 1)
            assert make_cache().get("key") == 1


@pytest.mark.parametrize("options", [{}, {"SIGNING_KEY": "a key of sixteen bytes or more"}])
@pytest.mark.parametrize("deadline", [None, 0.4])
def test_get_or_set_waits_for_a_silent_node_once(
    own_nodes: LocalNodes, lost: list[str], options: dict[str, str], deadline: float | None
) -> None:
    own_nodes.restart(DEAD)
    config = {"HOSTS": own_nodes.hosts, "POOL_OPTIONS": {"socket_timeout": 0.4}}
    with override_settings(RB_CLUSTERS={"default": config}):
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss", "DEADLINE": deadline, **options})
        assert cache.get_or_set(lost[0], "before") == "before"
        own_nodes.pause(DEAD)
        try:
            began = monotonic()
            assert cache.get_or_set(lost[0], lambda: "made") == "made"
            assert monotonic() - began < 0.75  # one time, and not two or three
        finally:
            own_nodes.resume(DEAD)


def test_a_deadline_may_be_a_timedelta(own_nodes: LocalNodes, lost: list[str]) -> None:
    own_nodes.restart(DEAD)
    assert make_cache().get(lost[0]) is None
    cache = make_cache(OPTIONS={"DEADLINE": timedelta(milliseconds=50)})
    own_nodes.pause(DEAD)
    try:
        began = monotonic()
        with pytest.raises(redis.TimeoutError):
            cache.get(lost[0])
        assert monotonic() - began < 1  # and not socket_timeout
    finally:
        own_nodes.resume(DEAD)
    with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['DEADLINE'\] of a cache: 0.0 is"):
        make_cache(OPTIONS={"DEADLINE": timedelta(0)}).check_settings()


@pytest.mark.only_sync
def test_what_aget_or_set_returns_for_a_lost_key_was_awaited(
    own_nodes: LocalNodes, lost: list[str]
) -> None:
    async def compute() -> str:
        return "computed"

    cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
    assert asyncio.run(cache.aget_or_set(lost[0], compute)) == "computed"
    with pytest.raises(TypeError, match="aget_or_set"):
        cache.get_or_set(lost[0], compute)


@pytest.mark.static
def test_a_refused_command_is_logged_once_for_all_instances_of_a_cache(
    nodes: LocalNodes, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads and requests under ASGI each have an instance of their own."""
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}}):
        host_id = make_cache().cluster.get_host_for_key(":1:list")
        servers.ask(host_id, "RPUSH", ":1:list", "item")
        for _ in range(3):
            assert make_cache(OPTIONS={"ON_NODE_ERROR": "miss"}).get("list") is None
    (record,) = caplog.records
    assert f"Node {host_id} refused a command: WRONGTYPE" in record.getMessage()
