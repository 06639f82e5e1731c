"""Connections being opened side by side, each by redis-py in a thread of its own.

redis-py opens connections by calls that wait: for the name, the address, TLS and the answers
to AUTH, HELLO and SELECT. A thread ends with its opening, and there are few: of one node at
most MOST_PER_NODE, and beyond one for each node at most MOST_IN_ALL. Callers that want more
share those that are under way.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import socket
import threading
import weakref
from collections import defaultdict, deque
from time import monotonic

import redis

from ..errors import at_node
from ..forks import register_at_fork
from .connections import READ_SIZE, Connection
from .pool import Pool

MOST_PER_NODE = 8
MOST_IN_ALL = 32


class CannotOpen(redis.exceptions.ConnectionError):
    """This process lacks what it takes to open a connection; the node is not to blame."""


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


class Openings:
    """What is being opened for one cluster."""

    def __init__(self) -> None:
        # For each opening of a node the tickets that wait for it.
        self._under_way: defaultdict[Pool, list[deque[Ticket]]] = defaultdict(list)
        self._total = 0
        self._lock = threading.RLock()  # a signal handler may want one as well
        _all.add(self)

    def want(self, ticket: Ticket) -> None:
        """Have a connection opened for a ticket, or let it share in one that is under way."""
        with self._lock:
            openings = self._under_way[ticket.pool]
            for waiting in openings:
                while waiting and waiting[0].is_over:
                    waiting.popleft()
            if openings and (len(openings) >= MOST_PER_NODE or self._total >= MOST_IN_ALL):
                # One that nobody waits for any more is late already.
                min(filter(None, openings), key=len, default=openings[-1]).append(ticket)
                return
            tickets = deque([ticket])
            openings.append(tickets)
            self._total += 1
        try:
            _thread.start_new_thread(self._run, (ticket.pool, tickets))
        except RuntimeError as error:
            if "thread" not in str(error):  # a signal handler's
                raise
            if "shutdown" in str(error):
                self._run(ticket.pool, tickets)
                return
            node = ticket.pool.node
            text = at_node(f"No connection can be opened: {error}", node.host_id, node.address)
            self._ended(ticket.pool, tickets)
            for waiting_ticket in tickets:
                waiting_ticket.give(CannotOpen(text))

    def _run(self, pool: Pool, tickets: deque[Ticket]) -> None:
        """Open connections until no ticket waits for one."""
        try:
            while True:
                outcome: Connection | Exception
                try:
                    outcome = pool.open()
                except Exception as error:  # noqa: BLE001 (it is raised where it is awaited)
                    outcome = error
                if not self._give(pool, tickets, outcome):
                    return
        except BaseException:
            self._ended(pool, tickets)
            raise

    def _give(
        self, pool: Pool, tickets: deque[Ticket], outcome: Connection | Exception
    ) -> bool:
        """Tell the outcome; return whether another connection is wanted."""
        if isinstance(outcome, Exception):
            self._ended(pool, tickets)
            for ticket in tickets:
                ticket.give(outcome)
                cause, outcome = outcome.__cause__, copy.copy(outcome)  # each has its own
                outcome.__cause__ = cause
            return False
        with self._lock:
            while tickets and tickets[0].is_over:
                tickets.popleft()
            first = tickets.popleft() if tickets else None
            goes_on = any(not ticket.is_over for ticket in tickets)
            if not goes_on:
                self._ended(pool, tickets)
        if first is None:
            keep_late(pool, outcome)
        else:
            first.give(outcome)
        return goes_on

    def _ended(self, pool: Pool, tickets: deque[Ticket]) -> None:
        with self._lock:
            openings = self._under_way[pool]
            if any(other is tickets for other in openings):
                openings[:] = [other for other in openings if other is not tickets]
                self._total -= 1
            if not openings:
                del self._under_way[pool]

    def start_over(self) -> None:
        """In a forked child: the parent's threads are not here."""
        self._lock = threading.RLock()
        self._under_way.clear()
        self._total = 0


_all: weakref.WeakSet[Openings] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for openings in list(_all):
        openings.start_over()


register_at_fork(_start_over_after_fork)
