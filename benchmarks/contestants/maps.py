"""map(), by command and for batches: django-rb's engine, and rb, whose API it keeps."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Hosts = Sequence[tuple[str, int]]
VALUE = b"value"


@dataclass(frozen=True)
class Command:
    """A command with one key.

    Attributes:
        arguments: after the key.
        returns: what it returns; None where that changes from call to call.
        seed: the command that stores what it finds.
        share: of rb's CPU time that a map() of it may take.
        method: if it is not called as the command.
    """

    arguments: tuple[Any, ...] = ()
    returns: Any = None
    seed: tuple[Any, ...] = ()
    share: float = 1 / 2
    options: dict[str, Any] = field(default_factory=dict)
    method: str = ""


_REST = 3 / 4
_STRING, _LIST = ("SET", VALUE), ("LPUSH", VALUE)
_HASH, _ZSET, _SET = ("HSET", "field", VALUE), ("ZADD", "1.5", VALUE), ("SADD", VALUE)
COMMANDS = {
    "get": Command((), VALUE, _STRING),
    "set": Command((VALUE,), True, share=_REST),
    "set, ex": Command((VALUE,), True, share=_REST, options={"ex": 300}, method="set"),
    "incr": Command(),
    "incrby": Command((5,)),
    "expire": Command((300,), True, _STRING, _REST),
    "delete": Command((), 0, share=_REST),
    "exists": Command((), 1, _STRING),
    "hget": Command(("field",), VALUE, _HASH),
    "hset": Command(("field", VALUE), 0, _HASH, _REST),
    "hgetall": Command((), {b"field": VALUE}, _HASH),
    "hincrby": Command(("count", 1)),
    "zadd": Command(({VALUE: 1.5},), 0, _ZSET, _REST),
    "zincrby": Command((1.0, VALUE)),
    "zrange": Command((0, -1), [VALUE], _ZSET),
    "sadd": Command((VALUE,), 0, _SET, _REST),
    "smembers": Command((), {VALUE}, _SET),
    "lpush": Command((VALUE,), share=_REST),
    "lrange": Command((0, -1), [VALUE], _LIST),
}


class Map:
    """One command for each key, all in one block."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        self.cluster = self.make_cluster(
            {number: {"host": host, "port": port} for number, (host, port) in enumerate(hosts)}
        )

    def make_cluster(self, hosts: Mapping[int, Mapping[str, Any]]) -> Any:
        from django_rb.engine import Cluster, SlotRouter  # noqa: PLC0415 (rb's has none)

        return Cluster(hosts, router_cls=SlotRouter)

    def map_keys(self, name: str, names: Sequence[str]) -> list[str]:
        """Return the keys of a command, which no other command uses."""
        return [f"{self.prefix}{name}:{key}" for key in names]

    def map_seed(self, name: str, keys: Sequence[str]) -> None:
        """Store what a command finds."""
        if seed := COMMANDS[name].seed:
            client = self.cluster.get_routing_client()
            for key in keys:
                client.execute_command(seed[0], key, *seed[1:])

    def map(self, name: str, keys: Sequence[str]) -> list[Any]:
        """Return what a command gives, for each key."""
        command = COMMANDS[name]
        arguments, options = command.arguments, command.options
        with self.cluster.map() as client:
            call = getattr(client, command.method or name)
            promises = [call(key, *arguments, **options) for key in keys]
        return [promise.value for promise in promises]

    def get(self, name: str) -> Any:
        with self.cluster.map() as client:
            promise = client.get(f"{self.prefix}{name}")
        return None if promise.value is None else pickle.loads(promise.value)

    def set(self, name: str, value: Any) -> None:
        with self.cluster.map() as client:
            client.setex(f"{self.prefix}{name}", 300, pickle.dumps(value, 5))

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
                client.setex(f"{prefix}{name}", 300, dumps(value, 5))


class Rb(Map):
    """rb itself."""

    def make_cluster(self, hosts: Mapping[int, Mapping[str, Any]]) -> Any:
        import rb  # noqa: PLC0415 (only its own environment has it)

        return rb.Cluster(hosts)

    def map(self, name: str, keys: Sequence[str]) -> list[Any]:
        if name != "set, ex":
            return super().map(name, keys)
        # It merges SET into MSET, with what says the expiry as further keys; SETEX it leaves.
        with self.cluster.map() as client:
            promises = [client.setex(key, 300, VALUE) for key in keys]
        return [promise.value for promise in promises]
