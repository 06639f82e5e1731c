"""redis-py's client of a Redis Cluster."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import redis

Hosts = Sequence[tuple[str, int]]


class RedisCluster:
    def __init__(self, hosts: Hosts, prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        host, port = hosts[0]
        self.client: Any = redis.RedisCluster(host=host, port=port)

    def get(self, name: str) -> Any:
        data = self.client.get(f"{self.prefix}{name}")
        return None if data is None else pickle.loads(data)

    def set(self, name: str, value: Any) -> None:
        self.client.set(f"{self.prefix}{name}", pickle.dumps(value, 5), ex=300)

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
