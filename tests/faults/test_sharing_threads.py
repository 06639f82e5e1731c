"""One cluster, many threads: everyone gets the values of the keys that they asked for."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.engine.protocol.exchange import Batch
from django_rb.engine.rounds.batch import find
from django_rb.testing import LocalNodes
from tests.faults.sharing.checks import (
    check_all_works,
    check_connections,
    count_connections,
    fill,
    look_up,
    make_cluster,
    make_value,
    openings_under_way,
    wrong_values,
)
from tests.helpers import make_cache, wait_until

THREADS = 16


def run_in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Call `work(number)` in many threads at once; raise the first error."""
    errors: list[BaseException] = []
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        ready.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    wait_until(lambda: not openings_under_way())


@pytest.fixture
def restless() -> Iterator[None]:
    """Let Python go from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_of_one_cache_get_the_values_of_their_own_keys(nodes: LocalNodes) -> None:
    """Each thread asks for other keys than its neighbours, of sizes that differ."""
    cache = make_cache()

    def work(number: int) -> None:
        rng = random.Random(number)
        for turn in range(12):
            keys = [f"{number}:{turn}:{n}" for n in range(rng.randint(1, 40))]
            size = rng.choice([0, 10, 5_000, 100_000 // len(keys)])
            cache.set_many({key: make_value(key, size) for key in keys})
            assert wrong_values(cache, keys, size) == {}
            one = rng.choice(keys)
            assert cache.get(one) == make_value(one, size)
            cache.delete_many(keys)
            assert cache.get_many(keys) == {}

    run_in_threads(work)
    cluster = clusters["default"]
    for pool in cluster._threads.pools.values():
        assert 1 <= len(pool.idle) <= THREADS
    check_connections(cluster)


def test_threads_of_one_engine_cluster_map_and_fan_out_side_by_side(cluster: Cluster) -> None:
    def work(number: int) -> None:
        keys = [f"{number}:{n}" for n in range(30)]
        for turn in range(10):
            with cluster.map() as writer:
                for key in keys:
                    writer.set(key, f"{key}={turn}")
            with cluster.map() as reader:
                promises = {key: reader.get(key) for key in keys}
            assert {k: p.value for k, p in promises.items()} == {
                key: f"{key}={turn}".encode() for key in keys
            }
            with cluster.all() as everyone:
                echo = everyone.echo(f"{number}:{turn}")
            assert echo.value == dict.fromkeys(cluster.nodes, f"{number}:{turn}".encode())

    run_in_threads(work)
    assert count_connections(cluster) <= THREADS * len(cluster.nodes)
    check_connections(cluster)


@pytest.mark.usefixtures("restless")
def test_threads_that_open_connections_at_once_are_counted_right(nodes: LocalNodes) -> None:
    """The bound holds, and nobody is refused below it."""
    cluster = make_cluster({0: nodes.hosts[0]}, max_connections=THREADS)
    keys = fill(cluster)

    def work(number: int) -> None:
        for _ in range(40):
            look_up(cluster, keys)
            cluster.close()

    run_in_threads(work)
    for pool in cluster._threads.pools.values():
        assert len(pool.idle) <= THREADS
    check_all_works(cluster, keys)
    cluster.close()


def test_a_node_that_is_down_for_some_threads_is_wrong_for_none(nodes: LocalNodes) -> None:
    """Deadlines cut batches short in one thread, while others go on on the same nodes."""
    cluster = make_cluster(nodes.hosts)
    keys = fill(cluster)

    def find_all() -> Batch[list[bytes] | None]:
        values, failures = yield from find(cluster, keys)
        return None if failures else list(values.values())

    def work(number: int) -> None:
        for turn in range(20):
            if number % 2:
                cluster.call_nodes("BLPOP", f"nothing:{number}", 1, timeout=0.001 * (turn % 5))
            else:
                assert cluster.run(find_all()) in (keys, None)

    run_in_threads(work)
    wait_until(lambda: not cluster.call_nodes("PING")[1], 30)  # those that count as down
    check_all_works(cluster, keys)
    cluster.close()
