"""map() and the routing clients: django-rb's engine, and rb, whose API it keeps."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Hosts = Sequence[tuple[str, int]]


class Clients:
    """Django's cache operations by a cluster's clients; values are pickled here."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        self.cluster = self.make_cluster(
            {number: {"host": host, "port": port} for number, (host, port) in enumerate(hosts)}
        )
        self.client = self.cluster.get_routing_client()

    def make_cluster(self, hosts: Mapping[int, Mapping[str, Any]]) -> Any:
        from django_rb.engine import Cluster, SlotRouter  # noqa: PLC0415 (rb's has none)

        return Cluster(hosts, router_cls=SlotRouter)

    def get(self, name: str) -> Any:
        data = self.client.get(f"{self.prefix}{name}")
        return None if data is None else pickle.loads(data)

    def set(self, name: str, value: Any) -> None:
        data = value if type(value) is int else pickle.dumps(value, 5)
        self.client.set(f"{self.prefix}{name}", data, ex=300)

    def incr(self, name: str) -> Any:
        return self.client.incr(f"{self.prefix}{name}")


class Map(Clients):
    """One command for each key, all in one block."""

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, loads = self.prefix, pickle.loads
        with self.cluster.map() as client:
            get = client.get
            promises = [get(f"{prefix}{name}") for name in names]
        return {
            name: loads(data)
            for name, promise in zip(names, promises, strict=True)
            if (data := promise.value) is not None
        }

    def set_many(self, data: Mapping[str, Any]) -> None:
        prefix, dumps = self.prefix, pickle.dumps
        with self.cluster.map() as client:
            for name, value in data.items():
                client.set(f"{prefix}{name}", dumps(value, 5), ex=300)

    def delete_many(self, names: Iterable[str]) -> None:
        with self.cluster.map() as client:
            for name in names:
                client.delete(f"{self.prefix}{name}")


class Rb(Map):
    """rb itself."""

    def make_cluster(self, hosts: Mapping[int, Mapping[str, Any]]) -> Any:
        import rb  # noqa: PLC0415 (only its own environment has it)

        return rb.Cluster(hosts)

    def set_many(self, data: Mapping[str, Any]) -> None:
        # It merges SET into MSET, with what says the expiry as further keys; SETEX it leaves.
        prefix, dumps = self.prefix, pickle.dumps
        with self.cluster.map() as client:
            for name, value in data.items():
                client.setex(f"{prefix}{name}", 300, dumps(value, 5))


class Routing(Clients):
    """One command for all keys, which the routing client splits by node."""

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, loads = self.prefix, pickle.loads
        values = self.client.mget([f"{prefix}{name}" for name in names])
        return {
            name: loads(data)
            for name, data in zip(names, values, strict=True)
            if data is not None
        }

    def delete_many(self, names: Iterable[str]) -> None:
        self.client.unlink(*(f"{self.prefix}{name}" for name in names))


class Aio(Routing):
    """The routing client of event loops."""

    async def aget(self, name: str) -> Any:
        data = await self.cluster.aio.get(f"{self.prefix}{name}")
        return None if data is None else pickle.loads(data)

    async def aset(self, name: str, value: Any) -> None:
        await self.cluster.aio.set(f"{self.prefix}{name}", pickle.dumps(value, 5), ex=300)

    async def aincr(self, name: str) -> Any:
        return await self.cluster.aio.incr(f"{self.prefix}{name}")

    async def aget_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, loads = self.prefix, pickle.loads
        values = await self.cluster.aio.mget([f"{prefix}{name}" for name in names])
        return {
            name: loads(data)
            for name, data in zip(names, values, strict=True)
            if data is not None
        }


class Amap(Map):
    """One command for each key, all of a call in one block."""

    async def aget(self, name: str) -> Any:
        async with self.cluster.amap() as client:
            promise = client.get(f"{self.prefix}{name}")
        return None if promise.value is None else pickle.loads(promise.value)

    async def aset(self, name: str, value: Any) -> None:
        async with self.cluster.amap() as client:
            client.set(f"{self.prefix}{name}", pickle.dumps(value, 5), ex=300)

    async def aincr(self, name: str) -> Any:
        async with self.cluster.amap() as client:
            promise = client.incr(f"{self.prefix}{name}")
        return promise.value

    async def aget_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, loads = self.prefix, pickle.loads
        async with self.cluster.amap() as client:
            get = client.get
            promises = [get(f"{prefix}{name}") for name in names]
        return {
            name: loads(data)
            for name, promise in zip(names, promises, strict=True)
            if (data := promise.value) is not None
        }

    async def aset_many(self, data: Mapping[str, Any]) -> None:
        prefix, dumps = self.prefix, pickle.dumps
        async with self.cluster.amap() as client:
            for name, value in data.items():
                client.set(f"{prefix}{name}", dumps(value, 5), ex=300)
