"""No reader sees a value go backwards, nor one that is too old, whatever happens meanwhile."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from time import sleep
from typing import Any

import pytest
import redis

from django_rb.testing import LocalNodes
from tests.cache.near_model import MAX_AGE
from tests.helpers import wait_until
from tests.management.processes import Running, read_until
from tests.rediscluster.admin import Admin, slot_of

pytestmark = [pytest.mark.only_sync, pytest.mark.static]


@contextmanager
def readers(nodes: LocalNodes, seconds: float, processes: int = 2) -> Iterator[list[Any]]:
    """Let processes read and write for a while; what they tell is in the list at the end."""
    asked = {
        "hosts": nodes.hosts,
        "topology": nodes.topology,
        "seconds": seconds,
        "seed": random.randrange(1000),
        "processes": processes,
    }
    told: list[Any] = []
    process = Running(json.dumps(asked), script=["-m", "tests.cache.near_model"])
    try:
        read_until(process, "begun\n")
        yield told
        said, _ = process.communicate(seconds + 90)
        assert process.returncode == 0, said
        told += json.loads(said.splitlines()[-1])  # after what is logged
    finally:
        process.kill()
        process.wait()


def check(told: list[Mapping[str, Any]], oldest: float) -> None:
    for process in told:
        assert process["backwards"] == [], told
        assert process["oldest"] < oldest, told
        assert process["near"] > 0, told
        assert process["invalidations"] > 0, told
        assert process["aget"] > 0, told


def test_changes_are_heard(nodes: LocalNodes) -> None:
    with readers(nodes, 0.5) as told:
        pass
    # 50 ms and the pauses of a busy machine; far less than MAX_AGE.
    check(told, 1.0)


def kill_connections(nodes: LocalNodes, client: Any, host_id: int) -> None:
    client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def flush(nodes: LocalNodes, client: Any, host_id: int) -> None:
    client.execute_command(random.choice(["FLUSHALL", "FLUSHDB"]))


def pause(nodes: LocalNodes, client: Any, host_id: int) -> None:
    nodes.pause(host_id)
    sleep(0.05)
    nodes.resume(host_id)


def restart(nodes: LocalNodes, client: Any, host_id: int) -> None:
    nodes.kill(host_id)
    nodes.restart(host_id)


FAULTS: list[Callable[[LocalNodes, Any, int], None]] = [
    kill_connections,
    flush,
    pause,
    kill_connections,
    restart,
    kill_connections,
    flush,
]


def test_nothing_goes_backwards_while_nodes_fail() -> None:
    with LocalNodes(3) as nodes:
        with readers(nodes, 2.0) as told:
            for fault in FAULTS:
                host_id = random.choice(list(nodes.hosts))
                client = redis.Redis(**nodes.address(host_id))
                with client, suppress(redis.ConnectionError):
                    fault(nodes, client, host_id)
                sleep(0.2)
        check(told, MAX_AGE)


def test_nothing_goes_backwards_while_slots_move() -> None:
    slots = {slot_of(f":1:counter:{n}") for n in range(24)}
    with LocalNodes(3, topology="redis-cluster") as nodes, Admin(nodes) as admin:
        owners = {slot: admin.owner(slot) for slot in slots}
        with readers(nodes, 1.5) as told:
            for slot in list(slots)[:4]:
                admin.move(slot, owners[slot], (owners[slot] + 1) % 3)
                sleep(0.1)
    check(told, MAX_AGE)


def is_primary(admin: Admin, node: int) -> bool:
    role = admin.ask(node, "ROLE")[0]
    return role in {b"master", "master"}


def test_nothing_goes_backwards_while_replicas_take_over() -> None:
    with LocalNodes(3, topology="redis-cluster", replicas=1) as nodes, Admin(nodes) as admin:
        for replica in (3, 4, 5):
            wait_until(partial(admin.is_in_place, replica))
        with readers(nodes, 1.2) as told:
            for replica in (3, 4):
                admin.ask(replica, "CLUSTER", "FAILOVER")  # it loses no write
                wait_until(partial(is_primary, admin, replica))
                sleep(0.1)
    check(told, MAX_AGE)
