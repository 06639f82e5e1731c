"""The entry of a key: its type, time to live, size, and the beginning of its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..engine.protocol.encoding import Args
from .base import NodeName
from .keys import readable, ttl_of
from .scanning import Nodes

LINE = 80  # bytes of a string that count as a line
LONGEST_CELL = 239  # bytes; with the ellipsis, three lines

MISSING = object()


class Kind(NamedTuple):
    """How to read the beginning of a collection.

    Attributes:
        length: the command that counts its elements.
        read: returns the command that reads a number of elements of a key.
        columns: the parts of an element.
        rows: converts the reply to elements.
    """

    length: str
    read: Callable[[bytes, int], Args]
    columns: tuple[str, ...]
    rows: Callable[[Any], Iterable[tuple[Any, ...]]]


def singles(values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield elements that have one part."""
    return ((value,) for value in values)


def pairs(values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield elements that have two parts: in a flat list, or with RESP3 in pairs."""
    if values and isinstance(values[0], list):
        return map(tuple, values)
    return zip(values[::2], values[1::2], strict=True)


# How many slots of the hash table SCAN visits for each element, as some are empty.
PLACES = 4

KINDS = {
    "list": Kind("LLEN", lambda key, n: ("LRANGE", key, 0, n - 1), ("value",), singles),
    "hash": Kind(
        "HLEN",
        lambda key, n: ("HSCAN", key, 0, "COUNT", PLACES * n),
        ("field", "value"),
        lambda reply: pairs(reply[1]),
    ),
    "set": Kind(
        "SCARD",
        lambda key, n: ("SSCAN", key, 0, "COUNT", PLACES * n),
        ("member",),
        lambda reply: singles(reply[1]),
    ),
    "zset": Kind(
        "ZCARD",
        lambda key, n: ("ZRANGE", key, 0, n - 1, "WITHSCORES"),
        ("member", "score"),
        # In RESP2 scores are text.
        lambda reply: ((member, float(score)) for member, score in pairs(reply)),
    ),
    "stream": Kind(
        "XLEN",
        lambda key, n: ("XRANGE", key, "-", "+", "COUNT", n),
        ("id", "fields"),
        lambda reply: map(tuple, reply),
    ),
}


@dataclass
class Entry:
    """A key on one node.

    Attributes:
        ttl: seconds, None for ever.
        memory: bytes of the node's memory that it takes; None if unknown.
        length: the bytes of a string, the elements of anything else; None if unknown.
        data: a string, or the beginning of it.
        elements: the beginning of anything else.
        value: the value of a string for a cache.
        problem: why something is missing.
    """

    node: NodeName
    address: str
    kind: str
    ttl: float | None
    memory: int | None = None
    length: int | None = None
    data: bytes | None = None
    elements: Sequence[tuple[Any, ...]] = ()
    value: Any = MISSING
    problem: str = ""


def find(nodes: Nodes, addresses: Mapping[NodeName, str], key: bytes) -> list[Entry]:
    """Return an entry, with type and expiry, for each of the nodes that has the key."""
    replies = nodes.run(dict.fromkeys(addresses, (("TYPE", key), ("PTTL", key))))
    return [
        Entry(node, addresses[node], kind.decode(errors="surrogateescape"), ttl_of(ttl))
        for node, (kind, ttl) in replies.items()
        if ttl != -2  # there is no such key
    ]


def read(
    nodes: Nodes, entries: Iterable[Entry], key: bytes, limit: int, *, whole: bool
) -> None:
    """Read the size and the contents of entries, from all nodes in parallel."""
    by_node = {entry.node: entry for entry in entries}
    commands = {
        node: [("MEMORY", "USAGE", key), *reading(entry.kind, key, limit, whole=whole)]
        for node, entry in by_node.items()
    }
    for node, (memory, *replies) in nodes.run(commands, keep_errors=True).items():
        entry = by_node[node]
        if not isinstance(memory, Exception):
            entry.memory = memory
        if error := next((reply for reply in replies if isinstance(reply, Exception)), None):
            entry.problem = f"It cannot be read: {error}"
        elif not replies:
            entry.problem = f"Values of the type {entry.kind} cannot be shown."
        elif entry.kind == "string":
            entry.length, entry.data = replies
        else:
            entry.length, reply = replies
            entry.elements = list(KINDS[entry.kind].rows(reply))[:limit]


def reading(kind: str, key: bytes, limit: int, *, whole: bool) -> list[Args]:
    """Return the commands that count and read a value: two, or none for other types."""
    if kind == "string":
        return [("STRLEN", key), ("GETRANGE", key, 0, -1 if whole else limit * LINE - 1)]
    if kind in KINDS:
        return [(KINDS[kind].length, key), KINDS[kind].read(key, limit)]
    return []


def cell(part: Any) -> str:
    """Return a part of an element as text, shortened."""
    if isinstance(part, list):
        return cell(b" ".join(part))
    if isinstance(part, float):
        return str(part).removesuffix(".0")
    if not isinstance(part, bytes):
        return str(part)
    text = readable(part[:LONGEST_CELL])
    return text if len(part) <= LONGEST_CELL else f"{text}…"
