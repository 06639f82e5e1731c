"""OPTIONS["NEAR"]: what is answered without a node, and what is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine.near.tracking import NearInfo
from django_rb.engine.rounds.observing import BatchEvent, Observer, add_observer
from django_rb.testing import LocalNodes
from tests.cache.awaited import Awaited
from tests.helpers import Servers, make_cache, wait_until
from tests.tables import for_each

NEAR = {"MAX_BYTES": 2**20, "MAX_AGE": 60}


def make_near(**near: Any) -> RBCache:
    return make_cache(OPTIONS={"NEAR": {**NEAR, **near}})


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be right only because its time is over."""
    monkeypatch.setattr("django_rb.engine.near.tracking.HEARD_SECONDS", 1000.0)


@pytest.fixture
def near(nodes: LocalNodes) -> RBCache:
    """A cache with near copies of everything."""
    return make_near()


@pytest.fixture
def other(nodes: LocalNodes) -> RBCache:
    """A cache on the same keys without near copies, as in another process."""
    return make_cache()


def info(cache: RBCache) -> NearInfo:
    found = cache.near_info()
    assert found is not None
    return found


def hear(cache: RBCache) -> None:
    """Let the event loop of an awaited cache read what came."""
    if isinstance(cache, Awaited):
        import asyncio

        cache.loops.run(asyncio.sleep(0.001))


def wait_for(cache: RBCache, key: str, value: Any) -> None:
    def is_heard() -> bool:
        hear(cache)
        return bool(cache.get(key) == value)

    wait_until(is_heard)


class Sent:
    """How many commands the nodes were sent in a block, but for those on connections."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    def __call__(self, do: Callable[[], Any]) -> dict[str, int]:
        self.servers.reset_counts()
        do()
        counts: dict[str, int] = {}
        for of_node in self.servers.counts().values():
            for name, count in of_node.items():
                counts[name] = counts.get(name, 0) + count
        return counts


@pytest.fixture
def sent(servers: Servers) -> Sent:
    return Sent(servers)


# What is near.


def test_a_value_that_was_read_is_near(near: RBCache, sent: Sent) -> None:
    near.set("key", [1, 2])
    assert near.get("key") == [1, 2]
    assert sent(lambda: near.get("key")) == {}
    assert near.get("key") == [1, 2]
    assert info(near).hits == 2


def test_each_caller_has_a_value_of_its_own(near: RBCache) -> None:
    near.set("key", [1])
    near.get("key").append(2)
    near.get("key").append(3)
    assert near.get("key") == [1]


def test_get_many_asks_only_for_what_is_not_near(near: RBCache, sent: Sent) -> None:
    data = {f"key{n}": n for n in range(20)}
    near.set_many(data)
    assert near.get_many(list(data)[:15]) == dict(list(data.items())[:15])
    counts = sent(lambda: near.get_many(data))
    assert counts.get("mget", 0) + counts.get("get", 0) <= 5
    assert counts["pttl"] == 5
    assert list(near.get_many(data).items()) == list(data.items())
    assert sent(lambda: near.get_many(data)) == {}
    assert near.get_many(["none", "key3", "key1"]) == {"key3": 3, "key1": 1}


@pytest.mark.parametrize("way", ["get_many", "mixed"])
def test_equal_names_of_different_keys_are_told_apart(near: RBCache, way: str) -> None:
    near.set_many({"1": "text", "True": "truth"})
    for _ in range(3):
        assert near.get_many([1, True]) == {1: "truth"}
        assert near.get("1") == "text"


def test_has_key_is_near(near: RBCache, sent: Sent) -> None:
    near.set("key", 1)
    near.get("key")
    assert sent(lambda: near.has_key("key")) == {}
    assert near.has_key("key")
    assert not near.has_key("other")


def test_computed_values_are_near(near: RBCache, sent: Sent) -> None:
    def get(seconds: float = 60) -> Any:
        return near.get_or_set("key", lambda: "computed", seconds, lock=5)

    assert get() == "computed"
    assert get() == "computed"
    assert sent(get) == {}
    near.delete("key")
    assert near.get_or_set("key", lambda: "anew", 60, lock=5) == "anew"
    assert near.get_or_set("plain", lambda: "plain", 60) == "plain"
    assert near.get("plain") == "plain"
    assert sent(lambda: near.get_or_set("plain", lambda: "other", 60)) == {}
    many = near.get_or_set_many(["key", "b"], lambda keys: dict.fromkeys(keys, "b"), 60)
    assert many == {"key": "anew", "b": "b"}


def test_a_stale_computed_value_is_computed_anew_although_it_is_near(near: RBCache) -> None:
    values = iter("abc")

    def get() -> Any:
        return near.get_or_set("key", lambda: next(values), 0.05, stale=60, lock=5)

    assert get() == "a"
    assert get() == "a"
    sleep(0.06)
    assert get() == "b"
    assert get() == "b"


@pytest.mark.parametrize("keeps", [True, False])
def test_misses_are_kept_where_it_is_asked_for(
    nodes: LocalNodes, sent: Sent, keeps: bool
) -> None:
    near = make_near(KEEP_MISSES=keeps)
    assert near.get("none", "default") == "default"
    assert near.get_many(["none", "nothing"]) == {}
    counts = sent(lambda: [near.get("none"), near.get_many(["none", "nothing"])])
    assert (counts == {}) is keeps
    assert near.get("none", "default") == "default"
    assert not near.has_key("none")
    near.add("none", 1)
    assert near.get("none") == 1


def test_only_keys_with_the_prefixes_are_near(nodes: LocalNodes, sent: Sent) -> None:
    near = make_near(PREFIXES=["menu:", "flags"])
    data = {"menu:a": 1, "flags": 2, "other": 3, "a_menu:": 4}
    near.set_many(data)
    near.set("menu:a", "of version 2", version=2)
    for _ in range(2):
        assert near.get_many(data) == data
        assert [near.get(key) for key in data] == [1, 2, 3, 4]
        assert near.get("menu:a", version=2) == "of version 2"
    counts = sent(lambda: near.get_many(data))
    assert sum(counts.values()) in {1, 2}
    assert info(near).copies == 3
    assert sent(lambda: near.get("other")) == {"get": 1}


def test_bytes_are_bounded_and_what_was_not_used_for_longest_goes(nodes: LocalNodes) -> None:
    near = make_near(MAX_BYTES=20_000)
    near.set_many({f"key{n}": "x" * 100 for n in range(100)})
    for n in range(100):
        near.get(f"key{n}")
        near.get("key0")
    found = info(near)
    assert found.bytes <= 20_000
    assert found.evictions == 100 - found.copies
    hits = found.hits
    near.get("key0")
    assert info(near).hits == hits + 1
    near.get("key1")
    assert info(near).hits == hits + 1
    near.set("large", "x" * 30_000)
    assert near.get("large") == near.get("large") == "x" * 30_000
    assert info(near).bytes <= 20_000


# What is not near any more.

WRITES: list[Callable[[RBCache], Any]] = [
    lambda cache: cache.set("key", 5),
    lambda cache: cache.set("key", 5, nx=True),
    lambda cache: cache.set("key", 5, xx=True),
    lambda cache: cache.set("key", 5, 0),
    lambda cache: cache.set_many({"key": 5}),
    lambda cache: cache.add("key", 5),
    lambda cache: cache.incr("key"),
    lambda cache: cache.decr("key", 3),
    lambda cache: cache.delete("key"),
    lambda cache: cache.delete_many(["key", "other"]),
    lambda cache: cache.delete_pattern("k*"),
    lambda cache: cache.clear(),
    lambda cache: cache.touch("key", 100),
    lambda cache: cache.touch("key", 0),
    lambda cache: cache.incr_version("key"),
    lambda cache: cache.incr_version("key", -1, version=2),
    lambda cache: cache.expire_at("key", 1),
    lambda cache: cache.refresh("key", lambda: 5),
    lambda cache: cache.client().set("key", 5),
    lambda cache: cache.client().incr("key"),
]


@pytest.mark.parametrize("number", range(len(WRITES)))
def test_own_writes_are_seen_at_once(
    near: RBCache, other: RBCache, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    near.set("key", 1)
    near.set("key", 2, version=2)
    near.get("key")
    near.get("key", version=2)
    # Nobody looks whether something was told: what is dropped, this process drops itself.
    clusters["default"].trackings.look_at = float("inf")
    WRITES[number](near)
    assert near.get("key") == other.get("key")
    assert near.get("key", version=2) == other.get("key", version=2)
    assert near.get_many(["key"]) == other.get_many(["key"])


def test_a_write_that_fails_drops_the_copy(near: RBCache) -> None:
    near.set("key", "text")
    near.get("key")
    with pytest.raises(redis.ResponseError):
        near.incr("key")
    assert info(near).copies == 0


@pytest.mark.only_sync
def test_promised_writes_are_seen_at_once(near: RBCache) -> None:
    near.set("key", 1)
    near.get("key")
    clusters["default"].trackings.look_at = float("inf")
    with near.client().map() as client:
        client.set("key", 2)
    assert near.get("key") == 2


def test_changes_of_others_are_heard(near: RBCache, other: RBCache) -> None:
    for cache in (other, near):
        cache.set("key", 1)
        assert near.get("key") == 1
    other.set("key", 2)
    wait_for(near, "key", 2)
    assert near.get_many(["key"]) == {"key": 2}
    other.delete("key")
    wait_for(near, "key", None)
    assert info(near).invalidations >= 2


def test_what_was_said_before_a_read_does_not_keep_it_from_being_near(
    near: RBCache, other: RBCache, sent: Sent
) -> None:
    near.set("key", 0)
    near.get("key")
    clusters["default"].trackings.look_at = float("inf")  # it is told with the reply
    for n in range(1, 4):
        other.set("key", n)
        near.near_clear()
        assert near.get("key") == n
        assert sent(lambda: near.get("key")) == {}


def test_a_flush_is_heard(near: RBCache, other: RBCache) -> None:
    near.set_many({"a": 1, "b": 2})
    near.get_many(["a", "b"])
    other.clear()
    wait_for(near, "a", None)
    wait_for(near, "b", None)


def test_a_flush_that_is_told_with_a_reply_is_heard(
    near: RBCache, other: RBCache, sent: Sent
) -> None:
    near.set("key", 1)
    near.get("key")
    other.clear()
    other.set("key", 2)
    near.near_clear()
    clusters["default"].trackings.look_at = float("inf")
    assert near.get("key") == 2
    assert sent(lambda: near.get("key")) == {}


def test_what_a_killed_connection_would_have_told_is_asked_for(
    near: RBCache, other: RBCache, servers: Servers
) -> None:
    near.set("key", 1)
    near.get("key")
    for host_id in range(4):
        servers.ask(host_id, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        other.set("key", 2)
    except redis.ConnectionError:  # its connection was killed as well
        other.set("key", 2)
    wait_for(near, "key", 2)
    assert near.get("key") == 2  # and is near again
    other.set("key", 3)
    wait_for(near, "key", 3)


@pytest.mark.static
@pytest.mark.only_sync
def test_copies_count_no_more_when_hosts_come_and_go(near: RBCache, nodes: LocalNodes) -> None:
    data = {f"key{n}": n for n in range(20)}
    near.set_many(data)
    near.get_many(data)
    host = nodes.hosts[3]
    near.cluster.remove_host(3)
    sleep(0.002)  # between two looks
    hits = info(near).hits
    near.get_many(data)
    assert info(near).hits == hits
    near.cluster.add_host(3, host)


@pytest.mark.only_sync
def test_copies_of_a_node_that_was_given_up_count_no_more(near: RBCache) -> None:
    near.set("key", 1)
    near.get("key")
    for node in near.cluster.nodes.values():
        node.epoch += 1  # as after READONLY, and when it is down
    sleep(0.002)
    hits = info(near).hits
    assert near.get("key") == 1
    assert info(near).hits == hits
    assert near.get("key") == 1
    assert info(near).hits == hits + 1


def test_max_age_bounds_and_so_does_the_expiry_of_the_key(
    nodes: LocalNodes, sent: Sent
) -> None:
    near = make_near(MAX_AGE=0.1)
    near.set_many({"a": 1, "b": 2}, None)
    near.get("a")
    near.get_many(["b"])
    sleep(0.12)
    assert sum(sent(lambda: [near.get("a"), near.get_many(["b"])]).values()) == 4
    near = make_near()
    near.set_many({"a": 1, "b": 2}, 0.1)
    assert near.get("a") == 1
    assert near.get_many(["b"]) == {"b": 2}
    sleep(0.12)
    clusters["default"].trackings.look_at = float("inf")  # whatever the node tells of it
    assert near.get("a") is None
    assert near.get_many(["b"]) == {}


def test_a_node_that_was_not_heard_for_long_is_asked(
    near: RBCache, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_rb.engine.near.tracking.HEARD_SECONDS", 0.05)
    near.set("key", 1)
    near.get("key")
    sleep(0.06)
    assert sent(lambda: near.get("key")) == {"get": 1, "pttl": 1}


def test_near_clear_drops_all_copies_of_this_process(near: RBCache, sent: Sent) -> None:
    near.set("key", 1)
    near.get("key")
    near.near_clear()
    assert info(near).copies == info(near).bytes == 0
    assert sent(lambda: near.get("key")) == {"get": 1, "pttl": 1}
    make_cache().near_clear()
    assert make_cache().near_info() is None


# With whom copies are shared.


def test_caches_with_the_same_settings_share_their_copies(near: RBCache, sent: Sent) -> None:
    near.set("key", 1)
    near.get("key")
    assert sent(lambda: make_near().get("key")) == {}
    assert make_near(MAX_AGE=5).get("key") == 1
    near.set("key", 2)
    wait_for(make_near(MAX_AGE=5), "key", 2)


def test_nothing_is_left_when_settings_change(nodes: LocalNodes) -> None:
    near = make_near()
    near.set("key", 1)
    near.get("key")
    trackings = clusters["default"].trackings
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}}):
        assert info(near).copies == 0
        assert near.cluster.trackings is not trackings


@pytest.mark.only_sync
@pytest.mark.skipif(not hasattr(os, "fork"), reason="There is no fork().")
def test_a_forked_child_has_no_copies_and_hears_for_itself(
    near: RBCache, other: RBCache
) -> None:
    near.set("key", 1)
    near.get("key")
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            found = [info(near).copies, near.get("key"), near.get("key")]
            other.set("key", 2)
            wait_for(near, "key", 2)
            os.write(writes, repr([*found, info(near).hits > 0]).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reads, 100) == b"[0, 1, 1, True]"
    os.close(reads)
    os.close(writes)
    wait_for(near, "key", 2)


@pytest.mark.only_sync
def test_threads_read_side_by_side(near: RBCache) -> None:
    data = {f"key{n}": n for n in range(50)}
    near.set_many(data)
    wrong: list[Any] = []

    def read() -> None:
        for n in range(300):
            key = f"key{n % 50}"
            if near.get(key) != data[key] or near.get_many([key]) != {key: data[key]}:
                wrong.append(key)
            if n % 20 == 0:
                near.near_clear()

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Where nodes do not track keys.


@pytest.fixture
def untracked(nodes: LocalNodes, servers: Servers) -> Iterator[RBCache]:
    """A cache whose user may not have keys tracked."""
    for host_id in range(4):
        servers.ask(
            host_id, "ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all",
            "-client|tracking",
        )  # fmt: skip
    hosts = {
        n: {**host, "username": "plain", "password": "pw"} for n, host in nodes.hosts.items()
    }
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
        yield make_near()
    for host_id in range(4):
        servers.ask(host_id, "ACL", "DELUSER", "plain")


@pytest.mark.static
def test_where_keys_are_not_tracked_nothing_is_near(
    untracked: RBCache, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"a": 1, "b": 2}
    untracked.set_many(data)
    for _ in range(2):
        assert untracked.get("a") == 1
        assert untracked.get_many(data) == data
    assert info(untracked).copies == info(untracked).hits == 0
    assert "reports an error" in caplog.text
    assert "client|tracking" in caplog.text
    assert all(node.state == "up" for node in untracked.cluster.health().values())


# What is told.


class Told(Observer):
    def __init__(self) -> None:
        self.batches: list[BatchEvent] = []

    def batch_ended(self, batch: BatchEvent) -> None:
        self.batches.append(batch)


def test_observers_are_told_of_hits_near(near: RBCache) -> None:
    told = Told()
    near.set_many({"a": 1, "b": 2})
    add_observer(near.cluster, told)
    near.get("a"), near.get("a"), near.get_many(["a", "b"]), near.has_key("a")
    assert [(b.operation, b.rounds, b.hits, b.near) for b in told.batches] == [
        ("get", 1, 1, 0),
        ("get", 0, 1, 1),
        ("get_many", 1, 2, 1),
        ("has_key", 0, 0, 1),
    ]


# Settings.


@pytest.mark.only_sync
@for_each(
    ("value", "parts"),
    [
        (True, ["['NEAR']", "True", "dictionary"]),
        ({"MAXBYTES": 1}, ["['MAXBYTES']", "Did you mean 'MAX_BYTES'?"]),
        ({"MAX_BYTES": 0}, ["['MAX_BYTES']", "0", "number of bytes"]),
        ({"MAX_BYTES": "many"}, ["['MAX_BYTES']", "'many'"]),
        ({"MAX_BYTES": True}, ["['MAX_BYTES']", "True"]),
        ({"MAX_AGE": 0}, ["['MAX_AGE']", "0", "timedelta"]),
        ({"MAX_AGE": None}, ["['MAX_AGE']", "None"]),
        ({"MAX_AGE": float("nan")}, ["['MAX_AGE']", "nan"]),
        ({"MAX_AGE": True}, ["['MAX_AGE']", "True"]),
        ({"PREFIXES": "menu:"}, ["['PREFIXES']", "'menu:'", "list"]),
        ({"PREFIXES": []}, ["['PREFIXES']", "[]", "Leave it out"]),
        ({"PREFIXES": ["a", ""]}, ["['PREFIXES']"]),
        ({"PREFIXES": [b"a"]}, ["['PREFIXES']"]),
        ({"KEEP_MISSES": "yes"}, ["['KEEP_MISSES']", "'yes'", "True or False"]),
    ],
)
def test_a_mistake_in_the_settings_is_explained(
    nodes: LocalNodes, value: Any, parts: list[str]
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_cache(OPTIONS={"NEAR": value}).check_settings()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.only_sync
def test_prefixes_need_keys_that_can_be_read(nodes: LocalNodes) -> None:
    options = {"NEAR": {"PREFIXES": ["a"]}}
    function = lambda key, prefix, version: f"{key}|{version}"  # noqa: E731
    with pytest.raises(ImproperlyConfigured, match="REVERSE_KEY_FUNCTION"):
        make_cache(OPTIONS=options, KEY_FUNCTION=function).check_settings()
    options["REVERSE_KEY_FUNCTION"] = lambda made: made.rpartition("|")[0]  # type: ignore[assignment]
    near = make_cache(OPTIONS=options, KEY_FUNCTION=function)
    near.set_many({"a": 1, "b": 2})
    assert near.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert info(near).copies == 1


@pytest.mark.only_sync
def test_a_cache_that_is_warmed_keeps_no_copies() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"both OPTIONS\['NEAR'\] and .*Leave NEAR"):
        make_cache(OPTIONS={"NEAR": {}, "WARM_FROM": "old"}).check_settings()


@pytest.mark.only_sync
def test_none_is_for_no_copies_and_text_for_numbers(nodes: LocalNodes) -> None:
    assert make_cache(OPTIONS={"NEAR": None}).near_info() is None
    cache = make_cache(OPTIONS={"NEAR": {"MAX_BYTES": "1000", "MAX_AGE": "0.5"}})
    assert info(cache).max_bytes == 1000
    assert info(make_cache(OPTIONS={"NEAR": {}})).max_bytes == 32 * 2**20


def test_sessions_are_near(nodes: LocalNodes, sent: Sent) -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    config = {"BACKEND": "django_rb.cache.RBCache", "OPTIONS": {"NEAR": NEAR}}
    with override_settings(CACHES={"default": config}, SESSION_CACHE_ALIAS="default"):
        session = SessionStore()
        session["cart"] = [1]
        session.save()
        key = session.session_key
        assert SessionStore(key)["cart"] == [1]
        assert sent(lambda: SessionStore(key)["cart"]) == {}
        session = SessionStore(key)
        session["cart"] = [2]
        session.save()
        assert SessionStore(key)["cart"] == [2]
