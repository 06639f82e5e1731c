"""What several test modules use to look behind the cache."""

from __future__ import annotations

import gc
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from time import monotonic, sleep, time
from types import TracebackType
from typing import Any, Self

import redis

from django_rb.cache import RBCache
from django_rb.engine import Cluster
from django_rb.engine.threads.connections import Connection
from django_rb.testing.discovery import find_server

# What connections say on their own, and what the counting itself says.
_HOUSEKEEPING = {"auth", "client", "cluster", "config", "hello", "info", "select"}

cache_class: type[RBCache] = RBCache


def wait_until(predicate: Callable[[], object], seconds: float = 30.0) -> None:
    """Return as soon as `predicate()` is true; fail after `seconds`."""
    end, pause = monotonic() + seconds, 0.002
    while not predicate():
        assert monotonic() < end, f"{predicate} did not come true within {seconds} s"
        sleep(pause)
        pause = min(pause * 1.1, 0.01)  # most predicates ask a server


def counts_as_online(replication: Mapping[str, Any], port: int) -> bool:
    """Return whether a primary may hand over to the replica at a port, by what INFO says."""
    replicas = [value for value in replication.values() if isinstance(value, dict)]
    return any(one.get("port") == port and one.get("state") == "online" for one in replicas)


def collect_garbage() -> None:
    """Collect all garbage; what is in use now is never looked through again.

    Before a test that collects: to look through what pytest holds takes longer than the test.
    """
    gc.collect()
    gc.freeze()


def idle_connections(cluster: Cluster) -> list[Connection]:
    """Return the connections of threads that are idle, of all nodes."""
    return [connection for pool in cluster._threads.pools.values() for connection in pool.idle]


def make_cache(location: str = "default", /, **params: Any) -> RBCache:
    """Return a cache as Django would make it from ``CACHES[alias]``."""
    return cache_class(location, params)


@lru_cache(maxsize=64)
def _client_of(*options: tuple[str, Any]) -> redis.Redis:
    """Return a client. To make one takes longer than most tests do otherwise."""
    return redis.Redis(**dict(options))


@cache
def without_redirects() -> tuple[str, ...]:
    """Return what an ACL says of a user to whom a replica does not name its primary."""
    said = subprocess.run([find_server(), "--version"], capture_output=True, check=True)
    return ("-client|capa",) if b"Valkey" in said.stdout else ()


class Servers:
    """The servers behind the nodes, asked by redis-py, past the code under test."""

    def __init__(self, hosts: Mapping[int, Mapping[str, Any]], db: int = 0) -> None:
        self._clients = {
            host_id: _client_of(*{**host, "db": db}.items()) for host_id, host in hosts.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, host_id: int, *command: Any) -> Any:
        """Run a command on one node."""
        client: Any = self._clients[host_id]
        return client.execute_command(*command)

    def keys(self) -> dict[int, set[bytes]]:
        """Return the keys that each node stores."""
        return {host_id: set(self.ask(host_id, "KEYS", "*")) for host_id in self._clients}

    def owner(self, key: bytes) -> int:
        """Return the one node that stores a key."""
        owners = [host_id for host_id, keys in self.keys().items() if key in keys]
        assert len(owners) == 1, f"{key!r} is on nodes {owners}"
        return owners[0]

    def ask_owner(self, command: str, key: bytes, *args: Any) -> Any:
        """Run a command on the one node that stores a key."""
        return self.ask(self.owner(key), command, key, *args)

    @contextmanager
    def expiring(self, key: bytes, milliseconds: int) -> Iterator[None]:
        """Fail unless the code inside lets a key expire in so many milliseconds, exactly."""
        began = time() * 1000
        yield
        ended = time() * 1000
        expires = self.ask_owner("PEXPIRETIME", key)
        # A server's clock stands still while it runs a command, and a little longer.
        assert began + milliseconds - 10 <= expires <= ended + milliseconds + 1

    def reset_counts(self) -> None:
        """Let `counts` begin at nothing."""
        for host_id in self._clients:
            self.ask(host_id, "CONFIG RESETSTAT")

    def counts(self) -> dict[int, Counter[str]]:
        """Return how often each command was called on each node since `reset_counts`."""
        counts: dict[int, Counter[str]] = {}
        for host_id in self._clients:
            stats = self.ask(host_id, "INFO", "commandstats")
            counts[host_id] = Counter(
                {
                    name: stat["calls"]
                    for name, stat in (
                        (stat_name.removeprefix("cmdstat_"), stat)
                        for stat_name, stat in stats.items()
                    )
                    if name.partition("|")[0] not in _HOUSEKEEPING
                }
            )
        return counts
