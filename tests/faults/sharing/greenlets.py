"""Programs under gevent with everything patched. Patching comes before all imports."""

# ruff: noqa: E402
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import gevent
import greenlet
import redis
from django.core.cache import cache as default_cache
from gevent.pool import Group

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.engine import Cluster
from tests.faults.sharing.checks import (
    check_all_works,
    check_connections,
    count_connections,
    fill,
    look_up,
    make_value,
    open_descriptors,
    wrong_values,
)
from tests.faults.sharing.programs import main

cache = cast(RBCache, default_cache)


class Ticker:
    """A greenlet that runs all the time: it stands still while the hub is blocked."""

    def __init__(self) -> None:
        self.longest_pause = 0.0

    def __enter__(self) -> Ticker:
        self._greenlet = gevent.spawn(self._tick)
        gevent.sleep(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._greenlet.kill()

    def _tick(self) -> None:
        before = time.monotonic()
        while True:
            gevent.sleep(0.005)
            now = time.monotonic()
            self.longest_pause = max(self.longest_pause, now - before)
            before = now


def side_by_side() -> dict[str, Any]:
    """Greenlets wait for slow nodes at the same time, and each gets its own values."""
    greenlets, seconds = 40, 1.5
    cluster = clusters["default"]

    def work(number: int) -> None:
        keys = [f"{number}:{n}" for n in range(20)]
        assert cache.set_many({key: make_value(key, number * 100) for key in keys}) == []
        replies, failures = cluster.call_nodes("BLPOP", f"nothing {number}", seconds)
        assert (set(replies.values()), failures) == ({None}, [])
        assert len(cache.get_many(keys)) == len(keys)
        assert wrong_values(cache, keys, number * 100) == {}
        assert cache.get(keys[0]) == make_value(keys[0], number * 100)

    began = time.monotonic()
    with Ticker() as ticker:
        group = Group()
        for number in range(greenlets):
            group.spawn(work, number)
        assert group.join(30, raise_error=True)
    took = time.monotonic() - began
    check_connections(cluster)
    return {
        "one after the other": greenlets * seconds,
        "took": took,
        "longest pause": ticker.longest_pause,
        "connections": count_connections(cluster) / len(cluster.nodes) / greenlets,
    }


@contextlib.contextmanager
def switch_counted(
    victim: Any, number: int, strike: Callable[[Any], None]
) -> Iterator[list[int]]:
    """Call `strike(victim)` from the hub when the victim was left for the n-th time."""
    seen = [0]

    def trace(event: str, args: tuple[Any, Any]) -> None:
        if event in {"switch", "throw"} and args[0] is victim:
            seen[0] += 1
            if seen[0] == number:
                gevent.get_hub().loop.run_callback(strike, victim)

    greenlet.settrace(trace)
    try:
        yield seen
    finally:
        greenlet.settrace(None)


class Stop(BaseException):
    """What a greenlet is killed with."""


def killed_everywhere() -> int:
    """Kill a greenlet at each switch of each kind of call; the pool is in no doubt."""
    cluster = clusters["default"]
    keys = fill(cluster)
    kills = 0
    calls: list[Callable[[], object]] = [
        lambda: look_up(cluster, keys),
        lambda: cluster.call_nodes("ECHO", "word"),
        lambda: cluster.call_nodes("ECHO", "word", hosts=[1]),
        lambda: cache.get("key"),
        lambda: cache.set("key", "x" * 3_000_000),
        lambda: cluster.call_nodes("BLPOP", "nothing", 0.05),
    ]
    for call in calls:
        kills += kill_at_each_switch(cluster, keys, call, gevent.GreenletExit, warm=True)
        kills += kill_at_each_switch(cluster, keys, call, Stop, warm=False)
    check_all_works(cluster, keys)
    return kills


def kill_at_each_switch(
    cluster: Cluster,
    keys: list[bytes],
    call: Callable[[], object],
    kind: type[BaseException],
    *,
    warm: bool,
) -> int:
    kills = 0
    while True:
        cluster.close()
        if warm:
            look_up(cluster, keys)

        def work() -> BaseException | None:
            try:
                call()
            except kind as error:
                return error
            return None

        def strike(victim: Any) -> None:
            victim.kill(kind, block=False)

        victim = gevent.Greenlet(work)
        with switch_counted(victim, kills + 1, strike) as seen:
            victim.start()
            victim.join(10)
        assert victim.ready(), "a killed greenlet goes on"
        assert victim.successful(), victim.exception
        check_connections(cluster)
        look_up(cluster, keys)
        if seen[0] <= kills:
            return kills
        kills += 1


def timed_out() -> int:
    """gevent.Timeout in mid-batch, at many points of time."""
    cluster = clusters["default"]
    keys = fill(cluster)
    over = 0  # and 0 for a call that was quicker
    for turn in range(120):
        if turn % 4 == 0:
            cluster.close()
        with gevent.Timeout(0.0005 * (turn % 40), False):
            look_up(cluster, keys)
            cluster.call_nodes("BLPOP", "nothing", 0.01)
            over -= 1
        over += 1
        check_connections(cluster)
        look_up(cluster, keys)
    check_all_works(cluster, keys)
    return over


def silent_nodes() -> dict[str, Any]:
    """While nodes are silent, or connections to them are opened, other greenlets run.

    Host 0 is alive, the others take connections and never answer.
    """
    cluster = clusters["default"]
    silent = [host_id for host_id in cluster.nodes if host_id != 0]
    with Ticker() as ticker:
        began = time.monotonic()
        group = Group()
        for _ in range(10):
            group.spawn(cluster.call_nodes, "PING", hosts=silent)
        answered = 0
        while time.monotonic() - began < 1.2:
            answered += cluster.call_nodes("PING", hosts=[0])[0] == {0: b"PONG"}
            gevent.sleep(0.01)
        assert group.join(30, raise_error=True)
        for host_id in silent:  # each was silent for long enough to count as down
            health = cluster.health()[host_id]
            assert health.state == "down", health
    return {"longest pause": ticker.longest_pause, "answered": answered}


def probed() -> int:
    """A node that comes back is found by one greenlet of many, and then serves all."""
    cluster = clusters["default"]
    for _ in range(3):
        cluster.call_nodes("PING", timeout=1e-4, hosts=[1])
        cluster.close()
    states = [cluster.health()[1].state]

    def work() -> int:
        end = time.monotonic() + 20
        while cluster.call_nodes("PING", hosts=[1])[1]:
            assert time.monotonic() < end, cluster.health()[1]
            gevent.sleep(0.01)
        return 1

    group = Group()
    workers = [group.spawn(work) for _ in range(20)]
    assert group.join(30, raise_error=True)
    assert cluster.health()[1].state == "up", states
    check_connections(cluster)
    return sum(worker.value for worker in workers)


def stale_and_closed() -> int:
    """Connections that were closed while idle are noticed; none of ours stays open."""
    cluster = clusters["default"]
    keys = fill(cluster)
    look_up(cluster, keys)
    for host in cluster.hosts.values():
        with redis.Redis(host=host.host, port=host.port, password=host.password) as client:
            client.client_kill_filter(_type="normal", skipme=True)
    look_up(cluster, keys)
    cluster.close()
    gevent.sleep(0)
    before = set(open_descriptors())
    look_up(cluster, keys)
    cluster.close()
    assert set(open_descriptors()) <= before
    return len(keys)


def over_tls() -> int:
    """Greenlets share nodes that are reached by TLS, with values of many records."""

    def work(number: int) -> int:
        keys = [f"{number}:{n}" for n in range(20)]
        large = f"{number}:large"
        assert cache.set_many({key: make_value(key, number) for key in keys}) == []
        cache.set(large, "x" * 100_000)
        assert wrong_values(cache, keys, number) == {}
        assert cache.get_many([*keys, large])[large] == cache.get(large) == "x" * 100_000
        return len(keys)

    group = Group()
    workers = [group.spawn(work, number) for number in range(5)]
    assert group.join(30, raise_error=True)
    clusters["default"].close()
    return sum(worker.value for worker in workers)


if __name__ == "__main__":
    main(
        killed_everywhere,
        over_tls,
        probed,
        side_by_side,
        silent_nodes,
        stale_and_closed,
        timed_out,
    )
