"""Computed values while the slot of their key moves: one computes, the others are served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.cache.companions import lease_of
from django_rb.testing import LocalNodes
from tests.cache.conftest import face  # noqa: F401 (with a cache's methods, and their twins)
from tests.cache.test_stampedes import KEY, STORED, Work, fail, make_other_process, make_stale
from tests.helpers import make_cache, wait_until
from tests.rediscluster.admin import Admin, Questions, slot_of

SLOT = slot_of(STORED.decode())
LEASE = lease_of(STORED)


@pytest.fixture
def cache(redis_cluster: LocalNodes) -> Iterator[RBCache]:
    options = {"HOSTS": redis_cluster.hosts, "TOPOLOGY": redis_cluster.topology}
    with override_settings(RB_CLUSTERS={"default": options}):
        yield make_cache()
    clusters.reset()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@contextmanager
def moved_to_and_fro(admin: Admin) -> Iterator[None]:
    """Move the slot from one node to another and back until the block ends."""
    home = admin.owner(SLOT)
    is_over = threading.Event()
    failed: list[Exception] = []

    def move() -> None:
        try:
            source, target = home, (home + 1) % 3
            while not is_over.is_set() or source != home:
                admin.begin_move(SLOT, source, target)
                for key in (LEASE, STORED):  # one of them is here, the other there
                    admin.move_keys([key], source, target)
                admin.end_move(SLOT, source, target)
                source, target = target, source
        except Exception as error:  # noqa: BLE001 (the test tells)
            failed.append(error)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        admin.agree(SLOT, home)
    assert failed == []


def test_one_computes_what_is_missing_while_its_lease_moves(
    admin: Admin, cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    home = admin.owner(SLOT)
    away = (home + 1) % 3
    work = Work(waits=True)
    processes = [cache, *(make_other_process() for _ in range(5))]
    admin.begin_move(SLOT, home, away)
    calls = [pool.submit(cache.get_or_set, KEY, work, 60, lock=10)]
    assert work.began.wait(5)
    admin.move_keys([LEASE], home, away)
    calls += [pool.submit(one.get_or_set, KEY, fail, 60, lock=10) for one in processes]
    wait_until(lambda: admin.ask(away, "CLUSTER", "COUNTKEYSINSLOT", SLOT) == 1)
    admin.end_move(SLOT, home, away)
    calls += [pool.submit(one.get_or_set, KEY, fail, 60, lock=10) for one in processes]
    work.may_end.set()
    assert {call.result(10) for call in calls} == {1}
    assert work.calls == 1
    admin.move(SLOT, away, home)
    assert [one.get(KEY) for one in processes] == [1] * 6
    assert admin.ask(home, "EXISTS", LEASE) == 0
    admin.agree(SLOT, home)


def test_each_computes_once_while_the_slot_moves_to_and_fro(
    admin: Admin, cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    processes = [cache, *(make_other_process() for _ in range(7))]
    make_stale(cache)
    with moved_to_and_fro(admin):
        for _ in range(20):
            work = Work()
            calls = [pool.submit(one.get_or_set, KEY, work, 60, lock=10) for one in processes]
            assert {call.result(10) for call in calls} == {1}
            assert work.calls == 1
            cache.refresh(KEY, lambda: 1, 0.001, stale=60)
            stale = Work()
            calls = [
                pool.submit(one.get_or_set, KEY, stale, 60, stale=60, lock=10)
                for one in processes
            ]
            assert {call.result(10) for call in calls} == {1}
            assert stale.calls <= 1
            cache.delete(KEY)


def test_who_computes_has_no_right_to_store_when_the_key_was_deleted(
    admin: Admin, cache: RBCache, pool: ThreadPoolExecutor
) -> None:
    """Also where the lease has moved and the value has not: the commands part ways."""
    home = admin.owner(SLOT)
    away = (home + 1) % 3
    for delete in (cache.delete, lambda key: cache.delete_many([key])):
        make_stale(cache)
        work = Work(waits=True)
        call = pool.submit(cache.get_or_set, KEY, work, 60, stale=60, lock=10)
        assert work.began.wait(5)
        admin.begin_move(SLOT, home, away)
        admin.move_keys([LEASE], home, away)
        clusters["default"].observers = (questions := Questions(),)
        delete(KEY)
        clusters["default"].observers = ()
        sent = [names for _, names in questions.sent]
        # The lease had gone, so that the key is deleted once more after it.
        gone = ("ASKING", "UNLINK")
        assert sent == [("UNLINK", "UNLINK"), gone, ("UNLINK",), gone]
        work.may_end.set()
        assert call.result(10) == 1
        assert cache.get(KEY) is None
        admin.end_move(SLOT, home, away)
        admin.move(SLOT, away, home)
    admin.agree(SLOT, home)
