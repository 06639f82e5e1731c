"""What was deleted, changed or counted since does not come back from the old layout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import time
from typing import Any

import pytest

from django_rb.cache.warming import old_layout
from django_rb.engine.protocol.interludes import Visit
from django_rb.testing import LocalNodes
from tests.cache.warming.conftest import KEYS, Caches, make_caches
from tests.helpers import wait_until

pytestmark = pytest.mark.static


@pytest.fixture
def key(caches: Caches) -> str:
    """A key that moves; the old layout has 7."""
    caches.before.set_many(dict.fromkeys(KEYS, 7), 1000)
    return caches.moving[0]


def clear(caches: Caches) -> bool:
    caches.after._ops._old.fill_seconds = 0.2  # type: ignore[attr-defined]  # not the whole time
    return caches.after.clear()


DELETIONS: dict[str, Callable[[Caches, str], Any]] = {
    "delete": lambda caches, key: caches.after.delete(key),
    "delete_many": lambda caches, _: caches.after.delete_many(KEYS),
    "clear": lambda caches, _: clear(caches),
    "delete_pattern": lambda caches, _: caches.after.delete_pattern("page:*") == len(KEYS),
    "touch": lambda caches, key: caches.after.touch(key, 0),
    "set": lambda caches, key: caches.after.set(key, 8, 0),
    "set_many": lambda caches, key: caches.after.set_many({key: 8}, 0),
    "expire_at": lambda caches, key: caches.after.expire_at(key, time() - 5),
    "incr_version": lambda caches, key: caches.after.incr_version(key),
}


@pytest.mark.parametrize("way", DELETIONS)
def test_what_was_deleted_does_not_come_back(caches: Caches, key: str, way: str) -> None:
    other = caches.moving[1]
    assert caches.after.get(other) == 7  # a copy is left in the old layout
    assert DELETIONS[way](caches, key) is not False
    DELETIONS[way](caches, other)  # some ways have deleted both
    for name in (key, other):
        assert caches.after.get(name) is None
        assert caches.before.get(name) is None
        assert not caches.after.has_key(name)
        assert caches.after.add(name, 9)
        assert caches.after.get(name) == 9


@pytest.mark.parametrize("layout", ["replaced"], indirect=True)
@pytest.mark.parametrize("way", DELETIONS)
def test_who_has_read_the_old_copy_just_before_does_not_store_it(
    caches: Caches, key: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has its answer of the old layout; then another deletes the key."""
    other = make_caches(DEADLINE=0.8)
    deletions: list[Any] = []

    def delete() -> None:
        thread = threading.Thread(
            target=lambda: deletions.append(DELETIONS[way](other, key) is not False)
        )
        thread.start()
        if way == "clear":  # it waits for us, but not for ever
            thread = threading.Thread(
                target=lambda: wait_until(lambda: other.before.get(key) is None)
            )
            thread.start()
        thread.join()

    class Interrupted(Visit[Any]):
        def run(self, left: float) -> None:
            super().run(left)
            interrupt()

        async def arun(self, left: float) -> None:
            await super().arun(left)
            interrupt()

    waiting = [delete]

    def interrupt() -> None:
        if waiting and threading.current_thread() is threading.main_thread():
            waiting.pop()()

    read = old_layout.OldLayout.read
    monkeypatch.setattr(
        old_layout.OldLayout,
        "read",
        lambda self, moved: Interrupted(self.cluster, self._read(moved), self.seconds),
    )
    caches.after.get(key)
    monkeypatch.setattr(old_layout.OldLayout, "read", read)
    wait_until(lambda: deletions)
    assert deletions == [True]
    assert caches.after.get(key) is None
    assert caches.plain.get(key) is None


def test_a_value_that_was_set_is_not_followed_by_the_old_one(caches: Caches, key: str) -> None:
    caches.after.set(key, "new", 0.02)
    assert caches.before.get(key) is None
    wait_until(lambda: caches.plain.get(key) is None)
    assert caches.after.get(key) is None
    caches.after.set_many(dict.fromkeys(KEYS, "new"), 0.02)
    assert not caches.before.get_many(caches.moving)
    wait_until(lambda: not caches.plain.get_many(KEYS))
    assert caches.after.get_many(KEYS) == {}


def test_add_sees_what_only_the_old_layout_has(caches: Caches, key: str) -> None:
    assert not caches.after.add(key, 8)
    assert caches.plain.get(key) == 7
    assert not caches.after.set(key, 8, nx=True)
    assert not caches.after.add(key, 8, 0)
    new = next(f"new:{n}" for n in range(99) if caches.is_moving(f"new:{n}"))
    assert caches.after.add(new, 1)
    assert not caches.after.add(new, 2)
    assert not caches.after.set(f"{new}x", 2, xx=True)
    assert caches.after.set(key, 8, xx=True)
    assert caches.before.get(key) is None
    assert caches.after.get(key) == 8


def test_counters_go_on_from_the_old_number(caches: Caches, key: str) -> None:
    other = caches.moving[1]
    assert caches.after.incr(key) == 8
    assert caches.after.decr(other, 7) == 0
    assert caches.after.incr(other, ignore_key_check=True) == 1
    assert caches.before.get(key) is None
    assert 990 < (caches.plain.ttl(key) or 0) <= 1000
    new = next(f"new:{n}" for n in range(99) if caches.is_moving(f"new:{n}"))
    with pytest.raises(ValueError, match="not found"):
        caches.after.incr(new)
    assert caches.after.incr(new, -1, ignore_key_check=True) == -1
    assert caches.after.incr(new, ignore_key_check=True) == 0
    assert caches.after.incr(new, ignore_key_check=True) == 1


def test_a_new_time_counts(caches: Caches, key: str) -> None:
    one, two, three, four, *_ = caches.moving
    assert caches.after.touch(one, 50)
    assert caches.after.expire_at(two, time() + 50)
    assert caches.after.persist(three)
    assert caches.after.touch(four, None)
    assert 40 < (caches.after.ttl(one) or 0) <= 50
    assert 40 < (caches.after.ttl(two) or 0) <= 51
    assert caches.after.ttl(three) is None
    assert caches.after.ttl(four) is None
    assert caches.before.get_many([one, two, three, four]) == {}
    assert not caches.after.touch("nothing")


def test_a_version_is_moved_from_the_old_layout_over_what_is_there(
    caches: Caches, key: str
) -> None:
    caches.before.set_many(dict.fromkeys(KEYS, "second"), 1000, version=2)
    for name in KEYS:
        assert caches.after.incr_version(name) == 2
    assert caches.after.get_many(KEYS, version=2) == dict.fromkeys(KEYS, 7)
    assert caches.after.get_many(KEYS) == {}
    caches.after.delete_many(KEYS, version=2)
    assert caches.after.get_many(KEYS, version=2) == {}
    with pytest.raises(ValueError, match="not found"):
        caches.after.incr_version(key)


@pytest.mark.only_sync
def test_nothing_is_counted_or_added_twice(caches: Caches, key: str) -> None:
    counters, many, rounds = caches.moving[:5], 8, 20
    together = threading.Barrier(many)
    added: list[str] = []

    def work() -> None:
        together.wait()
        for n in range(rounds):
            for counter in counters:
                caches.after.incr(counter)
            if caches.after.add(f"lock:{n}", 1):
                added.append(f"lock:{n}")

    threads = [threading.Thread(target=work) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caches.after.get_many(counters) == dict.fromkeys(counters, 7 + many * rounds)
    assert sorted(added) == sorted({*added})
    assert len(added) == rounds


@pytest.mark.parametrize("own_name", ["localhost", "127.0.0.1"])
def test_a_node_with_another_name_in_the_old_layout_is_the_same_node(
    nodes: LocalNodes, own_name: str, settings: Any
) -> None:
    settings.RB_CLUSTERS = {
        "old": {"HOSTS": {n: {**host, "host": own_name} for n, host in nodes.hosts.items()}},
        "default": {"HOSTS": nodes.hosts},
    }
    caches = make_caches()
    for name in KEYS[:8]:
        caches.after.set(name, 1)
        assert caches.after.incr(name) == 2
        assert caches.after.touch(name, 100)
        assert caches.after.get(name) == 2
        assert caches.after.delete(name)
        assert caches.after.get(name) is None


def test_companions_are_no_keys(caches: Caches, key: str) -> None:
    caches.after.delete_many(KEYS[:10])
    assert sorted(caches.after.keys()) == sorted(KEYS[10:])
    assert caches.after.delete_pattern("*") == len(KEYS) - 10
    assert caches.after.keys() == []
    assert caches.after.get_many(KEYS) == {}
