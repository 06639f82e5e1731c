"""Whether near copies are valid: nodes report changes of keys that were read.

With CLIENT TRACKING, a node tracks the keys that are read on a connection, and reports their
changes as pushes on the same connection (RESP3). So replies and changes are in order: a change
after a reply is newer than it, and one before it is included in it. When the connection is
lost, the node no longer reports changes of these keys.

Each copy belongs to a `Term`, which ends when the connection is lost, when the node reports
that everything may have changed (FLUSHDB), and when keys may have moved. A term is valid only
if something was received from the node recently.

`Trackings.look` reads the nodes' pushes: one system call for all connections of a cluster, at
most once in LOOK_SECONDS.

https://valkey.io/topics/client-side-caching/
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

from ..forks import register_at_fork
from ..sockets import find_readable

# Pushes are read when a copy is needed, if they were last read longer ago than this.
LOOK_SECONDS = 0.001

# A copy is valid for this long after something was received on its connection. Then a read asks
# the node, which detects a connection that was lost without notice.
HEARD_SECONDS = 5.0


class Term:
    """A period in which copies are valid.

    Attributes:
        until: when it ends unless something is received by then, as monotonic(); 0 once it
            is over.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Read(Protocol):
    """A read of keys that is under way.

    Attributes:
        copies: the keeper of what is read.
        since: the number of the latest change there, when the read began.
    """

    copies: Any
    since: int


class Keeper(Protocol):
    """An owner of near copies."""

    def invalidate(self, keys: Sequence[bytes], read: Read | None = None) -> None:
        """Drop the copies of keys that were changed, before the node ran `read`."""

    def start_over(self) -> None:
        """In a forked child: drop all copies, and replace locks."""

    def clear(self) -> None:
        """Drop all copies."""

    def info(self) -> NearInfo:
        """Return sizes and counts."""


class NearInfo(NamedTuple):
    """Statistics of near copies in this process.

    Attributes:
        hits: reads of keys that were answered by a copy.
        misses: reads of keys without a copy.
        copies: how many copies there are.
        bytes: how much memory they take, approximately.
        max_bytes: how much memory they may take.
        invalidations: changes of keys that nodes have reported.
        evictions: copies that were dropped because of `max_bytes`.
    """

    hits: int = 0
    misses: int = 0
    copies: int = 0
    bytes: int = 0
    max_bytes: int = 0
    invalidations: int = 0
    evictions: int = 0


class Server(Protocol):
    """The part of a `Node` that this module uses."""

    epoch: int


class Layout(Protocol):
    """The part of a topology used here: its version changes when keys may have moved."""

    version: int


class Tracking:
    """The tracking of keys on one connection.

    Args:
        trackings: the cluster's trackings.
        node: the node.
        epoch: the node's epoch when the connection was opened.
        poll_fd: the connection's; see `sockets.poll_fd_of`.
        hear: reads the pushes that have come; if it cannot, it calls `fell_behind`.

    Attributes:
        term: the term for copies of what is read now.
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
        """Record that everything received so far was processed.

        Args:
            now: as monotonic(), or a little earlier.
        """
        term = self.term
        term.until = now + HEARD_SECONDS
        if term is not self.term:  # it was ended meanwhile
            term.until = 0.0

    def fell_behind(self) -> None:
        """Record that something unread has come: copies are invalid until it is read."""
        self.term.until = 0.0

    def told(self, push: Any, read: Read | None = None) -> None:
        """Process a push.

        Args:
            read: a read under way that the node ran after it.
        """
        if push[:1] == [b"invalidate"]:
            if push[1] is None:  # of FLUSHDB, FLUSHALL
                self.end_term()
            else:
                for keeper in self._trackings.keepers:
                    keeper.invalidate(push[1], read)

    def end_term(self) -> None:
        """Invalidate the copies of all that was read so far."""
        over, self.term = self.term, Term(monotonic() + HEARD_SECONDS if self.is_open else 0.0)
        over.until = 0.0

    def end(self) -> None:
        """Stop tracking, as the connection is closed. Does nothing the second time."""
        if self.is_open:
            self.is_open = False
            self._trackings.remove(self)
            self.end_term()


class Trackings:
    """The connections of one cluster on which nodes track keys.

    Attributes:
        keepers: the owners of near copies.
        look_at: when to read pushes next, as monotonic().
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
        """Return the statistics of all near copies of the cluster's keys in this process."""
        infos = [keeper.info() for keeper in self.keepers]
        return NearInfo(*map(sum, zip(*infos, strict=True))) if infos else NearInfo()

    def add(self, tracking: Tracking) -> None:
        """Read pushes of a connection from now on."""
        self._open[tracking] = None

    def remove(self, tracking: Tracking) -> None:
        """Stop reading pushes of a connection."""
        self._open.pop(tracking, None)

    def look(self, now: float) -> None:
        """Process all pushes that have come by now."""
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
        """Invalidate all copies that were made until now."""
        for tracking in tuple(self._open):
            tracking.end_term()

    def start_over(self) -> None:
        """In a forked child: the connections are the parent's."""
        for tracking in tuple(self._open):
            tracking.end()
        for keeper in self.keepers:
            keeper.start_over()


def forget_all() -> None:
    """Drop all copies of this process, for example after the nodes were flushed."""
    for trackings in list(_all):
        for keeper in trackings.keepers:
            keeper.clear()


_all: weakref.WeakSet[Trackings] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for trackings in list(_all):
        trackings.start_over()


register_at_fork(_start_over_after_fork)
