"""Slots that move: MOVED, ASK, TRYAGAIN, and many of them under load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import count, find, store
from tests.helpers import wait_until
from tests.rediscluster.admin import Admin, Questions, slot_of

KEYS = [f"key:{n}" for n in range(60)]
TAG = "{t}"
SLOT = slot_of(TAG)


@contextmanager
def moving(admin: Admin, slot: int) -> Iterator[tuple[int, int]]:
    """A slot that is under way from its owner to another node; it gets back in the end."""
    source = admin.owner(slot)
    target = (source + 1) % 3
    admin.begin_move(slot, source, target)
    try:
        yield source, target
    finally:
        if admin.owner(slot, target) == source:
            admin.end_move(slot, source, target)
        admin.move(slot, target, source)
        admin.agree(slot, source)


def test_a_slot_that_moved_is_followed_at_once_and_asked_for_once(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    client = cluster.get_routing_client()
    client.mset({key: key for key in KEYS})
    with moving(admin, slot_of(KEYS[0])) as (source, target):
        admin.end_move(slot_of(KEYS[0]), source, target)
        cluster.observers = (questions := Questions(),)
        assert client.mget(KEYS) == [key.encode() for key in KEYS]
        assert client.mget(KEYS) == [key.encode() for key in KEYS]
        assert questions.redirects == 1
        assert questions.count <= 1
        assert cluster.get_host_for_key(KEYS[0]) == target


def test_a_thousand_that_meet_a_move_ask_for_the_layout_once(
    admin: Admin, new_cluster: Callable[[], Cluster]
) -> None:
    cluster = new_cluster()
    cluster.get_routing_client().set(f"{TAG}:1", "value")
    with moving(admin, SLOT) as (source, target):
        admin.end_move(SLOT, source, target)
        cluster.observers = (questions := Questions(),)
        got: list[object] = []

        def get_all() -> None:
            async def main() -> None:
                got.extend(
                    await asyncio.gather(*(cluster.aio.get(f"{TAG}:1") for _ in range(100)))
                )

            asyncio.run(main())

        def get() -> None:
            got.extend(cluster.get_routing_client().get(f"{TAG}:1") for _ in range(5))

        threads = [threading.Thread(target=get) for _ in range(100)]
        threads += [threading.Thread(target=get_all) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [b"value"] * 1000
        assert questions.count <= 1  # none while the last answer is not a second old
        wait_until(lambda: cluster.get_routing_client().get(f"{TAG}:1") and questions.count)
        assert questions.count == 1


def test_what_is_under_way_is_asked_for_where_it_is(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    client = cluster.get_routing_client()
    keys = [f"{TAG}:{n}" for n in range(6)]
    client.mset({key: key for key in keys})
    with moving(admin, SLOT) as (source, target):
        admin.move_keys(keys[:3], source, target)
        cluster.observers = (questions := Questions(),)
        with cluster.map(auto_batch=False) as block:
            got = [block.get(key) for key in keys]
            steps = [block.append(keys[0], "1"), block.append(keys[0], "2")]
            new = (
                block.set(f"{TAG}:new", "x"),
                block.incrby(f"{TAG}:n", 5),
                block.incr(f"{TAG}:n"),
            )
        assert [promise.value for promise in got] == [key.encode() for key in keys]
        assert [step.value for step in steps] == [len(keys[0]) + 1, len(keys[0]) + 2]
        assert [promise.value for promise in new] == [True, 5, 6]
        assert questions.count == 0  # ASK changes nothing
        assert cluster.get_host_for_key(keys[0]) == source
        assert sorted(client.scan_iter()) == sorted(
            key.encode() for key in keys[3:]
        )  # what has moved comes when its slot has


def test_scripts_follow_their_keys(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    client = new_cluster().get_routing_client()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=[f"{TAG}:1"], args=[2]) == 2
    with moving(admin, SLOT) as (source, target):
        admin.move_keys([f"{TAG}:1"], source, target)
        for node in range(3):
            admin.ask(node, "SCRIPT", "FLUSH")
        assert script(keys=[f"{TAG}:1"], args=[3]) == 5
        admin.end_move(SLOT, source, target)
        assert script(keys=[f"{TAG}:1"], args=[3]) == 8


def test_keys_on_both_sides_are_waited_for(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    client = cluster.get_routing_client()
    client.mset({f"{TAG}:1": 1, f"{TAG}:2": 2})
    with moving(admin, SLOT) as (source, target):
        admin.move_keys([f"{TAG}:1"], source, target)
        timer = threading.Timer(0.1, admin.end_move, (SLOT, source, target))
        timer.start()
        assert client.mget(f"{TAG}:1", f"{TAG}:2") == [b"1", b"2"]
        timer.join()


def test_what_is_not_to_be_had_in_time_is_said(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    cluster.get_routing_client().mset({f"{TAG}:1": 1, f"{TAG}:2": 2})
    with moving(admin, SLOT) as (source, target):
        admin.move_keys([f"{TAG}:1"], source, target)
        with (
            pytest.raises(redis.exceptions.TryAgainError, match=r"TRYAGAIN .*\[node"),
            cluster.map(timeout=0.2) as block,
        ):
            block.mget(f"{TAG}:1", f"{TAG}:2")


def test_a_lock_survives_a_move(admin: Admin, new_cluster: Callable[[], Cluster]) -> None:
    client = new_cluster().get_routing_client()
    with client.lock(TAG, timeout=30) as lock, moving(admin, SLOT) as (source, target):
        admin.end_move(SLOT, source, target)
        assert lock.owned()
        assert client.lock(TAG, blocking=False).acquire() is False
        lock.extend(10)
    assert client.exists(TAG) == 0


def test_slots_move_under_load(admin: Admin, new_cluster: Callable[[], Cluster]) -> None:
    slots = sorted({slot_of(key) for key in KEYS if admin.owner(slot_of(key)) == 0})
    keys = [key.encode() for key in KEYS]
    cluster = new_cluster()
    cluster.get_routing_client().mset({key: key for key in keys})
    failed: list[object] = []
    is_over = threading.Event()
    rounds = [0] * 3

    def work(number: int) -> None:
        mine = [b"%d:%b" % (number, key) for key in keys]
        try:
            while not is_over.is_set():
                rounds[number] += 1
                values = [b"%d" % rounds[number]] * len(mine)
                _, failures = cluster.run(store(cluster, mine, values, bytes))
                failed.extend(failures)
                found, failures = cluster.run(find(cluster, mine))
                failed.extend(failures)
                if found != dict(zip(mine, values, strict=True)):
                    failed.append(found)
                deleted, failures = cluster.run(count(cluster, b"UNLINK", mine))
                failed.extend(failures)
                if deleted != len(mine):
                    failed.append(deleted)
        except Exception as error:  # noqa: BLE001 (the test tells)
            failed.append(error)

    def work_on_loop() -> None:
        async def main() -> None:
            while not is_over.is_set():
                rounds[2] += 1
                got = await cluster.aio.mget(keys)
                if got != keys:
                    failed.append(got)

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    threads.append(threading.Thread(target=work_on_loop))
    for thread in threads:
        thread.start()
    try:
        for slot in slots:
            admin.move(slot, 0, 1)
        seen = rounds[:]
        wait_until(
            lambda: all(now > before + 1 for now, before in zip(rounds, seen, strict=True))
        )
        for slot in slots:
            admin.move(slot, 1, 0)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        admin.agree(slots[-1], 0)
    assert failed == []
