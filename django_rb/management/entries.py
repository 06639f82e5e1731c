"""What is stored under a key: its type, time to live, size, and the beginning of its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..engine.protocol.encoding import Args
from .base import NodeName
from .keys import readable, ttl_of
from .scanning import Nodes

LINE = 80  # bytes of a string that count as a line
LONGEST_CELL = 239  # bytes; with the sign for more, three lines

MISSING = object()


class Kind(NamedTuple):
    """How the beginning of a collection is read.

    Attributes:
        length: the command that counts its elements.
        read: the command that reads some, for a key and a number.
        columns: what an element consists of.
        rows: makes elements of the reply.
    """

    length: str
    read: Callable[[bytes, int], Args]
    columns: tuple[str, ...]
    rows: Callable[[Any], Iterable[tuple[Any, ...]]]


def singles(values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield elements of one part."""
    return ((value,) for value in values)


def pairs(values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield elements of two parts: they come one after the other, or with RESP3 paired."""
    if values and isinstance(values[0], list):
        return map(tuple, values)
    return zip(values[::2], values[1::2], strict=True)


# SCAN looks at so many places for elements, of which some are empty.
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
        # RESP2 says scores as text.
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
    """What one node has under a key.

    Attributes:
        ttl: seconds, None for ever.
        memory: bytes that it takes of the node's memory; None if the node does not tell.
        length: the bytes of a string, the elements of anything else; None if unknown.
        data: a string, or the beginning of it.
        elements: the beginning of anything else.
        value: what a cache reads of a string.
        problem: why there is less to be shown than there should be.
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
    """Return the nodes that have a key, of those that should, with its type and expiry."""
    replies = nodes.run(dict.fromkeys(addresses, (("TYPE", key), ("PTTL", key))))
    return [
        Entry(node, addresses[node], kind.decode(errors="surrogateescape"), ttl_of(ttl))
        for node, (kind, ttl) in replies.items()
        if ttl != -2  # no such key
    ]


def read(
    nodes: Nodes, entries: Iterable[Entry], key: bytes, limit: int, *, whole: bool
) -> None:
    """Note the size and the contents of entries; all nodes at once."""
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
    """Return the commands that count and read what is stored: two, or none for other types."""
    if kind == "string":
        return [("STRLEN", key), ("GETRANGE", key, 0, -1 if whole else limit * LINE - 1)]
    if kind in KINDS:
        return [(KINDS[kind].length, key), KINDS[kind].read(key, limit)]
    return []


def cell(part: Any) -> str:
    """Return a part of an element as people read it, shortened."""
    if isinstance(part, list):
        return cell(b" ".join(part))
    if isinstance(part, float):
        return str(part).removesuffix(".0")
    if not isinstance(part, bytes):
        return str(part)
    text = readable(part[:LONGEST_CELL])
    return text if len(part) <= LONGEST_CELL else f"{text}…"
