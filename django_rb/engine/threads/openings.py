"""Connections being opened side by side, each by redis-py in a thread of its own.

redis-py opens connections by calls that wait: for the name, the address, TLS and the answers
to AUTH, HELLO and SELECT. A thread ends with its opening, and there are few: see
MOST_OPENINGS. Callers that want more share those that are under way.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import socket
import threading
import weakref
from collections import deque
from time import monotonic

from ..forks import register_at_fork
from ..nodes.failing import MOST_OPENINGS, MOST_OPENINGS_PER_NODE, CannotOpen
from .connections import READ_SIZE, Connection
from .pool import Pool


class Bell:
    """Wakes a thread that waits in poll().

    Attributes:
        fd: becomes readable when there is something to collect.
        outcomes: tickets whose connections were opened, or not.

    Raises:
        OSError: there are no more descriptors.
    """

    def __init__(self) -> None:
        self.outcomes: deque[Ticket] = deque()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._lock = threading.Lock()
        self._is_closed = False
        self.fd = self._bell.fileno()

    def ring(self) -> None:
        """Wake the thread, if it still waits."""
        with self._lock:  # never held while anything waits
            if not self._is_closed:
                with contextlib.suppress(BlockingIOError):  # then it is ringing already
                    self._button.send(b"!")

    def silence(self) -> None:
        """Ring no more until `ring` is called again."""
        self._bell.recv(READ_SIZE)

    def close(self) -> None:
        """Wake nobody any more."""
        with self._lock:
            self._is_closed = True
            try:
                self._bell.close()
            finally:
                self._button.close()


class Ticket:
    """Somebody waits for a connection.

    Args:
        pool: of the node.
        bell: is rung when there is an outcome.
        waited: seconds that they have waited already.

    Attributes:
        began: since when they wait, as monotonic().
        seconds: for how long they had waited when there was an outcome.
    """

    __slots__ = ("_outcome", "began", "bell", "is_over", "pool", "seconds")

    def __init__(self, pool: Pool, bell: Bell, waited: float) -> None:
        self.pool = pool
        self.bell = bell
        self.began = monotonic() - waited
        self.seconds = 0.0
        self.is_over = False
        # One at most. Whoever pops it has it: the one who waits, or the one who is late.
        self._outcome: list[Connection | Exception] = []

    def give(self, outcome: Connection | Exception) -> None:
        """Tell the outcome: a connection, or why there is none."""
        self.seconds = monotonic() - self.began
        self._outcome.append(outcome)
        self.bell.outcomes.append(self)
        self.bell.ring()
        if self.is_over:
            self.let_go()

    def take(self) -> Connection | Exception | None:
        """Return the outcome, once."""
        try:
            return self._outcome.pop()
        except IndexError:
            return None

    def let_go(self) -> None:
        """Wait no more. A connection that comes too late goes to the pool."""
        self.is_over = True
        outcome = self.take()
        if isinstance(outcome, Connection):
            keep_late(self.pool, outcome)


def keep_late(pool: Pool, connection: Connection) -> None:
    """Keep a connection that came too late, if the pool has none; close it otherwise."""
    if pool.idle:
        connection.close()
    else:
        pool.keep(connection)


class _Opening:
    """A thread that opens connections to a node, for whoever waits for one.

    Args:
        ticket: the first that waits.

    Attributes:
        has_begun: there is a thread. Before that, who wants the ticket may be interrupted.
    """

    __slots__ = ("has_begun", "pool", "tickets")

    def __init__(self, ticket: Ticket) -> None:
        self.has_begun = False
        self.pool = ticket.pool
        self.tickets = deque([ticket])

    def is_awaited(self) -> bool:
        """Whether anybody waits still."""
        return not all(ticket.is_over for ticket in self.tickets.copy())

    def next(self) -> Ticket | None:
        """Return who waited longest, and waits still."""
        with contextlib.suppress(IndexError):
            while True:
                ticket = self.tickets.popleft()
                if not ticket.is_over:
                    return ticket
        return None

    def fail(self, error: Exception) -> None:
        """Tell all who wait why there is no connection."""
        while ticket := self.next():
            ticket.give(error)
            cause, error = error.__cause__, copy.copy(error)  # each has its own
            error.__cause__ = cause


class Openings:
    """What is being opened for one cluster.

    There is no lock: a signal handler that uses the cluster may come at any time, and must
    not wait for whom it interrupts. A ticket is put to an opening before it is looked
    whether that goes on; an opening ends before it is looked whether a ticket was put to it.
    """

    def __init__(self) -> None:
        self._under_way: list[_Opening] = []
        _all.add(self)

    def want(self, ticket: Ticket) -> None:
        """Have a connection opened for a ticket, or let it share in one that is under way."""
        opening = _Opening(ticket)
        try:
            if not self._shares(ticket):
                self._under_way.append(opening)
                _thread.start_new_thread(self._run, (opening,))
                opening.has_begun = True
        except BaseException as error:
            self._end(opening)
            # another RuntimeError, or whatever else, is a signal handler's
            if not isinstance(error, RuntimeError) or "thread" not in str(error):
                raise
            if "shutdown" in str(error):
                self._run(opening)
                return
            text = ticket.pool.node.named(f"No connection can be opened: {error}")
            opening.fail(CannotOpen(text))

    def _shares(self, ticket: Ticket) -> bool:
        """Let a ticket share in an opening, if there are many."""
        of_node = [
            known
            for known in self._under_way.copy()
            if known.pool is ticket.pool and known.has_begun
        ]
        is_full = len(self._under_way) >= MOST_OPENINGS
        if not of_node or not (len(of_node) >= MOST_OPENINGS_PER_NODE or is_full):
            return False
        # One that nobody waits for any more is late already.
        awaited = [opening for opening in of_node if opening.is_awaited()]
        opening = min(awaited or of_node[-1:], key=lambda known: len(known.tickets))
        opening.tickets.append(ticket)
        if opening in self._under_way:
            return True
        try:
            opening.tickets.remove(ticket)
        except ValueError:  # it was served all the same
            return True
        return False

    def _run(self, opening: _Opening) -> None:
        """Open connections until nobody waits for one."""
        opening.has_begun = True
        try:
            while True:
                try:
                    connection = opening.pool.open()
                except Exception as error:  # noqa: BLE001 (it is raised where it is awaited)
                    self._end(opening)
                    opening.fail(error)
                    return
                if ticket := opening.next():
                    ticket.give(connection)
                else:
                    keep_late(opening.pool, connection)
                if not opening.is_awaited():
                    self._end(opening)
                    if not opening.is_awaited():
                        return
        finally:
            self._end(opening)

    def _end(self, opening: _Opening) -> None:
        with contextlib.suppress(ValueError):
            self._under_way.remove(opening)

    def count(self) -> int:
        """Return how many connections are being opened."""
        return len(self._under_way)

    def start_over(self) -> None:
        """In a forked child: the parent's threads are not here."""
        self._under_way = []


_all: weakref.WeakSet[Openings] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for openings in list(_all):
        openings.start_over()


register_at_fork(_start_over_after_fork)
