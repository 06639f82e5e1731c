"""Programs that fork after the cache was used."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django_rb import clusters
from django_rb.engine.clients import base as clients
from tests.faults.sharing.checks import (
    check_all_works,
    check_connections,
    fill,
    make_value,
    open_descriptors,
    wrong_values,
)
from tests.faults.sharing.programs import main
from tests.helpers import make_cache, wait_until

# Not django.core.cache.cache: to find out which it is, that asks asgiref, whose lock stays
# locked in a child for ever if another thread held it at the fork.
cache = make_cache()
KEYS = [f"key{n}" for n in range(40)]
CHILD_SECONDS = 20


def set_all(size: int = 0) -> None:
    assert cache.set_many({key: make_value(key, size) for key in KEYS}) == []


def own_addresses() -> set[str]:
    """Return the client's ends of the connections that this process uses, by node and port."""
    infos, failures = clusters["default"].call_nodes("CLIENT", "INFO")
    assert failures == []
    return {
        f"{host_id} {field}"
        for host_id, info in infos.items()
        for field in info.decode().split()
        if field.startswith("addr=")
    }


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child, which says on stderr what it raised; return its pid."""
    child = os.fork()
    if child:
        return child
    status = 1
    signal.alarm(CHILD_SECONDS)  # ends a child that hangs
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 (nothing goes up in a child)
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(*children: int) -> None:
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a child failed or hung"


@contextmanager
def busy_threads(count: int, *, close: bool = True) -> Iterator[None]:
    """Let threads use the cache, and open connections time and again."""
    over = threading.Event()
    errors: list[str] = []

    def work(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            if wrong := wrong_values(cache, KEYS, 2000):
                errors.append(f"wrong: {wrong}")
            if close and turn % 3 == number % 3:
                cache.cluster.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []


def connections_apart() -> dict[str, Any]:
    """Parent and child use connections of their own, and the parent's outlive the child."""
    set_all()
    mine = own_addresses()
    read_end, write_end = os.pipe()

    def work() -> None:
        assert wrong_values(cache, KEYS) == {}
        os.write(write_end, "\n".join(own_addresses()).encode())
        check_connections(cache.cluster)

    child = fork(work)
    assert wrong_values(cache, KEYS) == {}  # at the same time
    wait_for(child)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        childs = pipe.read().split("\n")
    still_mine = own_addresses()
    check_all_works(cache.cluster, fill(cache.cluster))
    return {
        "parent": sorted(mine),
        "child": sorted(childs),
        "parent afterwards": sorted(still_mine),
    }


def under_load() -> int:
    """Fork again and again while threads are in mid-batch and open connections."""
    set_all(2000)
    forks = 10
    with busy_threads(4):
        for _ in range(forks):
            wait_for(fork(work_in_child))
    return forks


def work_in_child() -> None:
    for key in KEYS[:3]:
        assert cache.get(key) == make_value(key, 2000)
    assert len(cache.get_many(KEYS)) == len(KEYS)
    assert wrong_values(cache, KEYS, 2000) == {}
    cluster = cache.cluster
    check_connections(cluster)
    cluster.close()
    assert wrong_values(cache, KEYS, 2000) == {}


def with_locks_held() -> int:
    """Fork while another thread holds every lock that the engine has."""
    set_all(2000)
    cluster = cache.cluster
    locks: list[Any] = [cluster._topology._changing, clients._setting_callbacks]
    for node in cluster.nodes.values():
        locks += [cluster._threads.pools[node.host_id]._opening, node.health._lock]
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        released.wait(CHILD_SECONDS)
        for lock in locks:
            lock.release()

    def work() -> None:
        work_in_child()
        cluster.call_nodes("PING", timeout=1e-9)  # fails, and so asks for the nodes' health
        assert set(cluster.health()) == set(cluster.nodes)
        client = cluster.get_routing_client()
        client.set_response_callback("GET", bytes)
        cluster.add_host(77, port=1)
        assert cluster.remove_host(77)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(CHILD_SECONDS)
    children = [fork(work) for _ in range(2)]
    wait_for(*children)
    released.set()
    holder.join()
    check_all_works(cluster, fill(cluster))
    return len(locks)


def multiprocessing_from_threads() -> int:
    """A multiprocessing child, by the start method fork, from each of several threads."""
    set_all(2000)
    context = multiprocessing.get_context("fork")
    statuses: list[int | None] = []

    def start_children() -> None:
        for _ in range(2):
            child = context.Process(target=work_in_child)
            child.start()
            assert wrong_values(cache, KEYS, 2000) == {}
            child.join(CHILD_SECONDS)
            # Where start() in another thread has just reaped it, it has no status for a bit.
            wait_until(lambda: child.exitcode is not None, 1)  # noqa: B023
            statuses.append(child.exitcode)
            child.close()

    threads = [threading.Thread(target=start_children) for _ in range(4)]
    with busy_threads(2):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 8, statuses
    check_connections(cache.cluster)
    return len(statuses)


def worker_pool() -> int:
    """What Celery does: workers forked after the parent used the cache, and replaced."""
    set_all()
    with multiprocessing.get_context("fork").Pool(3, maxtasksperchild=2) as pool:
        results = [pool.apply_async(do_task, (n,)) for n in range(12)]
        for number, result in enumerate(results):
            assert wrong_values(cache, KEYS) == {}
            assert result.get(CHILD_SECONDS) == number
        pool.close()
        pool.join()
    found = cache.get_many([f"task{n}" for n in range(12)])
    assert found == {f"task{n}": n for n in range(12)}
    check_all_works(cache.cluster, fill(cache.cluster))
    return len(found)


def do_task(number: int) -> int:
    assert wrong_values(cache, KEYS) == {}
    cache.set(f"task{number}", number)
    found = cache.get(f"task{number}")
    assert isinstance(found, int)
    return found


def prefork_server() -> int:
    """What a prefork server does: preload, warm up, fork workers, replace one that died."""
    set_all(500)
    stop_read, stop_write = os.pipe()

    def serve() -> None:
        while not wrong_values(cache, KEYS, 500):
            check_connections(cache.cluster)
            os.set_blocking(stop_read, False)
            try:
                os.read(stop_read, 1)
                return
            except BlockingIOError:
                continue
        raise AssertionError(wrong_values(cache, KEYS, 500))

    workers = [fork(serve) for _ in range(3)]
    for _ in range(3):
        time.sleep(0.1)  # they work; nothing is awaited
        os.kill(workers[0], signal.SIGKILL)
        os.waitpid(workers.pop(0), 0)
        workers.append(fork(serve))
        assert wrong_values(cache, KEYS, 500) == {}
    os.write(stop_write, b"x" * 3)
    wait_for(*workers)
    check_all_works(cache.cluster, fill(cache.cluster))
    return len(workers)


def in_a_signal_handler() -> int:
    """A handler forks in mid-batch; the child works, and ends as a child should."""
    set_all(2000)
    children: list[int] = []

    def handler(signum: int, frame: object) -> None:
        children.append(fork(work_in_child))

    signal.signal(signal.SIGALRM, handler)
    while len(children) < 8:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        assert wrong_values(cache, KEYS, 2000) == {}
        signal.setitimer(signal.ITIMER_REAL, 0)
    wait_for(*children)
    check_all_works(cache.cluster, fill(cache.cluster))
    return len(children)


def descriptors_of_child() -> dict[str, int]:
    """A child has none of the parent's connections open, whoever uses them at that time."""
    set_all()
    read_end, write_end = os.pipe()
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        cache.cluster.call_nodes("BLPOP", "nothing", 1)

    check_connections(cache.cluster)
    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    mine = sum(node.startswith("socket:") for node in open_descriptors().values())

    def work() -> None:
        sockets = sum(node.startswith("socket:") for node in open_descriptors().values())
        os.write(write_end, str(sockets).encode())

    wait_for(fork(work))
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        childs = int(pipe.read())
    thread.join()
    return {"parent": mine, "child": childs}


if __name__ == "__main__":
    main(
        connections_apart,
        descriptors_of_child,
        in_a_signal_handler,
        multiprocessing_from_threads,
        prefork_server,
        under_load,
        with_locks_held,
        worker_pool,
    )
