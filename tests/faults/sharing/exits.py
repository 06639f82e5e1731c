"""Programs that end while the cluster is in use. Host 1, where there is one, is silent."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import cast

from django.core.cache import cache as default_cache

from django_rb import clusters
from django_rb.cache import RBCache
from tests.faults.sharing.checks import fill, look_up, openings_under_way
from tests.faults.sharing.programs import main

cache = cast(RBCache, default_cache)


def with_idle_connections() -> None:
    look_up(clusters["default"], fill(clusters["default"]))


def with_idle_connections_of_threads() -> None:
    threads = [threading.Thread(target=with_idle_connections) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def with_a_status() -> None:
    with_idle_connections()
    sys.exit(7)


def by_an_exception_in_mid_batch() -> None:
    """SystemExit comes out of a batch that waits for its nodes."""
    import signal

    def end(signum: int, frame: object) -> None:
        sys.exit(7)

    signal.signal(signal.SIGTERM, end)
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    killer.start()
    clusters["default"].call_nodes("BLPOP", "nothing", 1.5)


def with_a_daemon_in_a_batch() -> None:
    cluster = clusters["default"]
    for turn in range(4):
        threading.Thread(
            target=cluster.call_nodes, args=("BLPOP", f"nothing {turn}", 1.5), daemon=True
        ).start()
    keys = fill(cluster)

    def work() -> None:
        while True:
            look_up(cluster, keys)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.1)  # they are somewhere in their batches


def with_openings_pending() -> None:
    """Threads are still trying to open connections when the program ends."""
    cluster = clusters["default"]
    replies, failures = cluster.call_nodes("PING", timeout=1.0)
    assert replies == {0: b"PONG"}
    assert [failure.host_id for failure in failures] == [1]
    assert openings_under_way()


def with_atexit_handlers() -> None:
    """They use the cache: with connections, and when those have to be opened."""
    cluster = clusters["default"]
    keys = fill(cluster)
    cache.set("key", "value")

    def use() -> None:
        assert cache.get("key") == "value"
        cluster.close()
        assert cache.get("key") == "value"
        cache.set_many({f"key{n}": n for n in range(20)})
        look_up(cluster, keys)
        print('"used"', flush=True)

    atexit.register(use)


def with_atexit_and_silent_nodes() -> None:
    """A handler has a deadline; where no thread can be started, it still ends in time."""
    cluster = clusters["default"]

    def use() -> None:
        began = time.monotonic()
        replies, failures = cluster.call_nodes("PING", timeout=0.2)
        assert set(replies) <= {0}
        assert failures[-1].host_id == 1
        print(time.monotonic() - began, flush=True)

    atexit.register(use)


if __name__ == "__main__":
    main(
        by_an_exception_in_mid_batch,
        with_a_daemon_in_a_batch,
        with_a_status,
        with_atexit_and_silent_nodes,
        with_atexit_handlers,
        with_idle_connections_of_threads,
        with_openings_pending,
    )
