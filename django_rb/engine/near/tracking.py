"""Whether near copies count: what nodes tell of keys that were read on a connection.

A node tracks the keys that are read on a connection with CLIENT TRACKING, and tells of their
changes on the same connection (RESP3). So replies and changes come in one order: a change that
comes behind a reply is newer than it, and one that came before is in it. When the connection is
lost, the node tells of these keys no more.

Copies hold on to a `Term`: it is over when the connection is lost, when the node says that
everything may have changed (FLUSHDB), and when keys may have moved. A term counts only while
the node was heard of lately.

`Trackings.look` reads what nodes have told: one system call for all connections of a cluster,
and no more often than every LOOK_SECONDS.

https://valkey.io/topics/client-side-caching/
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from ..forks import register_at_fork
from ..sockets import find_readable

# Changes are looked for when a copy is asked for, if the last look is longer ago.
LOOK_SECONDS = 0.001

# A copy counts for so long after its connection was last heard. Then one read asks the node: a
# connection that is broken without a sign is found out.
HEARD_SECONDS = 5.0

_NONE: Mapping[bytes, object] = MappingProxyType({})


class Term:
    """A time in which copies count.

    Attributes:
        until: when it ends if nothing is heard by then, as monotonic(); 0 once it is over.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Keeper(Protocol):
    """Who keeps copies."""

    def invalidate(self, keys: Iterable[bytes], spared: Mapping[bytes, object]) -> None:
        """Drop the copies of keys that were changed, but for the places that are spared."""

    def start_over(self) -> None:
        """In a forked child: drop all copies, whoever held a lock."""

    def clear(self) -> None:
        """Drop all copies."""

    def info(self) -> NearInfo:
        """Return what there is, and what was done."""


class NearInfo(NamedTuple):
    """What near copies have done in this process.

    Attributes:
        hits: reads of keys that were answered by a copy.
        misses: reads of keys that had none, and might have.
        copies: how many there are.
        bytes: what they take, about.
        max_bytes: what they may take.
        invalidations: changes of keys that nodes told of.
        evictions: copies that had to make room.
    """

    hits: int = 0
    misses: int = 0
    copies: int = 0
    bytes: int = 0
    max_bytes: int = 0
    invalidations: int = 0
    evictions: int = 0


class Server(Protocol):
    """A node, as far as it matters here; see `Node`."""

    epoch: int


class Layout(Protocol):
    """A topology, as far as it matters here: its version changes when keys may have moved."""

    version: int


class Tracking:
    """What a node tells on one connection.

    Args:
        trackings: those of the cluster.
        node: tells.
        epoch: of the node when the connection was opened.
        poll_fd: the connection's; see `sockets.poll_fd_of`.
        hear: reads what was told; if it cannot, it calls `fell_behind`.

    Attributes:
        term: that of copies of what is read now.
    """

    __slots__ = ("_trackings", "epoch", "hear", "is_open", "node", "poll_fd", "term")

    def __init__(
        self,
        trackings: Trackings,
        node: Server,
        epoch: int,
        poll_fd: bytes,
        hear: Callable[[Tracking], None],
    ) -> None:
        self._trackings = trackings
        self.node, self.epoch, self.poll_fd, self.hear = node, epoch, poll_fd, hear
        self.is_open = True
        self.term = Term(monotonic() + HEARD_SECONDS)
        trackings.add(self)

    def heard(self, now: float) -> None:
        """Take note that all that came was read, and told.

        Args:
            now: as monotonic(), or a little earlier.
        """
        term = self.term
        term.until = now + HEARD_SECONDS
        if term is not self.term:  # it was ended meanwhile
            term.until = 0.0

    def fell_behind(self) -> None:
        """Take note that something came that was not read: copies do not count until it is."""
        self.term.until = 0.0

    def told(self, push: Any, spared: Mapping[bytes, object] = _NONE) -> None:
        """Take note of what the node said unasked.

        Args:
            spared: places by key of what is read after that.
        """
        if push[:1] == [b"invalidate"]:
            if push[1] is None:  # of FLUSHDB, FLUSHALL
                self.end_term()
            else:
                for keeper in self._trackings.keepers:
                    keeper.invalidate(push[1], spared)

    def end_term(self) -> None:
        """Let the copies of all that was read so far count no more."""
        over, self.term = self.term, Term(monotonic() + HEARD_SECONDS if self.is_open else 0.0)
        over.until = 0.0

    def end(self) -> None:
        """Take note that the connection is closed. Does nothing the second time."""
        if self.is_open:
            self.is_open = False
            self._trackings.remove(self)
            self.end_term()


class Trackings:
    """The connections of one cluster on which nodes tell of changes.

    Attributes:
        keepers: who keeps copies.
        look_at: when to look next, as monotonic().
        layout: the topology of the cluster.
    """

    layout: Layout

    def __init__(self) -> None:
        self.keepers: tuple[Keeper, ...] = ()
        self.look_at = 0.0
        self._version = 0
        self._open: dict[Tracking, None] = {}
        _all.add(self)

    def __len__(self) -> int:
        return len(self._open)

    def info(self) -> NearInfo:
        """Return what all near copies of the cluster's keys have done in this process."""
        infos = [keeper.info() for keeper in self.keepers]
        return NearInfo(*map(sum, zip(*infos, strict=True))) if infos else NearInfo()

    def add(self, tracking: Tracking) -> None:
        """Look at a connection from now on."""
        self._open[tracking] = None

    def remove(self, tracking: Tracking) -> None:
        """Look at a connection no more."""
        self._open.pop(tracking, None)

    def look(self, now: float) -> None:
        """Take note of all that nodes have told by now."""
        self.look_at = now + LOOK_SECONDS
        version = self.layout.version
        if version != self._version:
            self._version = version
            self.end_terms()
        trackings = tuple(self._open)
        for tracking in trackings:
            if tracking.epoch != tracking.node.epoch:
                tracking.end_term()
        for place in find_readable([tracking.poll_fd for tracking in trackings]):
            tracking = trackings[place]
            tracking.hear(tracking)

    def end_terms(self) -> None:
        """Let no copies count that were made until now."""
        for tracking in tuple(self._open):
            tracking.end_term()

    def start_over(self) -> None:
        """In a forked child: the connections are the parent's."""
        for tracking in tuple(self._open):
            tracking.end()
        for keeper in self.keepers:
            keeper.start_over()


def forget_all() -> None:
    """Drop all copies of this process, as after the nodes were emptied."""
    for trackings in list(_all):
        for keeper in trackings.keepers:
            keeper.clear()


_all: weakref.WeakSet[Trackings] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for trackings in list(_all):
        trackings.start_over()


register_at_fork(_start_over_after_fork)
