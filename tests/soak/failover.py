"""A primary is killed under load: python -m tests.soak.failover [--minutes 0.5]

Threads read and write shards that Sentinels watch, with READ_FROM "prefer-primary"; a third of
the time in, a primary is killed. In every quarter of a second but the one of the kill, 99 of
100 reads have to find their values, and writes have to work within a second of the promotion.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from time import monotonic, sleep
from typing import Any

import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes

STEP = 0.25
KEYS = [f"key:{n}" for n in range(200)]
LEAST_HIT_RATE, MOST_WRITE_SECONDS = 0.99, 1.0


class Load:
    """Counts what threads find, by quarters of a second."""

    def __init__(self, cluster: Cluster) -> None:
        self.client = cluster.get_routing_client()
        self.began = monotonic()
        # Lists, as threads may add to one without a lock.
        self.reads: list[tuple[int, bool]] = []
        self.writes: list[float] = []
        self.errors: list[str] = []
        self.is_over = threading.Event()

    def read(self) -> None:
        number = 0
        while not self.is_over.is_set():
            key = KEYS[number % len(KEYS)]
            number += 1
            step = int((monotonic() - self.began) / STEP)
            try:
                is_found = self.client.get(key) is not None
            except redis.RedisError as error:
                is_found = False
                self.errors.append(type(error).__name__)
            self.reads.append((step, is_found))

    def write(self, key: str) -> None:
        while not self.is_over.is_set():
            try:
                self.client.set(key, "value")
                self.writes.append(monotonic())
            except redis.RedisError:
                sleep(0.005)


def main() -> int:
    """Run, and return 1 if something was not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    seconds = options.minutes * 60
    with LocalNodes(2, topology="sentinel", replicas=1, failover_seconds=1) as nodes:
        cluster = Cluster(
            nodes.hosts,
            topology="sentinel",
            sentinels=nodes.sentinels,
            router_cls=SlotRouter,
            read_from="prefer-primary",
        )
        cluster.get_routing_client().mset(dict.fromkeys(KEYS, "value"))
        key = next(key for key in KEYS if cluster.get_host_for_key(key) == 0)
        load = Load(cluster)
        threads = [threading.Thread(target=load.read) for _ in range(options.threads)]
        threads.append(threading.Thread(target=load.write, args=(key,)))
        for thread in threads:
            thread.start()
        sleep(seconds / 3)
        killed = monotonic()
        nodes.kill(0)
        promoted = wait_for_promotion(nodes)
        sleep(max(0.0, load.began + seconds - monotonic()))
        load.is_over.set()
        for thread in threads:
            thread.join()
        cluster.close()
    return report(load, killed, promoted)


def wait_for_promotion(nodes: LocalNodes) -> float:
    """Return when a Sentinel says that the replica of node 0 is the primary."""
    sentinels: list[Any] = [redis.Redis.from_url(url) for url in nodes.sentinels]
    port = str(nodes.address(2)["port"]).encode()
    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "node-0")
    while all(client.execute_command(*command)[1] != port for client in sentinels):
        sleep(0.005)
    return monotonic()


def report(load: Load, killed: float, promoted: float) -> int:
    """Print what was seen; return 1 if it is not as it has to be."""
    asked = Counter(step for step, _ in load.reads)
    found = Counter(step for step, is_found in load.reads if is_found)
    rates = {step: found[step] / count for step, count in sorted(asked.items())}
    of_the_kill = rates.pop(int((killed - load.began) / STEP), None)
    worst = min(rates, key=lambda step: rates[step])
    back = min(when for when in load.writes if when > promoted)
    print(f"reads: {len(load.reads)}, errors: {dict(Counter(load.errors))}")
    print(f"worst hit rate in {STEP} s: {rates[worst]:.4f}, {worst * STEP:.2f} s in")
    print(f"of the quarter of the kill: {of_the_kill}")
    print(f"promotion {promoted - killed:.2f} s after the kill")
    print(f"writes {back - promoted:.3f} s after the promotion")
    return int(rates[worst] < LEAST_HIT_RATE or back - promoted > MOST_WRITE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
