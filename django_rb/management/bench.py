"""A short measurement of a cluster from this machine, while the site uses it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from time import monotonic
from typing import Any

from ..engine import Cluster, NodeFailure
from ..engine.protocol.exchange import Batch
from ..engine.rounds.batch import call, count, find, store
from .output import Progress
from .timing import timed

OPERATIONS = ("get", "set", "get_many", "set_many")
PREFIX = "rb_bench"
BATCH = 100  # keys of one get_many or set_many
CHUNK = 500  # keys that are stored or deleted in one batch, before and after

ROUNDS = 200
FEWEST_ROUNDS = 5
SECONDS = 0.4  # for the rounds of one operation

EXPIRY = 300  # seconds; if the process is killed, the keys expire
OVERHEAD = 150  # bytes that a server needs in addition to a key and its value; a high estimate
EVICTED = 0.01  # the share of maxmemory for which other keys of a full node may be evicted

# A node is slow if its median or its 95th percentile exceeds that of the others by this factor,
# and by this number of seconds: a busy machine sometimes adds a little.
SLOW = {"p50": (2, 0.0002), "p95": (4, 0.005)}

Outcome = tuple[Any, list[NodeFailure]]


class TooLittleMemory(Exception):
    """The measurement would evict keys of the site from a node."""


@dataclass
class Series:
    """Calls of one operation with the same number of keys, and how long they took.

    Attributes:
        keys: the keys to choose from, in the order of the calls.
        size: the number of keys of a call.
        seconds: the duration of each call.
    """

    keys: Sequence[bytes]
    size: int
    seconds: list[float] = field(default_factory=list)

    def sample(self, number: int) -> Sequence[bytes]:
        """Return the keys of the call with this number."""
        start = number * self.size % max(1, len(self.keys) - self.size + 1)
        return self.keys[start : start + self.size]

    def percentiles(self) -> dict[str, float]:
        """Return the median, the 95th and 99th percentiles and the maximum, in seconds."""
        ordered = sorted(self.seconds)
        named = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
        return {
            name: ordered[ceil(len(ordered) * percent / 100) - 1]
            for name, percent in named.items()
        }


class Bench:
    """The keys of a measurement, and its times.

    Args:
        cluster: the cluster to measure.
        keys: the number of keys.
        size: bytes of each value.
        timeout: seconds for one call.

    Attributes:
        owned: the keys of each node, by host id.
        by_node: the calls to single nodes, by operation and host id.
        whole: the calls to the whole cluster, by operation.
        failures: the nodes that failed; they are not asked again.
    """

    def __init__(self, cluster: Cluster, keys: int, size: int, timeout: float | None) -> None:
        self._cluster, self._timeout = cluster, timeout
        self._value = os.urandom(size)
        token = secrets.token_hex(8)
        self._keys = [f"{PREFIX}:{token}:{n}".encode() for n in range(keys)]
        self._owners = cluster.router.get_hosts_for_keys(self._keys)
        self.owned: dict[int, list[bytes]] = {host_id: [] for host_id in cluster.hosts}
        for host_id, key in zip(self._owners, self._keys, strict=True):
            self.owned[host_id].append(key)
        self.bytes_per_key = size + len(self._keys[-1]) + OVERHEAD
        self.by_node: dict[str, dict[int, Series]] = {}
        self.whole: dict[str, Series] = {}
        self.failures: dict[int, Exception] = {}
        self._never_reached: set[int] = set()

    def check_memory(self) -> None:
        """Check that the nodes have memory for the keys.

        Raises:
            TooLittleMemory: one of them does not.
        """
        replies, failures = self._cluster.call_nodes("INFO", "memory", timeout=self._timeout)
        self._note(failures)
        self._never_reached = set(self.failures)
        for host_id, reply in replies.items():
            used, most = read_info(reply, "used_memory"), read_info(reply, "maxmemory")
            free, needed = max(0, most - used), len(self.owned[host_id]) * self.bytes_per_key
            if most and needed > max(free, most * EVICTED):
                raise TooLittleMemory(
                    f"Node {host_id} ({self._cluster.get_address(host_id)}) has {free:,} of "
                    f"{most:,} bytes free. The measurement needs {needed:,} there, and would "
                    "evict other keys. Use fewer --keys or a smaller --size."
                )

    def fill(self, progress: Progress) -> None:
        """Store the keys."""
        for keys in self._chunks(self.failures):
            self._run(self._make("set_many", keys))
            progress.add(len(keys))

    def measure(self, progress: Progress) -> None:
        """Time each operation for a while: in each round every node, then all together."""
        for name in OPERATIONS:
            self._measure(name)
            progress.add(1)

    def remove(self) -> None:
        """Delete the keys on all nodes, except those that never answered."""
        failed = set(self._never_reached)
        for keys in self._chunks(failed):
            failed |= self._run(count(self._cluster, b"UNLINK", keys))

    def slow(self) -> dict[int, list[str]]:
        """Return, by host id, the operations in which a node is slower than the others."""
        slow: dict[int, list[str]] = {}
        for name, series in self.by_node.items():
            times = {host_id: one.percentiles() for host_id, one in series.items()}
            for host_id in find_slow(times):
                slow.setdefault(host_id, []).append(name)
        return slow

    def _measure(self, name: str) -> None:
        is_many = name.endswith("_many")
        size = BATCH if is_many else 1
        alive = [host for host in self.owned if self.owned[host] and host not in self.failures]
        by_node = {host: Series(self.owned[host], size) for host in alive}
        whole = Series(next(self._chunks(self.failures, len(self._keys)), []), size)
        end = monotonic() + SECONDS
        for number in range(ROUNDS):
            if number >= FEWEST_ROUNDS and monotonic() > end:
                break
            for host_id, series in by_node.items():
                if host_id not in self.failures:
                    self._time(name, series, number, host_id)
            if is_many and self.failures.keys().isdisjoint(by_node):
                self._time(name, whole, number)
        if not is_many:  # a call asks one node, so the cluster's times are those of all nodes
            whole.seconds = [second for one in by_node.values() for second in one.seconds]
        self.by_node[name] = {host: one for host, one in by_node.items() if one.seconds}
        if whole.seconds:
            self.whole[name] = whole

    def _time(self, name: str, series: Series, number: int, host_id: int | None = None) -> None:
        """Time a call of the cluster, or of one node."""
        keys = series.sample(number)
        if keys:
            with timed(self._cluster) as times:
                failed = self._run(self._make(name, keys))
            if not failed:
                took = times.whole if host_id is None else times.by_node[host_id]
                series.seconds.append(sum(took))

    def _make(self, name: str, keys: Sequence[bytes]) -> Batch[Outcome]:
        """Return the batch that the cache would run for an operation."""
        cluster, expiry = self._cluster, (b"EX", EXPIRY)
        make: dict[str, Callable[[], Batch[Any]]] = {
            "get": lambda: call(cluster, keys[0], b"GET", keys[0]),
            "set": lambda: call(cluster, keys[0], b"SET", keys[0], self._value, *expiry),
            "get_many": lambda: find(cluster, keys),
            "set_many": lambda: store(cluster, keys, [self._value] * len(keys), bytes, expiry),
        }
        return make[name]()

    def _run(self, batch: Batch[Outcome]) -> set[int]:
        """Run a batch; return the nodes that failed in it."""
        _, failures = self._cluster.run(batch, self._timeout)
        self._note(failures)
        return {failure.host_id for failure in failures}

    def _note(self, failures: Sequence[NodeFailure]) -> None:
        for failure in failures:
            self.failures.setdefault(failure.host_id, failure.error)

    def _chunks(self, failed: Container[int], size: int = CHUNK) -> Iterator[list[bytes]]:
        """Yield the keys in order, without those of nodes that have failed in the meantime."""
        for start in range(0, len(self._keys), size):
            owned = zip(self._owners[start : start + size], self._keys[start:], strict=False)
            if keys := [key for owner, key in owned if owner not in failed]:
                yield keys


def read_info(reply: bytes, name: str) -> int:
    """Return a number from an INFO reply, 0 if it is missing."""
    found = re.search(rb"(?m)^%s:(\d+)" % name.encode(), reply)
    return int(found[1]) if found else 0


def find_slow(times: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Return the nodes that are slower than the others, from the percentiles of each."""
    slow = []
    for host_id, own in times.items():
        others = [other for other_id, other in times.items() if other_id != host_id]
        for name, (factor, least) in SLOW.items():
            usual = median(other[name] for other in others) if others else own[name]
            if own[name] > usual * factor and own[name] - usual > least:
                slow.append(host_id)
                break
    return slow
