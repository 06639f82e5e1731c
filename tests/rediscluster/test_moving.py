"""Slots that move: MOVED, ASK, TRYAGAIN, and many of them under load."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from benchmarks.redis_cluster import moving as slots_moving
from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import count, find
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.rediscluster.admin import Admin, Questions, slot_of
from tests.rediscluster.load import NAMES as KEYS
from tests.rediscluster.load import Load

TAG = "{t}"
SLOT = slot_of(TAG)

SAID = r"(TRYAGAIN |Deadline exceeded).*\[node"


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


@contextmanager
def half_moved(admin: Admin, client: Any, keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A slot that stays under way, with every other key on one side."""
    client.mset({key: key for key in keys})
    with moving(admin, slot_of(keys[0])) as (source, target):
        admin.move_keys(keys[::2], source, target)
        yield source, target


def test_keys_on_both_sides_are_asked_for_one_by_one(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    client = cluster.get_routing_client()
    keys = [f"{TAG}:{n}" for n in range(6)]
    values = [key.encode() for key in keys]
    with half_moved(admin, client, keys):
        cluster.observers = (questions := Questions(),)
        # What is on neither side is asked for on both.
        assert client.mget(f"{TAG}:none", *keys, "other", keys[0]) == [
            *(None, *values),
            *(None, values[0]),
        ]
        assert client.exists(*keys, f"{TAG}:none", keys[0]) == 7
        assert client.touch(*keys) == 6
        found, failures = cluster.run(find(cluster, values))
        assert (found, failures) == (dict(zip(values, values, strict=True)), [])
        assert [client.delete(*keys[:2]), client.unlink(*keys[1:4])] == [2, 2]
        assert cluster.run(count(cluster, b"UNLINK", values)) == (2, [])
        assert client.mget(keys) == [None] * 6
        # Each was refused, split, and then sent on in part.
        assert max(names.count("MGET") for _, names in questions.sent) == len(keys) + 2


def test_keys_on_both_sides_keep_the_order_of_commands(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    client = cluster.get_routing_client()
    moved, stayed = f"{TAG}:moved", f"{TAG}:stayed"
    with half_moved(admin, client, [moved, stayed]), cluster.map(auto_batch=False) as block:
        block.set(moved, "1")
        both = block.mget(moved, stayed)
        block.append(moved, "2")
        gone = block.delete(moved, stayed)
        length = block.append(moved, "3")
    assert both.value == [b"1", stayed.encode()]
    assert gone.value == 2
    assert length.value == 1


def test_a_key_of_another_type_on_both_sides_is_missing(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    client = new_cluster().get_routing_client()
    client.lpush(f"{TAG}:list", "x")
    with half_moved(admin, client, [f"{TAG}:1", f"{TAG}:2"]):
        assert client.mget(f"{TAG}:1", f"{TAG}:list", f"{TAG}:2") == [
            *(f"{TAG}:1".encode(), None, f"{TAG}:2".encode()),
        ]


def test_what_cannot_be_split_waits_for_its_keys(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    client = new_cluster().get_routing_client()
    keys = [f"{TAG}:1", f"{TAG}:2"]
    with half_moved(admin, client, keys) as (source, target):
        timer = threading.Timer(0.1, admin.end_move, (SLOT, source, target))
        timer.start()
        assert client.mset(dict.fromkeys(keys, "new")) is True
        timer.join()
        assert client.mget(keys) == [b"new"] * 2


def test_what_is_not_to_be_had_in_time_is_said(
    admin: Admin, new_cluster: Callable[[], Cluster], transport: str
) -> None:
    cluster = new_cluster()
    keys = [f"{TAG}:1", f"{TAG}:2"]
    too_late = pytest.raises((redis.exceptions.TryAgainError, redis.TimeoutError), match=SAID)
    with half_moved(admin, cluster.get_routing_client(), keys):
        with too_late, cluster.map(timeout=0.2) as block:
            block.mset(dict.fromkeys(keys, "new"))
            after = block.mget(keys)
        assert after.is_rejected  # it was not to see what was there before


def test_a_lock_survives_a_move(admin: Admin, new_cluster: Callable[[], Cluster]) -> None:
    client = new_cluster().get_routing_client()
    with client.lock(TAG, timeout=30) as lock, moving(admin, SLOT) as (source, target):
        admin.end_move(SLOT, source, target)
        assert lock.owned()
        assert client.lock(TAG, blocking=False).acquire() is False
        lock.extend(10)
    assert client.exists(TAG) == 0


# All that the tests have time for; so many as an operator moves with SLOTS=1000.
MANY_SLOTS = int(os.environ.get("SLOTS", "16"))


@pytest.fixture
def shared_load(admin: Admin, new_cluster: Callable[[], Cluster]) -> Iterator[Load]:
    """What threads and tasks do with keys while slots move."""
    load = Load(new_cluster())
    with load:
        yield load
    assert load.failed == []


def used_slots(admin: Admin, node: int) -> list[int]:
    """Return slots of a node, those with keys of the load first."""
    names = [f"{kind}:{key}" for kind in ("0", "1", "aio") for key in KEYS]
    first, last = admin.range_of(node)
    used = {slot for slot in map(slot_of, names) if first <= slot <= last}
    rest = [slot for slot in range(first, last + 1) if slot not in used]
    return [*used, *rest][:MANY_SLOTS]


def test_slots_move_under_load(admin: Admin, shared_load: Load) -> None:
    slots = used_slots(admin, 0)
    for source, target in ((0, 1), (1, 0)):
        first, *rest = slots
        admin.move(first, source, target)
        admin.move_many(rest, source, target)
        shared_load.wait()
    admin.agree(slots[-1], 0)


def test_slots_move_at_once_under_load(admin: Admin, shared_load: Load) -> None:
    """Valkey 9 moves slots as a whole; nobody is sent anywhere by ASK."""
    if not admin.nodes.server.startswith("valkey 9"):
        pytest.skip("is about Valkey 9")
    last = max(MANY_SLOTS, 400) - 1
    for source, target in ((0, 1), (1, 0)):
        to_target = ("SLOTSRANGE", 0, last, "NODE", admin.ids[target])
        admin.ask(source, "CLUSTER", "MIGRATESLOTS", *to_target)
        wait_until(lambda owner=target: admin.owner(last, owner) == owner, 20)  # type: ignore[misc]
        shared_load.wait()
    admin.agree(last, 0)


def test_slots_move_while_something_is_measured(
    admin: Admin, redis_cluster: LocalNodes, new_cluster: Callable[[], Cluster]
) -> None:
    client = new_cluster().get_routing_client()
    client.mset({key: key for key in KEYS})
    homes = {slot: admin.owner(slot) for slot in map(slot_of, KEYS)}
    with slots_moving(redis_cluster) as moved:
        begun = len(moved)
        wait_until(lambda: len(moved) > begun > 0)
        assert client.mget(KEYS) == [key.encode() for key in KEYS]
    owners = {slot: admin.owner(slot) for slot in homes}
    gone = {slot for slot in homes if owners[slot] != homes[slot]}
    assert gone
    assert gone <= set(moved) <= homes.keys()
    for source, target in {(owners[slot], homes[slot]) for slot in gone}:
        back = [slot for slot in gone if (owners[slot], homes[slot]) == (source, target)]
        admin.move_many(back, source, target)
    for slot in gone:
        admin.agree(slot, homes[slot])


def test_databases_other_than_0_are_those_of_valkey_9(
    admin: Admin, redis_cluster: LocalNodes, transport: str
) -> None:
    if redis_cluster.server.startswith("valkey 9"):
        options = {"cluster-databases": "4"}
        with (
            LocalNodes(2, topology="redis-cluster", options=options) as nodes,
            Admin(nodes) as two,
        ):
            check_database(nodes)
            assert [two.ask(n, "DBSIZE") for n in range(2)] == [0, 0]
        return
    with pytest.raises(redis.RedisError, match=r"SELECT is not allowed in cluster mode"):
        check_database(redis_cluster)


def check_database(nodes: LocalNodes) -> None:
    cluster = Cluster([{**nodes.hosts[0], "db": 3}], topology="redis-cluster")
    client = cluster.get_routing_client()
    client.mset({key: key for key in KEYS})
    assert client.mget(KEYS) == [key.encode() for key in KEYS]
    cluster.close()
