"""Parsing the replies to CLUSTER SHARDS, CLUSTER SLOTS and CLUSTER INFO.

A node reports its address as seen from its own network. An empty address stands for the one at
which it was asked, and ``?`` for an unknown name.

https://redis.io/docs/latest/commands/cluster-shards/
https://redis.io/docs/latest/commands/cluster-slots/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Address: TypeAlias = tuple[str, int]  # host and port

_UNKNOWN = "?"

_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Member:
    """A node of a cluster, as a node reports it."""

    node_id: str
    address: Address


@dataclass(slots=True)
class Shard:
    """A primary that owns slots, and its replicas.

    Attributes:
        slots: as pairs of a first and a last one.
    """

    primary: Member
    replicas: list[Member] = field(default_factory=list)
    slots: list[tuple[int, int]] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        """All of its nodes, the primary first."""
        return [self.primary, *self.replicas]


def read_shards(reply: Any, asked: Address, *, is_tls: bool) -> list[Shard]:
    """Return the shards that own slots, from a reply to CLUSTER SHARDS.

    Args:
        asked: the address of the node that says so.
        is_tls: connections use TLS.

    Raises:
        ValueError: it is no such reply.
    """
    try:
        return list(_read_shards(reply, asked, is_tls=is_tls))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"This is not a reply to CLUSTER SHARDS: {reply!r:.200}") from error


def _read_shards(reply: Any, asked: Address, *, is_tls: bool) -> Iterator[Shard]:
    for entry in reply:
        shard = _as_dict(entry)
        numbers = [int(number) for number in shard["slots"]]
        slots = list(zip(numbers[0::2], numbers[1::2], strict=True))
        if not slots:
            continue
        primaries: list[Member] = []
        replicas: list[Member] = []
        for node in map(_as_dict, shard["nodes"]):
            port = node.get("tls-port") if is_tls else None
            address = _address(
                node.get("endpoint"), node.get("ip"), port or node.get("port"), asked
            )
            member = Member(_text(node["id"]), address)
            if _text(node["role"]) in {"replica", "slave"}:
                replicas.append(member)
            elif "fail" in _text(node.get("health") or ""):
                primaries.append(member)  # another one may have replaced it
            else:
                primaries.insert(0, member)
        if primaries:
            yield Shard(primaries[0], replicas, slots)


def read_slots(reply: Any, asked: Address) -> list[Shard]:
    """Return the shards that own slots, from a reply to CLUSTER SLOTS; see `read_shards`."""
    try:
        shards: dict[str, Shard] = {}
        for first, last, *nodes in reply:
            primary, *replicas = (_read_member(node, asked) for node in nodes)
            shard = shards.setdefault(primary.node_id, Shard(primary, replicas))
            shard.slots.append((int(first), int(last)))
        return list(shards.values())
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"This is not a reply to CLUSTER SLOTS: {reply!r:.200}") from error


def _read_member(node: Sequence[Any], asked: Address) -> Member:
    endpoint, port, node_id, *more = node
    details = _as_dict(more[0]) if more else {}
    return Member(_text(node_id), _address(endpoint, details.get("ip"), port, asked))


def _address(endpoint: Any, ip: Any, port: Any, asked: Address) -> Address:
    host = _text(endpoint or "")
    if host == _UNKNOWN:
        host = _text(ip or "")
    return (host or asked[0]).lower(), int(port)


def read_address(said: str, asked: Address) -> Address | None:
    """Return the address in MOVED or ASK: ``10.0.0.1:6379``, ``::1:6379``, ``:6379``.

    Args:
        asked: that of the node that says so.

    Returns None for a name that the node does not know, and for what is no address.
    """
    host, _, port = said.rpartition(":")
    if host == _UNKNOWN or not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        return None
    return (host or asked[0]).lower(), int(port)


def read_epoch(reply: Any) -> int | None:
    """Return cluster_current_epoch from a reply to CLUSTER INFO, None if it is missing."""
    text = reply if isinstance(reply, bytes) else b""
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if name == b"cluster_current_epoch" and value.isdigit():
            return int(value)
    return None


def _as_dict(entry: Any) -> Mapping[str, Any]:
    """Return a dictionary, from a flat list in RESP2."""
    pairs = (
        entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2], strict=True)
    )
    return {_text(name): value for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
