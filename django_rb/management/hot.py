"""Finds the keys that are used most, from what nodes can report without MONITOR.

Servers have different statistics, so the unit of a key's score depends on its source:

    cpu         Redis 8.6, HOTKEYS START: microseconds of CPU time in these seconds
    rate        Valkey, HOTKEYS GET if hotkey-top-k is set: requests per second
    frequency   an LFU maxmemory-policy, OBJECT FREQ: estimated requests, with decay
    recency     any other, OBJECT IDLETIME: in how many of these seconds it was used

Only the first two include keys that do not exist. `key_counts` counts the requests of this
process, with any server.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from django.core.management.base import CommandError

from ..engine.protocol.encoding import Args
from .base import NodeName
from .big import own_bytes
from .key_patterns import PatternSums
from .keys import Keyspace, from_argument
from .output import Progress
from .scanning import Nodes, Pages
from .slot_loads import HotSlot, fetch_slot_loads, hottest_slots

# The unit of a score, by its source.
UNITS = {
    "cpu": "µs of the server's time",
    "rate": "requests per second",
    "frequency": "requests, estimated",
    "recency": "seconds with at least one request",
}
LOOK_SECONDS = 0.5
_MOST_KEYS = 20_000  # per node that are checked repeatedly
_MOST_HOTKEYS = 64  # that Redis reports
_NEW_COUNTER = 5  # LFU_INIT_VAL
_LOG_FACTOR = 10  # lfu-log-factor, unless it was changed


@dataclass(frozen=True)
class HotKey:
    """A key, and how much it is used; see `UNITS`."""

    node: NodeName
    key: bytes
    source: str
    score: int


@dataclass(frozen=True)
class HotPattern:
    """Similar keys, how many of them are used, and the sum of their scores."""

    pattern: bytes
    source: str
    keys: int
    score: int


@dataclass(frozen=True)
class NodeSource:
    """The source of a node's scores.

    Attributes:
        source: see `UNITS`; None if there is none.
        looked_at: how many of its keys were checked; None if it reports hot keys itself.
        total: how many keys it has.
        note: why it has no better source.
    """

    source: str | None
    looked_at: int | None
    total: int
    note: str | None = None


@dataclass(frozen=True)
class HotKeys:
    """The result of `fetch_hot`; keys and patterns are grouped by source, the hottest first.

    Attributes:
        nodes: the nodes that answered.
        slots: those of Redis Clusters whose nodes have statistics of slots.
    """

    keys: Sequence[HotKey]
    patterns: Sequence[HotPattern]
    nodes: Mapping[NodeName, NodeSource]
    slots: Sequence[HotSlot]


def fetch_hot(
    keyspace: Keyspace,
    nodes: Nodes,
    *,
    seconds: float = 5.0,
    top: int = 20,
    progress: Progress | None = None,
) -> HotKeys:
    """Find the keys that are used most, on all nodes in parallel. It takes `seconds`.

    Args:
        keyspace: the keys that are meant.
        nodes: of `keyspace.clusters`; those that fail are in its `failures`.
        seconds: the duration. Nodes that have to be asked key by key are scanned for half of
            it, as far as possible; keys that are in use there are checked again until the end.
            Slots are measured in the remaining time.
        top: how many keys, patterns and slots to return for each source.
        progress: updated every second.
    """
    return _Watch(keyspace, nodes, seconds, top, progress).run()


class _Watch:
    """One observation of all nodes for some seconds."""

    def __init__(
        self,
        keyspace: Keyspace,
        nodes: Nodes,
        seconds: float,
        top: int,
        progress: Progress | None,
    ) -> None:
        self._keyspace = keyspace
        self._nodes = nodes
        self._seconds = seconds
        self._top = top
        self._progress = progress or Progress(None, "", None, "")
        self._began = monotonic()
        self._sources: dict[NodeName, str] = {}
        self._notes: dict[NodeName, str] = {}
        self._looked_at: Counter[NodeName] = Counter()
        self._since: dict[NodeName, int] = {}
        # The seconds in which recently used keys were used.
        self._used: dict[NodeName, dict[bytes, set[int]]] = {}
        self._scores: dict[str, dict[tuple[NodeName, bytes], int]] = {}
        self._sums: dict[str, PatternSums[int]] = {}

    def run(self) -> HotKeys:
        nodes = self._nodes
        sizes = nodes.sizes()
        try:
            self._choose_sources(sizes)
            self._scan(sizes)
            # Only from here on, as the slots' statistics would include the scan of all keys.
            loads = fetch_slot_loads(self._keyspace.clusters, nodes)
            self._look_again()
        finally:
            self._read_hotkeys()
        for node, used in self._used.items():
            for key, moments in used.items():
                self._note(node, key, "recency", min(len(moments), math.ceil(self._seconds)))
        slots = fetch_slot_loads(self._keyspace.clusters, nodes)
        return HotKeys(
            keys=list(self._ranked()),
            patterns=[
                HotPattern(pattern, source, keys, score)
                for source in UNITS
                if source in self._sums
                for pattern, keys, score in self._sums[source].largest(self._top)
            ],
            nodes={
                node: NodeSource(
                    self._sources.get(node),
                    None if self._tells_itself(node) else self._looked_at[node],
                    size,
                    self._notes.get(node),
                )
                for node, size in sizes.items()
                if node not in nodes.failures
            },
            slots=hottest_slots(nodes, loads, slots, self._top),
        )

    def _choose_sources(self, sizes: Mapping[NodeName, int]) -> None:
        """Find the source of each node; start HOTKEYS on Redis 8.6."""
        seconds = math.ceil(self._seconds) + 1  # then it ends by itself
        begin: Args = (
            *("HOTKEYS", "START", "METRICS", 1, "CPU"),
            *("COUNT", min(max(self._top, 1), _MOST_HOTKEYS), "DURATION", seconds),
        )
        asked: dict[NodeName, Sequence[Args]] = dict.fromkeys(
            sizes, (("INFO", "memory"), begin, ("HOTKEYS", "GET"), ("TIME",))
        )
        replies = self._nodes.run(asked, keep_errors=True)
        for node, (info, begun, told, time) in replies.items():
            self._since[node] = int(time[0]) if isinstance(time, list) else 0
            is_lfu = isinstance(info, bytes) and b"maxmemory_policy:allkeys-lfu" in info
            is_lfu |= isinstance(info, bytes) and b"maxmemory_policy:volatile-lfu" in info
            self._sources[node] = "frequency" if is_lfu else "recency"
            why = str(begun).lower()
            if not isinstance(begun, Exception):
                self._sources[node] = "cpu"
            elif "subcommand" in why:  # Valkey's HOTKEYS has no START
                if isinstance(told, Exception):
                    self._notes[node] = f"HOTKEYS failed: {told}"
                else:
                    self._sources[node] = "rate"
            elif "unknown command" not in why:
                self._notes[node] = f"HOTKEYS failed: {begun}"

    def _tells_itself(self, node: NodeName) -> bool:
        return self._sources.get(node) in {"cpu", "rate"}

    def _scan(self, sizes: Mapping[NodeName, int]) -> None:
        """Check the keys of nodes that do not report hot keys, while there is time."""
        asked = {node: size for node, size in sizes.items() if not self._tells_itself(node)}
        asked = {node: size for node, size in asked.items() if node in self._sources}
        pattern = b"*" if self._keyspace.cache is None else self._keyspace.pattern("*")
        nowhere = Progress(None, "", None, "")
        end = self._began + self._seconds / 2
        for page in self._nodes.scan(pattern, asked, nowhere):
            self._look_at(page)
            self._looked_at.update({node: len(keys) for node, keys in page.items()})
            self._tick()
            if monotonic() > end:
                return

    def _look_at(self, page: Pages) -> None:
        """Ask nodes for the frequency or idle time of keys."""
        words = {"frequency": "FREQ", "recency": "IDLETIME"}
        commands: dict[NodeName, list[Args]] = {}
        for node, keys in page.items():
            word = words[self._sources[node]]
            commands[node] = [("TIME",), *(("OBJECT", word, key) for key in keys)]
        for node, (time, *numbers) in self._nodes.run(commands, keep_errors=True).items():
            errors = [number for number in numbers if isinstance(number, Exception)]
            if numbers and len(errors) == len(numbers):
                self._notes[node] = str(errors[0])
                self._sources.pop(node, None)
                continue
            now = int(time[0]) if isinstance(time, list) else 0
            for key, number in zip(page[node], numbers, strict=True):
                if not isinstance(number, int):  # it no longer exists
                    continue
                if self._sources.get(node) == "frequency":
                    self._note(node, key, "frequency", _requests(number))
                else:
                    self._note_use(node, key, now, number)

    def _note_use(self, node: NodeName, key: bytes, now: int, idle: int) -> None:
        used = self._used.setdefault(node, {})
        if idle <= self._seconds and (key in used or len(used) < _MOST_KEYS):
            moments = used.setdefault(key, set())
            if now - idle >= self._since[node]:
                moments.add(now - idle)

    def _look_again(self) -> None:
        """Check the keys that were in use repeatedly, until the time is over."""
        end = self._began + self._seconds
        while (left := end - monotonic()) > 0:
            sleep(min(LOOK_SECONDS, left))
            self._tick()
            self._look_at({node: list(used) for node, used in self._used.items() if used})

    def _tick(self) -> None:
        """Update the progress with the seconds that have passed."""
        passed = int(min(monotonic() - self._began, self._seconds))
        self._progress.add(max(0, passed - self._progress.done))

    def _read_hotkeys(self) -> None:
        """Read the statistics of servers, and reset those of Redis."""
        ask: tuple[Args, ...] = (("HOTKEYS", "GET"),)
        end: tuple[Args, ...] = (("HOTKEYS", "STOP"), *ask, ("HOTKEYS", "RESET"))
        by_source = {"cpu": end, "rate": ask}
        asked = {
            node: by_source[source]
            for node, source in self._sources.items()
            if source in by_source
        }
        for node, replies in self._nodes.run(asked, keep_errors=True).items():
            source = self._sources[node]
            told = replies[1] if source == "cpu" else replies[0]
            if isinstance(told, Exception):
                self._notes[node] = f"HOTKEYS failed: {told}"
                del self._sources[node]
                continue
            database = self._keyspace.clusters[node[0]].hosts[node[1]].db
            read = _read_redis(told) if source == "cpu" else _read_valkey(told, database)
            for key, score in read:
                if self._is_meant(key):
                    self._note(node, key, source, score)

    def _is_meant(self, key: bytes) -> bool:
        """Whether a key belongs to the cache, if one was chosen."""
        if self._keyspace.cache is None:
            return True
        own = self._keyspace.own(key)
        with suppress(CommandError):  # it is not text
            return own is not None and self._keyspace.stored([from_argument(own)]) == [key]
        return False

    def _note(self, node: NodeName, key: bytes, source: str, score: int) -> None:
        if score <= 0:
            return
        scores = self._scores.setdefault(source, {})
        if (node, key) not in scores:  # a key may be returned twice
            own = own_bytes(self._keyspace, key)
            self._sums.setdefault(source, PatternSums()).add(own, score)
        scores[node, key] = score
        if len(scores) > _MOST_KEYS:
            kept = sorted(scores, key=scores.__getitem__, reverse=True)[: _MOST_KEYS // 2]
            self._scores[source] = {place: scores[place] for place in kept}

    def _ranked(self) -> Iterator[HotKey]:
        for source in UNITS:
            scores = self._scores.get(source, {})
            ranked = sorted(scores, key=lambda place: (-scores[place], place[1]))
            for node, key in ranked[: self._top]:
                yield HotKey(node, key, source, scores[node, key])


def _requests(counter: int) -> int:
    """Return an estimate of the requests that an LFU counter stands for.

    It is incremented with the probability 1 / (10 n + 1), where n is its value minus 5, and
    decremented every minute (lfu-log-factor, lfu-decay-time).

    https://valkey.io/topics/lru-cache/
    """
    steps = max(0, counter - _NEW_COUNTER)
    return steps + _LOG_FACTOR * steps * (steps - 1) // 2


def _read_redis(reply: Any) -> Iterator[tuple[bytes, int]]:
    """Yield keys and microseconds. https://redis.io/commands/hotkeys-get/"""
    if isinstance(reply, list) and len(reply) == 1:
        (reply,) = reply
    told = (
        dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else reply
    )
    ranked = (told or {}).get(b"by-cpu-time-us", [])
    yield from zip(ranked[::2], map(int, ranked[1::2]), strict=False)


def _read_valkey(reply: Any, database: int) -> Iterator[tuple[bytes, int]]:
    """Yield keys of a database and requests per second."""
    for entry in reply or ():
        told = (
            dict(zip(entry[::2], entry[1::2], strict=False))
            if isinstance(entry, list)
            else entry
        )
        if int(told.get(b"db", database)) == database:
            yield told[b"key"], int(told[b"qps"])
