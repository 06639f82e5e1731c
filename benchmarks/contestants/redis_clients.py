"""What redis-py has for several nodes: its cluster client, and a pool of threads."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import redis

Hosts = Sequence[tuple[str, int]]


class RedisCluster:
    """redis-py's client of a Redis Cluster."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        host, port = hosts[0]
        self.client: Any = redis.RedisCluster(host=host, port=port)

    def get(self, name: str) -> Any:
        data = self.client.get(f"{self.prefix}{name}")
        return None if data is None else pickle.loads(data)

    def set(self, name: str, value: Any) -> None:
        data = value if type(value) is int else pickle.dumps(value, 5)
        self.client.set(f"{self.prefix}{name}", data, ex=300)

    def incr(self, name: str) -> Any:
        return self.client.incr(f"{self.prefix}{name}")

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        # An MGET for each slot that is hit; quicker than a pipeline of GETs.
        prefix, loads = self.prefix, pickle.loads
        values = self.client.mget_nonatomic([f"{prefix}{name}" for name in names])
        return {
            name: loads(data)
            for name, data in zip(names, values, strict=True)
            if data is not None
        }

    def set_many(self, data: Mapping[str, Any]) -> None:
        prefix, dumps = self.prefix, pickle.dumps
        with self.client.pipeline() as pipeline:
            for name, value in data.items():
                pipeline.set(f"{prefix}{name}", dumps(value, 5), ex=300)
            pipeline.execute()

    def delete_many(self, names: Iterable[str]) -> None:
        with self.client.pipeline() as pipeline:
            for name in names:
                pipeline.unlink(f"{self.prefix}{name}")
            pipeline.execute()


class ThreadPool:
    """A redis-py client for each node, and a thread for each to ask it."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        self.clients = [redis.Redis(host=host, port=port) for host, port in hosts]
        self.pool = ThreadPoolExecutor(len(hosts))

    def get(self, name: str) -> Any:
        key = f"{self.prefix}{name}".encode()
        data: Any = self._owner(key).get(key)
        return None if data is None else pickle.loads(data)

    def set(self, name: str, value: Any) -> None:
        key = f"{self.prefix}{name}".encode()
        data = value if type(value) is int else pickle.dumps(value, 5)
        self._owner(key).set(key, data, ex=300)

    def incr(self, name: str) -> Any:
        key = f"{self.prefix}{name}".encode()
        return self._owner(key).incr(key)

    def get_many(self, names: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        loads = pickle.loads

        def ask(client: Any, mine: list[str], keys: list[bytes]) -> None:
            for name, data in zip(mine, client.mget(keys), strict=True):
                if data is not None:
                    found[name] = loads(data)

        self._in_threads(ask, names)
        return found

    def set_many(self, data: Mapping[str, Any]) -> None:
        dumps = pickle.dumps

        def ask(client: Any, mine: list[str], keys: list[bytes]) -> None:
            with client.pipeline(transaction=False) as pipeline:
                for name, key in zip(mine, keys, strict=True):
                    pipeline.set(key, dumps(data[name], 5), ex=300)
                pipeline.execute()

        self._in_threads(ask, data)

    def delete_many(self, names: Iterable[str]) -> None:
        self._in_threads(lambda client, _, keys: client.unlink(*keys), names)

    def _owner(self, key: bytes) -> redis.Redis:
        return self.clients[crc32(key) % len(self.clients)]

    def _in_threads(
        self, ask: Callable[[Any, list[str], list[bytes]], object], names: Iterable[str]
    ) -> None:
        count, prefix = len(self.clients), self.prefix
        shares: list[tuple[list[str], list[bytes]]] = [([], []) for _ in range(count)]
        for name in names:
            key = f"{prefix}{name}".encode()
            mine, keys = shares[crc32(key) % count]
            mine.append(name)
            keys.append(key)
        futures = [
            self.pool.submit(ask, client, mine, keys)
            for client, (mine, keys) in zip(self.clients, shares, strict=True)
            if mine
        ]
        for future in futures:
            future.result()
