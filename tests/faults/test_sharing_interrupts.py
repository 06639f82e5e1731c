"""A call broken off anywhere leaves nothing in doubt: no connection, lock or descriptor.

Real signals at many points of time, and errors at every moment in which Python would run a
signal handler: see tests/faults/sharing/injection.py.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
import redis

from django_rb.engine import Cluster
from django_rb.engine.rounds.batch import call, store
from django_rb.testing import LocalNodes
from tests.faults.sharing.checks import (
    check_all_works,
    check_connections,
    fill,
    look_up,
    make_cluster,
    open_descriptors,
    openings_under_way,
)
from tests.faults.sharing.injection import Moment, every_moment
from tests.faults.sharing.programs import run_program
from tests.helpers import wait_until

Call = Callable[[Cluster, list[bytes]], object]


class HandlerError(Exception):
    """What somebody's signal handler raises."""


def map_gets(cluster: Cluster, keys: list[bytes]) -> None:
    with cluster.map() as client:
        promises = [client.get(key) for key in keys[:4]]
    assert [promise.value for promise in promises] == keys[:4]


def get_all(cluster: Cluster, keys: list[bytes]) -> None:
    for key in keys[:2]:
        assert cluster.run(call(cluster, key, b"GET", key)) == (key, [])


def store_large(cluster: Cluster, keys: list[bytes]) -> None:
    """Write more than a socket takes at once."""
    wanted = [b"large:" + key for key in keys[:4]]
    _, failures = cluster.run(store(cluster, wanted, wanted, lambda key: key * 100_000))
    assert failures == []


def look_up_in_time(cluster: Cluster, keys: list[bytes]) -> None:
    look_up(cluster, keys, 30)


def ask_one(cluster: Cluster, keys: list[bytes]) -> None:
    assert cluster.call_nodes("ECHO", "word", hosts=[1]) == ({1: b"word"}, [])


CALLS: dict[str, Call] = {
    "get_many": look_up,
    "get_many with a deadline": look_up_in_time,
    "get": get_all,
    "one command": ask_one,
    "map": map_gets,
    "large set_many": store_large,
}


@pytest.fixture
def settled_cluster(nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of which nothing is left at the end: no descriptor, no thread.

    It may have no more connections than it needs: one that got lost would be missed.
    """
    # pytest keeps what is logged, and so an error, its frames and the connections in them.
    monkeypatch.setattr(logging.getLogger("django_rb.health"), "disabled", True)
    with warnings.catch_warnings():
        # Interrupted while it closed a socket, Python closes it later, and says so.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        before = open_descriptors()
        cluster = make_cluster(nodes.hosts, max_connections=3)
        yield cluster
        wait_until(lambda: not openings_under_way())
        cluster.close()
        gc.collect()
        left = {fd: what for fd, what in open_descriptors().items() if fd not in before}
        assert not left


def leads_to(error: BaseException | None, wanted: type[BaseException]) -> bool:
    """Tell whether an error is the wanted one or was raised for it."""
    while error is not None:
        if isinstance(error, wanted):
            return True
        error = error.__cause__ or error.__context__
    return False


def every(step: int) -> int:
    """Return how far apart the moments are: `step` for `make moments`, else a sample."""
    return step if os.environ.get("EVERY_MOMENT") else 5 * step + 2


def start_warm_or_cold(cluster: Cluster, keys: list[bytes], *, warm: bool) -> None:
    wait_until(lambda: not openings_under_way())
    if warm:
        look_up(cluster, keys)
    else:
        cluster.close()


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_interrupted_at_every_moment(
    name: str, warm: bool, settled_cluster: Cluster
) -> None:
    cluster = settled_cluster
    keys = fill(cluster)
    kinds = [KeyboardInterrupt, SystemExit, HandlerError, RuntimeError]

    def interrupt() -> None:
        raise kinds[moment.number % len(kinds)]

    for moment in every_moment(interrupt, every(1 if warm else 5)):
        start_warm_or_cold(cluster, keys, warm=warm)
        try:
            with moment:
                CALLS[name](cluster, keys)
        except BaseException as error:
            if not leads_to(error, kinds[moment.number % len(kinds)]):
                raise
        else:
            assert not moment.where or moment.is_lost, f"lost in {moment.where}"
        try:
            check_connections(cluster)
            look_up(cluster, keys)
        except BaseException as error:
            raise AssertionError(f"{error!r} after {moment.where}") from error
    assert moment.seen > 5
    check_all_works(cluster, keys)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", CALLS)
def test_a_handler_may_raise_what_looks_like_a_nodes_failure(
    name: str, warm: bool, settled_cluster: Cluster
) -> None:
    """A TimeoutError, as many an alarm does. It may come out as the node's."""
    cluster = settled_cluster
    keys = fill(cluster)

    def interrupt() -> None:
        raise TimeoutError("an alarm")

    for moment in every_moment(interrupt, every(5 if warm else 17)):
        start_warm_or_cold(cluster, keys, warm=warm)
        with contextlib.suppress(TimeoutError, redis.RedisError, AssertionError), moment:
            CALLS[name](cluster, keys)
        try:
            check_connections(cluster)
            look_up(cluster, keys)
        except BaseException as error:
            raise AssertionError(f"{error!r} after {moment.where}") from error
    assert moment.seen > 5
    check_all_works(cluster, keys)


def test_a_handler_may_use_the_cluster_where_no_thread_can_be_started(
    settled_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then connections are opened by the thread that is interrupted."""
    cluster = settled_cluster
    keys = fill(cluster)

    def refuse(*args: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    def use() -> None:
        look_up(cluster, keys)

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    faulthandler.dump_traceback_later(60, exit=True)  # a lock that is held is held for ever
    try:
        for moment in every_moment(use, every(53)):
            cluster.close()
            with moment:
                look_up(cluster, keys)
            check_connections(cluster)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert moment.seen > 500


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", CALLS)
def test_a_handler_may_use_the_cluster_at_every_moment(
    name: str, warm: bool, settled_cluster: Cluster
) -> None:
    """The interrupted call goes on, and both get their own replies."""
    cluster = settled_cluster
    keys = fill(cluster)
    others = [b"other:" + key for key in keys]
    cluster.run(store(cluster, others, others, bytes))

    def use() -> None:
        look_up(cluster, others)

    for moment in every_moment(use, every(5 if warm else 17)):
        start_warm_or_cold(cluster, keys, warm=warm)
        with moment:
            CALLS[name](cluster, keys)
        check_connections(cluster)
    assert moment.seen > 5
    check_all_works(cluster, keys)


def test_real_signals_at_any_time_leave_nothing_in_doubt(
    settled_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = settled_cluster
    # Python loses what is raised in a destructor, such as that of redis-py's client.
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    keys = fill(cluster)
    kinds = [KeyboardInterrupt, SystemExit, HandlerError]
    rng = random.Random(7)
    interrupted = 0

    def handler(signum: int, frame: object) -> None:
        raise rng.choice(kinds)

    def call_in_turn() -> None:
        for work in CALLS.values():
            work(cluster, keys)

    start_warm_or_cold(cluster, keys, warm=True)
    began = time.monotonic()
    call_in_turn()
    took = time.monotonic() - began
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for turn in range(150):
            start_warm_or_cold(cluster, keys, warm=turn % 5 > 0)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, took))
                call_in_turn()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except BaseException as error:
                # Python's own threading may raise another while it handles ours.
                if not any(leads_to(error, kind) for kind in kinds):
                    raise
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            wait_until(lambda: not openings_under_way())
            check_connections(cluster)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 50
    check_all_works(cluster, keys)


def test_ctrl_c_ends_a_call_at_once(settled_cluster: Cluster) -> None:
    """Also while every node is silent, or a connection is being opened."""
    cluster = settled_cluster
    keys = fill(cluster)
    for _ in range(2):  # with connections and without
        patience = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        patience.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            cluster.call_nodes("BLPOP", "nothing", 1.5)
        assert time.monotonic() - began < 1
        patience.join()
        check_connections(cluster)
        cluster.close()
    check_all_works(cluster, keys)


def test_what_a_handler_takes_for_a_nodes_failure_runs_at_most_once(
    settled_cluster: Cluster,
) -> None:
    cluster, hosts = settled_cluster, [0, 1]

    def interrupt() -> None:
        raise TimeoutError("an alarm")

    def count(delta: int) -> dict[int, int]:
        replies, _ = cluster.call_nodes("INCRBY", "count", delta, hosts=hosts)
        return {host_id: int(reply) for host_id, reply in replies.items()}

    before = count(0)
    for moment in every_moment(interrupt):
        with contextlib.suppress(TimeoutError), moment:
            count(1)
        after = count(0)
        assert all(after[host_id] - before[host_id] <= 1 for host_id in hosts), moment.where
        check_connections(cluster)
        before = after
    assert moment.seen > 5


def test_a_storm_of_signals_ends_no_process(nodes: LocalNodes) -> None:
    """hiredis went on with a null pointer where a handler raised while it packed a number."""
    broken_off = run_program("storms", "over_every_operation", nodes.hosts)
    assert sum(broken_off.values()) > 20


def test_a_moment_is_found_in_what_is_called(settled_cluster: Cluster) -> None:
    """What proves the tests above: the moments are in the engine."""
    keys = fill(settled_cluster)
    where = set()

    def note() -> None:
        where.add(moment.where.partition(" ")[0])

    for moment in every_moment(note, 3):
        assert isinstance(moment, Moment)
        with moment:
            look_up(settled_cluster, keys)
            look_up_in_time(settled_cluster, keys)
    assert {"Pool.give_back", "Round._loop", "Round._send", "Exchange.feed"} <= where
