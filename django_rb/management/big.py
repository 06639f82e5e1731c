"""Which keys take most of the nodes' memory, by a sample of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.protocol.encoding import Args
from .base import NodeName
from .key_patterns import PatternSums
from .keys import Keyspace, from_argument
from .output import Progress
from .scanning import Nodes, Pages

SAMPLE = 100_000


@dataclass(frozen=True, order=True)
class BigKey:
    """A key, and the bytes of memory that it takes, those for its name and expiry included.

    Attributes:
        kind: its type: "string", "hash" …
    """

    size: int
    node: NodeName
    key: bytes
    kind: str


@dataclass(frozen=True)
class BigPattern:
    """Keys of the sample that are alike, and the bytes of memory that they take together."""

    pattern: bytes
    keys: int
    size: int


@dataclass(frozen=True)
class BigKeys:
    """What was found.

    Attributes:
        keys, patterns: the largest first.
        measured: how many keys are the sample; `size` is what they take together, in bytes.
        total: how many keys the nodes have that answered.
    """

    keys: Sequence[BigKey]
    patterns: Sequence[BigPattern]
    measured: int
    size: int
    total: int


def fetch_big(
    keyspace: Keyspace,
    nodes: Nodes,
    pattern: bytes,
    *,
    sample: int = SAMPLE,
    top: int = 20,
    progress: Progress | None = None,
) -> BigKeys:
    """Measure a sample of the keys of all nodes, on all of them at once.

    Each node gives keys in the order of its hash table, as SCAN does, which has nothing to do
    with what they are called or how large they are. So the first ones are a fair sample.
    What MEMORY USAGE says of a key with many elements is the node's estimate, from five.

    Args:
        keyspace: whose keys are looked at; patterns are of a cache's own keys.
        nodes: of `keyspace.clusters`; those that fail are in its `failures`.
        pattern: as SCAN MATCH has it; b"*" for all keys.
        sample: how many keys to measure, of all nodes together.
        top: how many keys and patterns to return.
        progress: is told how many keys were looked at.

    https://valkey.io/commands/memory-usage/
    """
    sizes = nodes.sizes()
    largest: list[BigKey] = []
    sums: PatternSums[int] = PatternSums()
    measured = size = 0
    for page in nodes.scan(pattern, sizes, progress or Progress(None, "", None, "")):
        for found in _measure(nodes, page, sample - measured):
            measured += 1
            size += found.size
            sums.add(own_bytes(keyspace, found.key), found.size)
            if found not in largest:  # a key may come twice
                if len(largest) < top:
                    heapq.heappush(largest, found)
                else:
                    heapq.heappushpop(largest, found)
        if measured >= sample:
            break
    return BigKeys(
        keys=sorted(largest, reverse=True),
        patterns=[BigPattern(*found) for found in sums.largest(top)],
        measured=measured,
        size=size,
        total=sum(size for node, size in sizes.items() if node not in nodes.failures),
    )


def _measure(nodes: Nodes, page: Pages, limit: int) -> list[BigKey]:
    """Return the keys of a page that are there, at most so many, shared out evenly."""
    kept: dict[NodeName, list[bytes]] = {node: [] for node in page}
    for place in range(max(map(len, page.values()), default=0)):
        for node, keys in page.items():
            if place < len(keys) and limit > 0:
                limit -= 1
                kept[node].append(keys[place])
    commands: dict[NodeName, list[Args]] = {
        node: [
            question for key in keys for question in (("MEMORY", "USAGE", key), ("TYPE", key))
        ]
        for node, keys in kept.items()
    }
    found: list[BigKey] = []
    for node, replies in nodes.run(commands).items():
        for key, size, kind in zip(kept[node], replies[::2], replies[1::2], strict=True):
            if size is not None:  # it has not gone in the meantime
                found.append(BigKey(size, node, key, kind.decode(errors="replace")))
    return found


def own_bytes(keyspace: Keyspace, stored: bytes) -> bytes:
    """Return a cache's own key for a stored one, or else the stored one."""
    own = keyspace.own(stored)
    return stored if own is None else from_argument(own)
