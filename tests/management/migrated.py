"""Keys of every type and every time, and what a node says of them."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

from django_rb.engine import Cluster

SOON = round((time() + 3600) * 1000)  # Unix time in milliseconds


def fill(cluster: Cluster, *, fields_expire: bool = False) -> set[bytes]:
    """Store values of all types; return their keys.

    Args:
        fields_expire: whether the servers let fields of a hash expire.
    """
    client: Any = cluster.get_routing_client()
    client.set("text", "x" * 200)
    client.set("number", 17, pxat=SOON)
    client.set(b"\x00\xff{a}\r\n", bytes(range(256)) * 10, pxat=SOON + 1)
    client.set("", "the empty key")
    client.set("no value", "")
    client.rpush("list", *range(5), b"\xff\r\n")
    client.rpush("long list", *range(3000))
    client.sadd("numbers", *range(5))
    client.sadd("set", *(f"member {n}" for n in range(3000)))
    client.zadd("zset", {"a": 1.5, "b": -0.1, b"\xff": float("inf"), "c": 1 / 3})
    client.zadd("long zset", {f"member {n}": n / 7 for n in range(3000)})
    client.hset("hash", mapping={"a": 1, b"\xff": b"\x00"})
    client.hset("long hash", mapping={f"field {n}": n for n in range(3000)})
    for key in ("list", "set", "zset", "hash"):
        client.pexpireat(key, SOON)
    if fields_expire:
        client.hset("fields", mapping={"a": 1, "b": 2, "c": 3})
        client.execute_command("HPEXPIREAT", "fields", SOON, "FIELDS", 2, "a", "b")
    fill_streams(client)
    return all_keys(cluster)


def fill_streams(client: Any) -> None:
    for n in range(1, 8):
        client.xadd("stream", {"n": n, b"\xff": b"\x00"}, id=f"{n}-1")
    client.xdel("stream", "7-1")
    client.xgroup_create("stream", "readers", id="2-1")
    client.xgroup_createconsumer("stream", "readers", "idle")
    client.xreadgroup("readers", "busy", {"stream": ">"}, count=2)
    client.xreadgroup("readers", "busy", {"stream": ">"}, count=1)
    client.xgroup_create("stream", "others", id="0")
    client.xadd("empty stream", {"n": 1}, id="5-5")
    client.xdel("empty stream", "5-5")
    client.xgroup_create("new stream", "waiting", id="0", mkstream=True)
    client.pexpireat("new stream", SOON)


def all_keys(cluster: Cluster) -> set[bytes]:
    return set(cluster.get_routing_client().scan_iter())


def told(cluster: Cluster) -> dict[bytes, Any]:
    """Return what each key's owner says of it."""
    return {key: tell(cluster.get_local_client_for_key(key), key) for key in all_keys(cluster)}


def tell(client: Any, key: bytes) -> Any:
    """Return all that a node says of a key."""
    kind = client.type(key)
    value: Any
    match kind:
        case b"string":
            value = client.get(key)
        case b"list":
            value = client.lrange(key, 0, -1)
        case b"set":
            value = client.smembers(key)
        case b"zset":
            value = client.zrange(key, 0, -1, withscores=True)
        case b"hash":
            value = client.hgetall(key)
            if key == b"fields":
                ask = ("HPEXPIRETIME", key, "FIELDS", 3, "a", "b", "c")
                value = value, client.execute_command(*ask)
        case b"stream":
            value = tell_stream(client, key)
    return kind, value, client.pexpiretime(key)


def tell_stream(client: Any, key: bytes) -> Any:
    info: Mapping[str, Any] = client.xinfo_stream(key)
    facts = ("last-generated-id", "entries-added", "max-deleted-entry-id")
    groups = [
        (
            group,
            [consumer["name"] for consumer in client.xinfo_consumers(key, group["name"])],
            [
                (entry["message_id"], entry["consumer"], entry["times_delivered"])
                for entry in client.xpending_range(key, group["name"], "-", "+", 100)
            ],
        )
        for group in client.xinfo_groups(key)
    ]
    return client.xrange(key), [info[name] for name in facts], groups
