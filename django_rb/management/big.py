"""Finds the keys that take the most memory on nodes, using a sample."""

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
    """A key, and the bytes of memory that it takes, including its name and expiry.

    Attributes:
        kind: its type: "string", "hash" …
    """

    size: int
    node: NodeName
    key: bytes
    kind: str


@dataclass(frozen=True)
class BigPattern:
    """Similar keys of the sample, and the bytes of memory that they take together."""

    pattern: bytes
    keys: int
    size: int


@dataclass(frozen=True)
class BigKeys:
    """The result of `fetch_big`.

    Attributes:
        keys, patterns: the largest first.
        measured: the number of keys in the sample; `size` is their total in bytes.
        total: the number of keys on the nodes that answered.
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
    """Measure a sample of the keys of all nodes, in parallel.

    SCAN returns keys in the order of the node's hash table, which does not depend on their
    names or sizes. So the first ones are a fair sample. For a key with many elements, MEMORY
    USAGE is an estimate from five of them.

    Args:
        keyspace: the keys that are meant; patterns are made from a cache's own keys.
        nodes: of `keyspace.clusters`; those that fail are in its `failures`.
        pattern: for SCAN MATCH; b"*" for all keys.
        sample: how many keys to measure, of all nodes together.
        top: how many keys and patterns to return.
        progress: updated with the number of keys that were scanned.

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
            if found not in largest:  # a key may be returned twice
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
    """Return at most `limit` existing keys of a page, evenly from all nodes."""
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
            if size is not None:  # it still exists
                found.append(BigKey(size, node, key, kind.decode(errors="replace")))
    return found


def own_bytes(keyspace: Keyspace, stored: bytes) -> bytes:
    """Return a cache's own key for a stored one, or else the stored key."""
    own = keyspace.own(stored)
    return stored if own is None else from_argument(own)
