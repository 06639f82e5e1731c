"""Spins: where threads compete for the interpreter, answers are looked for, not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from django_rb.cache import RBCache
from django_rb.engine import Cluster
from django_rb.engine.sockets import NOTHING_YET
from django_rb.engine.spinning import LOOKS, Spin
from django_rb.testing import LocalNodes
from tests.helpers import make_cache, wait_until

LONG = 0.005


class Answering:
    """A connection of which something can be read after some looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def receive_now(self) -> int:
        self.left -= 1
        return NOTHING_YET if self.left > 0 else 7


def spin_for(spin: Spin, looks: int) -> int:
    return spin.receive(Answering(looks).receive_now)


def long_waits_until_the_next_spin(spin: Spin) -> int:
    for count in range(1, 10_000):
        spin.waited(LONG)
        if spin.left > 0:
            return count
    raise AssertionError("no spin any more")


def test_spins_follow_a_long_wait_and_no_other() -> None:
    spin = Spin()
    spin.waited(0.0005)
    assert spin.left == 0
    spin.waited(LONG)
    spins = spin.left
    assert spins > 1
    assert spin_for(spin, LOOKS) == 7
    assert spin.left == spins - 1


def test_who_answers_later_is_followed_by_fewer_and_fewer_spins() -> None:
    spin = Spin()
    counts = []
    for _ in range(12):
        counts.append(long_waits_until_the_next_spin(spin))
        assert spin_for(spin, LOOKS + 1) == NOTHING_YET
        assert spin.left == 0
    assert counts == [1, *(2**n + 1 for n in range(1, 11)), 1025]
    long_waits_until_the_next_spin(spin)
    spin_for(spin, 1)
    spin_for(spin, LOOKS + 1)
    assert long_waits_until_the_next_spin(spin) == 3


@contextmanager
def a_thread_that_computes() -> Iterator[None]:
    is_over = threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_answers_are_right_beside_a_thread_that_computes(nodes: LocalNodes) -> None:
    cache: RBCache = make_cache()
    spin = cache.cluster._threads._spin
    values = {f"key:{n}": n for n in range(40)}
    cache.set_many(values)
    with a_thread_that_computes():
        for call in (
            lambda: cache.get("key:7") == 7,
            lambda: cache.get_many(values) == values,
            lambda: cache.set_many(values) == [],
        ):

            def spins(call: object = call) -> bool:
                assert call()  # type: ignore[operator]
                return spin.left > 0

            wait_until(spins)
            assert all(call() for _ in range(spin.left))
            spin.left = 0


@pytest.mark.parametrize("operation", ["get", "get_many"])
def test_a_node_that_is_silent_is_not_spun_for(nodes: LocalNodes, operation: str) -> None:
    cluster = Cluster(nodes.hosts, pool_options={"socket_timeout": 0.2})
    client = cluster.get_routing_client()
    keys = [f"key:{n}" for n in range(40)]
    client.mget(keys)
    asked = keys
    if operation == "get":
        asked = [next(key for key in keys if cluster.get_host_for_key(key) == 0)]
    spin = cluster._threads._spin
    nodes.pause(0)
    try:
        spin.left = 5
        with pytest.raises(redis.TimeoutError):
            client.mget(asked)
        assert spin.left == 0
    finally:
        nodes.resume(0)
    cluster.close()
