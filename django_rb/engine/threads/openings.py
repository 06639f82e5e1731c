"""Opening connections in parallel, by redis-py in threads.

redis-py opens connections by calls that wait: for the name, the address, TLS and the answers
to AUTH, HELLO and SELECT. A thread ends when its caller needs no more connections, and there
are few: see FEW_OPENINGS and MOST_OPENINGS. Callers that want more share those that are under
way.
"""

from __future__ import annotations

import _socket
import _thread
import contextlib
import copy
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic

import redis

from ..errors import CannotOpen
from ..forks import register_at_fork
from ..nodes.failing import MOST_OPENINGS, MOST_OPENINGS_PER_NODE
from ..polling import POLLIN, make_poller
from .connections import READ_SIZE, Connection
from .pool import Pool

# Python's own socketpair() leaks the descriptors if it is interrupted, or hits the recursion
# limit, before it has made sockets of them. The C function that it calls makes them at once.
_make_pair: Callable[[], tuple[_socket.socket, _socket.socket]] = getattr(
    _socket, "socketpair", socket.socketpair
)


# At first, about so many threads open connections, each one after the other: to start a thread
# takes almost as long as to open a connection to a node nearby. Once a caller got none for
# QUICK_SECONDS_EACH, or after QUICK_SECONDS, each of its other connections gets a thread of its
# own, so that nodes that are dead or far away delay them no longer.
FEW_OPENINGS = 4
QUICK_SECONDS_EACH = 0.005
QUICK_SECONDS = 0.05


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
        self._bell, self._button = _make_pair()
        self._button.setblocking(False)
        self._lock = threading.Lock()
        self._is_closed = False
        self.fd = self._bell.fileno()

    def ring(self, ticket: Ticket) -> None:
        """Add a ticket to the outcomes, and wake the thread if it waits."""
        with self._lock:  # never held while anything waits
            self.outcomes.append(ticket)
            # With several, it was woken already, and collects them all.
            if len(self.outcomes) == 1 and not self._is_closed:
                with contextlib.suppress(BlockingIOError):  # then it is ringing already
                    self._button.send(b"!")

    def wait(self, seconds: float) -> bool:
        """Wait until it rings; return whether it does, within that time."""
        poller = make_poller()
        poller.register(self.fd, POLLIN)
        return bool(poller.poll(seconds * 1000))

    def silence(self) -> None:
        """Make `fd` unreadable again."""
        self._bell.recv(READ_SIZE)

    def close(self) -> None:
        """Close the descriptors; `ring` does nothing from now on."""
        with self._lock:
            self._is_closed = True
            try:
                self._bell.close()
            finally:
                self._button.close()


class Ticket:
    """A caller that waits for a connection.

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
        # At most one. pop() is atomic: either the waiting caller takes it, or `let_go`.
        self._outcome: list[Connection | Exception] = []

    def give(self, outcome: Connection | Exception) -> None:
        """Set the outcome, a connection or an error, and wake the caller."""
        self.seconds = monotonic() - self.began
        self._outcome.append(outcome)
        self.bell.ring(self)
        if self.is_over:
            self.let_go()

    def take(self) -> Connection | Exception | None:
        """Return the outcome, once."""
        try:
            return self._outcome.pop()
        except IndexError:
            return None

    def let_go(self) -> None:
        """Stop waiting. A connection that is opened later goes to the pool."""
        self.is_over = True
        outcome = self.take()
        if isinstance(outcome, Connection):
            keep_late(self.pool, outcome)


def keep_late(pool: Pool, connection: Connection) -> None:
    """Give the pool a connection that was opened too late, or close it if it has others."""
    if pool.idle:
        connection.close()
    else:
        pool.keep(connection)


class _Opening:
    """A thread that opens connections to a node, for the tickets that wait.

    Args:
        ticket: the first that waits.

    Attributes:
        has_begun: the thread runs. Until then, the caller that starts it may be interrupted.
    """

    __slots__ = ("has_begun", "pool", "tickets")

    def __init__(self, ticket: Ticket) -> None:
        self.has_begun = False
        self.pool = ticket.pool
        self.tickets = deque([ticket])

    def is_awaited(self) -> bool:
        """Whether a ticket is still waiting."""
        return not all(ticket.is_over for ticket in self.tickets.copy())

    def next(self) -> Ticket | None:
        """Return the ticket that has waited longest; None if none is left."""
        with contextlib.suppress(IndexError):
            while True:
                ticket = self.tickets.popleft()
                if not ticket.is_over:
                    return ticket
        return None

    def fail(self, error: Exception) -> None:
        """Give all waiting tickets the error."""
        while ticket := self.next():
            ticket.give(error)
            cause, error = error.__cause__, copy.copy(error)  # each caller raises its own
            error.__cause__ = cause


def open_in_time(ticket: Ticket, seconds: float) -> None:
    """Open a connection for a ticket in the calling thread, within about `seconds`.

    A timeout counts as a failure of the node only if that was its full timeout.
    """
    pool = ticket.pool
    node = pool.node
    is_short = seconds < (node.open_timeout or float("inf"))
    try:
        ticket.give(pool.open(seconds if is_short else None))
    except redis.TimeoutError as late:
        text = (
            f"No thread can be started, and {seconds:.2g} s were not enough to connect one "
            "after the other"
        )
        lack = CannotOpen(node.named(text))
        ticket.give(lack if is_short else late)
    except Exception as error:  # noqa: BLE001 (it is raised where it is awaited)
        ticket.give(error)


class Openings:
    """What is being opened for one cluster.

    There is no lock: a signal handler that uses the cluster must not wait for the code that it
    interrupts. Instead, a ticket is added to an opening before checking that the opening still
    runs, and an opening is marked as ended before checking that no ticket was added.
    """

    def __init__(self) -> None:
        self._under_way: list[_Opening] = []
        _all.add(self)

    def want_all(
        self,
        tickets: deque[Ticket],
        bell: Bell,
        deadline: float,
        collect: Callable[[], None],
    ) -> list[Ticket]:
        """Open connections for tickets of one caller, by few threads as long as that is quick.

        Returns those for which no thread can be started; use `open_in_time`.

        Args:
            tickets: is emptied.
            collect: is called when the bell has rung.
        """
        refused: list[Ticket] = []

        def want_next() -> bool:
            try:
                ticket = tickets.popleft()
            except IndexError:  # the threads that run have taken them
                return False
            is_started = self._want(ticket, tickets)
            if is_started is None:
                refused.append(ticket)
            return is_started is True

        threads = max(1, FEW_OPENINGS - len(self._under_way))
        while tickets and threads:
            threads -= want_next()
        until = min(deadline, monotonic() + QUICK_SECONDS)
        while tickets and (left := until - monotonic()) > 0:
            if not bell.wait(min(left, QUICK_SECONDS_EACH)):
                break
            collect()
        while tickets:
            want_next()
        return refused

    def _want(self, ticket: Ticket, further: deque[Ticket]) -> bool | None:
        """Open a connection for a ticket, or add the ticket to an opening that is running.

        Returns whether a thread was started; None if none can be.

        Args:
            further: tickets that the thread takes care of afterwards, one by one.
        """
        opening = _Opening(ticket)
        try:
            if self._shares(ticket, further):
                return False
            self._under_way.append(opening)
            _thread.start_new_thread(self._run, (opening, further))
            opening.has_begun = True
        except BaseException as error:
            self._end(opening)
            # any other exception was raised by a signal handler
            if not isinstance(error, RuntimeError) or "thread" not in str(error):
                raise
            return None
        return True

    def _shares(self, ticket: Ticket, further: deque[Ticket]) -> bool:
        """Add a ticket to an existing opening, if there are many; return whether."""
        of_node = [
            known
            for known in self._under_way.copy()
            if known.pool is ticket.pool and known.has_begun
        ]
        is_full = len(self._under_way) + len(further) >= MOST_OPENINGS
        if not of_node or not (len(of_node) >= MOST_OPENINGS_PER_NODE or is_full):
            return False
        # One without waiting tickets has taken too long already.
        awaited = [opening for opening in of_node if opening.is_awaited()]
        opening = min(awaited or of_node[-1:], key=lambda known: len(known.tickets))
        opening.tickets.append(ticket)
        if opening in self._under_way:
            return True
        try:
            opening.tickets.remove(ticket)
        except ValueError:  # it was served in the meantime
            return True
        return False

    def _run(self, opening: _Opening, further: deque[Ticket]) -> None:
        """Open connections until no ticket waits."""
        while True:
            opening.has_begun = True
            self._open(opening)
            try:
                while (ticket := further.popleft()).is_over or self._shares(ticket, further):
                    pass
            except IndexError:
                return
            opening = _Opening(ticket)
            self._under_way.append(opening)

    def _open(self, opening: _Opening) -> None:
        """Open connections to a node until no ticket waits for one."""
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
        """In a forked child: forget the openings, whose threads do not run here."""
        self._under_way = []


_all: weakref.WeakSet[Openings] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for openings in list(_all):
        openings.start_over()


register_at_fork(_start_over_after_fork)
