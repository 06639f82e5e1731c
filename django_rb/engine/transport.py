"""Moves the bytes of a batch's exchanges: all sends first, then what comes is read.

A batch is a generator that yields the exchanges of a round and, once each of them has its
replies or an error, goes on to the next round or returns its result. `PollTransport`
drives it for threads. It holds no lock while it waits and keeps no state between calls,
so any number of threads, greenlets and signal handlers may be inside it at once.

The nodes are heard in the order in which they were asked, each read waiting in the kernel.
Once a node is silent for a MOMENT, has much to say or is lost, one poll() loop hears all
that are left as they come. Most batches are over by then, and have spared themselves that.

A connection belongs to one exchange from `Node.take()` to `Node.give_back()`. Every other
way out of a round, `KeyboardInterrupt` and a killed greenlet included, closes it.

An idle connection may turn out to have been closed by the node. Then its exchange goes on
at once, in the same round, with a connection of its own: if nothing of it was sent, or if
it only reads and nothing came back.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

import redis
from hiredis import HiredisError

from .connections import (
    MOMENT,
    POLLIN,
    POLLOUT,
    READ_SIZE,
    WOULD_BLOCK,
    Connection,
    Node,
    PoolIsFull,
    make_poller,
)
from .errors import NodeFailure, ProtocolError, at_node
from .exchange import NO_REPLY, Batch, Exchange
from .failing import (
    DeadlineError,
    give_up,
    is_blamed_for_deadline,
    may_go_again,
    to_redis_error,
)
from .health import HealthChanges

T = TypeVar("T")

# A node, the connection it is asked on, and the places of its commands among all of them.
_Asked = tuple[Node, Connection, list[int]]

# An exchange, its node, and the idle connection that it was given.
_Begun = tuple[Exchange, Node, Connection]

# An exchange whose idle connection was lost and closed, its node, and why.
_Lost = tuple[Exchange, Node, Exception]

SMALL = 8192  # bytes of a command that every socket takes at once
TRIFLE = 0.001  # seconds that are not worth a word
TLS_RECORD = 16384  # bytes; a larger write leaves in several, RFC 8446, section 5.1
FOREVER = float("inf")


class PollTransport:
    """Drives batches with poll(), in the thread that calls.

    Args:
        nodes: the cluster's nodes by host id.
        changes: those of the nodes' health, told at the end of a call.
    """

    def __init__(self, nodes: Mapping[int, Node], changes: HealthChanges) -> None:
        self._nodes = nodes
        self._changes = changes

    def run(
        self, batch: Batch[T], timeout: float | None = None, began: float | None = None
    ) -> T:
        """Run a batch to its end and return its result.

        Args:
            batch: the generator; what fails on a node is told to it, not raised here.
            timeout: seconds after which whatever is unfinished has failed.
            began: when its first round began, if that was before, as monotonic().
        """
        deadline = FOREVER if timeout is None else monotonic() + timeout
        try:
            is_first = True
            while True:
                exchanges = next(batch)
                if timeout is None:
                    self._run_round(exchanges, began)
                else:
                    _Round(self._nodes, deadline, began, is_first=is_first).run(exchanges)
                began, is_first = None, False
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()
            if self._changes.waiting:
                self._changes.tell()

    def try_call(self, host_id: int, command: bytes, key: bytes, only_reads: bool) -> Any:
        """Return the reply to a small command if all goes as it mostly does, else NO_REPLY.

        After NO_REPLY the caller asks in a batch, which knows what to do about it: nothing
        was run, or nobody can tell.

        Args:
            command: its encoded form, of at most SMALL bytes.
            key: what it is about, for errors.
            only_reads: it may run twice.

        Raises:
            CallFailed: the node said nothing for `socket_timeout`, or answered with an
                error, or its answer to a command that writes was lost.
        """
        node = self._nodes[host_id]
        if not node.is_plain:
            return NO_REPLY
        idle = node.idle
        try:
            connection = idle.pop()
        except IndexError:
            return NO_REPLY
        if connection.poll(0):  # stale: see Node.take_usable
            connection.close()
            return NO_REPLY
        reader = connection.reader
        reply: Any = NO_REPLY
        is_sent = False
        error: Exception | None = None
        try:
            # One that is cut short never runs.
            is_sent = connection.send(command, connection.flags) == len(command)
            while is_sent:
                try:
                    size = connection.receive(connection.buffer)
                except BlockingIOError:  # nothing came for a MOMENT
                    size = _receive_late(node, connection)
                if not size:
                    break
                reader.feed(connection.buffer, 0, size)  # type: ignore[arg-type]
                reply = reader.gets()
                if reply is not NO_REPLY:
                    break
                connection.make_room(size)
        except (OSError, HiredisError) as caught:
            error = caught
            is_sent |= isinstance(error, TimeoutError)  # a signal handler's: nobody knows
        except BaseException:
            connection.close()
            raise
        if reply is NO_REPLY or reader.has_data():
            connection.close()
            if is_sent and (not only_reads or isinstance(error, BlockingIOError)):
                failed = to_redis_error(node, _why_unanswered(reply, error))
                node.failed(failed)
                raise self._call_failed(node, key, failed)
            return NO_REPLY
        if isinstance(reply, Exception):
            node.give_back(connection)
            reply.args = (at_node(reply, host_id, node.address),)
            raise self._call_failed(node, key, reply)
        idle.append(connection)
        return reply

    def try_calls(self, owners: Sequence[int], commands: Sequence[bytes]) -> list[Any] | None:
        """Return the replies to a few small commands if all goes as it mostly does.

        The plural of `try_call`: every node is sent its commands, then each is heard. Nobody
        waits longer than `socket_timeout` for nodes that say nothing, be it one or all.

        Args:
            owners: the node of each command.
            commands: their encoded forms. None is sent twice.

        Returns:
            None if nothing was sent. Else the replies in the order of the commands: an
            exception where a node said nothing of use, and NO_REPLY where nothing was run.
            Both go on in a batch, which knows what to do about it.
        """
        shares: dict[int, list[int]] = {}
        for place, owner in enumerate(owners):
            shares.setdefault(owner, []).append(place)
        replies: list[Any] = [NO_REPLY] * len(commands)
        asked: list[_Asked] = []  # whose connections are not yet given back
        try:
            if sum(map(len, commands)) > SMALL or not self._take_all(shares, asked):
                return None
            for line in asked.copy():
                if not _send_share(line, commands):
                    asked.remove(line)
            began = monotonic()
            while asked:
                node, connection, share = asked[0]
                _hear(node, connection, share, replies, began)
                del asked[0]  # first forgotten, then given away: it never has two owners
                if connection.fd >= 0:
                    node.give_back(connection)
        except BaseException:
            for _, connection, _ in asked:
                connection.close()
            raise
        if self._changes.waiting:
            self._changes.tell()
        return replies

    def _take_all(self, shares: Mapping[int, list[int]], asked: list[_Asked]) -> bool:
        """Take a connection to every node into `asked`; return False if one has none."""
        for host_id, share in shares.items():
            node = self._nodes[host_id]
            connection = node.take_usable() if node.is_plain else None
            if connection is None:
                break
            asked.append((node, connection, share))
        else:
            return True
        while asked:
            node, connection, _ = asked.pop()
            node.keep(connection)
        return False

    def _call_failed(self, node: Node, key: bytes, error: Exception) -> CallFailed:
        if self._changes.waiting:
            self._changes.tell()
        return CallFailed(NodeFailure(node.host_id, node.address, error, (key,)))

    def _run_round(self, exchanges: Sequence[Exchange], began: float | None) -> None:
        """Run exchanges the short way if all of them have idle connections."""
        lines: list[_Begun] = []
        lost: list[_Lost] = []
        try:
            if not self._take_idle(exchanges, lines):
                _Round(self._nodes, FOREVER, began).run(exchanges)
                return
            is_all_sent = _send_all(lines, lost)
            sent_at = monotonic()
            if is_all_sent:
                _hear_all(lines, lost, sent_at)
            if lines or lost:
                _Round(self._nodes, FOREVER, began).go_on(lines, lost, sent_at)
        finally:
            for _, _, connection in lines:  # none are left unless something was raised
                connection.close()

    def _take_idle(self, exchanges: Sequence[Exchange], lines: list[_Begun]) -> bool:
        """Take an idle connection for each exchange into `lines`; return False if one has none.

        As `Node.take_usable` does, but one poll() looks at all of them.
        """
        nodes, poller = self._nodes, make_poller()
        for exchange in exchanges:
            node = nodes[exchange.host_id]
            connection = node.take() if node.health.is_well else None
            if connection is None:
                break
            lines.append((exchange, node, connection))
            poller.register(connection.fd, POLLIN)
        else:
            if not poller.poll(0):
                return True
        while lines:
            _, node, connection = lines.pop()
            node.keep(connection)
        return False


def _send_all(lines: list[_Begun], lost: list[_Lost]) -> bool:
    """Send exchanges; return False as soon as a socket does not take what it is given."""
    for line in lines.copy():
        exchange, node, connection = line
        exchange.begin(connection.reader, node.has_pushes)
        send, flags, out = connection.send, connection.flags, exchange.out
        while out is not None:
            if connection.is_tls and len(out) > TLS_RECORD:
                return False
            try:
                size = send(out, flags)
            except WOULD_BLOCK:
                return False
            except OSError as error:  # a signal handler's as well: who knows what was sent
                lines.remove(line)
                connection.close()
                lost.append((exchange, node, error.with_traceback(None)))
                break
            out = exchange.sent(size)  # makes the next piece; what that raises is raised
    return True


def _hear_all(lines: list[_Begun], lost: list[_Lost], sent_at: float) -> None:
    """Hear exchanges in their order, and drop those that end or are lost from `lines`.

    Ends at the first whose node is slow. Leaves those out whose nodes have more to say than
    sockets hold for nodes that are not yet heard.
    """
    place = size = 0
    while place < len(lines):
        exchange, node, connection = lines[place]
        try:
            if not connection.can_wait and not connection.poll(MOMENT * 1000):
                return
            got = connection.receive(connection.buffer)
            if not got:
                raise ConnectionResetError("the node closed the connection")
            is_done = exchange.feed(connection.buffer, got)
        except WOULD_BLOCK:
            return
        except (OSError, ProtocolError) as error:
            del lines[place]
            connection.close()
            lost.append((exchange, node, error.with_traceback(None)))
            continue
        if is_done:
            del lines[place]  # first forgotten, then given away: it never has two owners
            node.give_back(connection)
            if exchange.on_done is not None:
                exchange.on_done(exchange)
            size = 0
            continue
        connection.make_room(got)
        size += got
        if size >= READ_SIZE:
            place, size = place + 1, 0
        elif monotonic() - sent_at > MOMENT:
            return


def _receive_late(node: Node, connection: Connection) -> int:
    """Read what comes within the rest of `socket_timeout`, or raise BlockingIOError."""
    patience = node.patience
    if not connection.poll(None if patience is None else max(0, patience - MOMENT * 1000)):
        raise BlockingIOError
    return connection.receive_now()


def _send_share(line: _Asked, commands: Sequence[bytes]) -> bool:
    """Send a node its commands; return False, and close, if nothing reached it."""
    _, connection, share = line
    if len(share) == 1:
        out = commands[share[0]]
    else:
        out = b"".join([commands[place] for place in share])
    try:
        # What is cut short was taken in part, which shows when the node is heard.
        connection.send(out, connection.flags)
    except TimeoutError:  # a signal handler's: what was sent shows when the node is heard
        pass
    except OSError:
        connection.close()
        return False
    return True


def _hear(
    node: Node, connection: Connection, share: list[int], replies: list[Any], began: float
) -> None:
    """Put a node's replies in their places; where one is missing, an exception.

    Then the connection is closed. It waits in the kernel at first.

    Args:
        began: since when it and others are waited for, as monotonic().
    """
    reader = connection.reader
    try:
        for place in share:
            while (reply := reader.gets()) is NO_REPLY:
                waited = monotonic() - began
                if waited > TRIFLE and not _has_answer(node, connection, waited):
                    raise TimeoutError
                try:
                    size = connection.receive(connection.buffer)
                except BlockingIOError:  # nothing came for a MOMENT
                    continue
                if not size:
                    raise ConnectionResetError("the node closed the connection")
                reader.feed(connection.buffer, 0, size)  # type: ignore[arg-type]
                connection.make_room(size)
            if isinstance(reply, Exception):
                reply.args = (at_node(reply, node.host_id, node.address),)
            replies[place] = reply
        if reader.has_data():
            for place in share:  # nobody knows which of them answers nothing
                replies[place] = NO_REPLY
            raise ProtocolError("The node sent more than it was asked for")
    except (OSError, HiredisError, ProtocolError) as error:
        connection.close()
        failed = to_redis_error(node, _why_unanswered(NO_REPLY, error))
        node.failed(failed)
        for place in share:
            if replies[place] is NO_REPLY:
                replies[place] = failed


def _has_answer(node: Node, connection: Connection, waited: float) -> bool:
    """Wait for an answer for what is left of `socket_timeout`."""
    patience = node.patience
    return bool(
        connection.poll(None if patience is None else max(0.0, patience - waited * 1000))
    )


def _why_unanswered(reply: Any, error: Exception | None) -> Exception:
    """Return why a command has no reply, or one that may be another's."""
    if isinstance(error, BlockingIOError):  # the socket's own timeout is over
        return TimeoutError()
    if isinstance(error, HiredisError):
        return ProtocolError(f"The node does not speak RESP: {error}")
    if reply is not NO_REPLY:
        return ProtocolError("The node sent more than it was asked for")
    return error or ConnectionResetError("the node closed the connection")


class CallFailed(Exception):
    """What a node was asked, it did not do, or nobody knows."""

    def __init__(self, failure: NodeFailure) -> None:
        super().__init__(failure)
        self.failure = failure


class _Line:
    """An exchange on the connection that it has until it ends."""

    __slots__ = (
        "allowance", "connection", "events", "exchange", "expires", "is_reused", "node",
        "patience",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        connection: Connection,
        node: Node,
        waited: float,
        *,
        is_reused: bool,
    ) -> None:
        self.exchange = exchange
        self.connection = connection
        self.node = node
        timeout = node.socket_timeout
        self.patience = FOREVER if timeout is None else timeout
        # Seconds for the first answer. The node was waited for before, and nobody waits for
        # longer than for a connection to be opened and answered.
        self.allowance = min(self.patience, (node.open_timeout or FOREVER) - waited)
        self.expires = FOREVER
        self.events = POLLIN  # what is watched for
        self.is_reused = is_reused


class _Round:
    """The exchanges that run side by side, until the last of them has ended."""

    def __init__(
        self,
        nodes: Mapping[int, Node],
        deadline: float,
        began: float | None = None,
        *,
        is_first: bool = True,
    ) -> None:
        self._nodes = nodes
        self._deadline = deadline
        now = monotonic()
        self._has_deadline = deadline != FOREVER
        self._is_over = deadline <= now
        self._waited = 0.0 if began is None else now - began  # for the one exchange there is
        self._is_first = is_first  # of the call's rounds
        self._lines: dict[int, _Line] = {}  # by descriptor
        self._poller = make_poller()
        self._openings: _Openings | None = None
        self._wake_at = 0.0  # never later than the first expiry

    def run(self, exchanges: Sequence[Exchange]) -> None:
        """Run exchanges to their ends."""
        if self._is_over:
            for exchange in exchanges:
                exchange.fail(to_redis_error(self._nodes[exchange.host_id], DeadlineError()))
            return
        try:
            self._connect(exchanges)
            for line in list(self._lines.values()):
                self._start(line)
            self._loop()
        finally:
            self._close()

    def go_on(self, begun: list[_Begun], lost: Sequence[_Lost], sent_at: float) -> None:
        """Finish exchanges that were begun on idle connections, and empty the list of them.

        Args:
            sent_at: since when those are waited for that were sent, as monotonic().
        """
        waited = monotonic() - sent_at
        try:
            for exchange, node, error in lost:
                if not exchange.is_heard and may_go_again(exchange, error):
                    self._again(exchange, node, max(self._waited, waited))
                else:
                    give_up(exchange, node, error)
            while begun:
                exchange, node, connection = begun[0]
                line = self._add_line(exchange, connection, node, is_reused=True)
                del begun[0]
                if exchange.untouched:
                    self._start(line)
                elif exchange.out is not None:
                    self._send(line)
                elif not exchange.is_heard:
                    line.allowance = min(line.allowance, max(0.0, line.patience - waited))
                elif connection.is_tls:  # it may hold more, which poll() does not see
                    self._serve(line, POLLIN)
            self._loop()
        finally:
            self._close()

    def _close(self) -> None:
        if self._openings is not None:
            self._openings.close()
        for line in self._lines.values():  # none are left unless something was raised
            line.connection.close()

    def _connect(self, exchanges: Sequence[Exchange]) -> None:
        """Give exchanges idle connections, or have new ones opened.

        As `Node.take_usable` does, but one poll() looks at all of them.
        """
        nodes, lines = self._nodes, self._lines
        for exchange in exchanges:
            node = nodes[exchange.host_id]
            if not node.health.is_well and (refusal := node.health.refusal()) is not None:
                exchange.fail(refusal)
                continue
            connection = node.take()
            if connection is None:
                self._open(exchange, node, self._waited)
            else:
                self._add_line(exchange, connection, node, is_reused=True)
        for fd, _ in self._poller.poll(0) if lines else ():
            stale = lines.get(fd)
            if stale is None:  # it is an opening's
                continue
            self._drop(stale)
            stale.connection.close()
            exchange, node = stale.exchange, stale.node
            connection = node.take_usable()
            if connection is None:
                self._open(exchange, node, self._waited)
            else:
                self._add_line(exchange, connection, node, is_reused=True)

    def _add_line(
        self,
        exchange: Exchange,
        connection: Connection,
        node: Node,
        waited: float | None = None,
        *,
        is_reused: bool,
    ) -> _Line:
        if waited is None:
            waited = self._waited
        line = _Line(exchange, connection, node, waited, is_reused=is_reused)
        self._lines[connection.fd] = line
        self._poller.register(connection.fd, POLLIN)
        return line

    def _open(self, exchange: Exchange, node: Node, waited: float) -> None:
        if self._openings is None:
            self._openings = _Openings()
            self._poller.register(self._openings.fd, POLLIN)
        self._openings.add(exchange, node, waited)
        self._wake_at = 0.0

    def _start(self, line: _Line) -> None:
        """Send what goes out without waiting."""
        exchange = line.exchange
        exchange.begin(line.connection.reader, line.node.has_pushes)
        self._send(line)

    def _loop(self) -> None:
        """Serve whichever node is ready, until none is awaited."""
        lines, poll = self._lines, self._poller.poll
        now = monotonic()
        for waiting in lines.values():
            waiting.expires = now + waiting.allowance
        self._wake_at = self._next_expiry()
        while lines or (self._openings is not None and self._openings.pending):
            wake_at = self._wake_at
            ready = poll(None if wake_at == FOREVER else max(0.0, wake_at - now) * 1000)
            now = monotonic()
            for fd, events in ready:
                line = lines.get(fd)
                if line is not None:
                    self._serve(line, events)
                elif self._openings is not None and fd == self._openings.fd:
                    self._start_opened()
            if now >= self._wake_at:
                self._expire(now)
                self._wake_at = self._next_expiry()

    def _serve(self, line: _Line, events: int) -> None:
        exchange, connection = line.exchange, line.connection
        if exchange.out is not None:
            if not self._send(line):
                return
            line.expires = monotonic() + line.patience  # to encode may have taken long
        if events == POLLOUT and not connection.is_tls:
            return
        try:
            while True:
                size = connection.receive_now()
                if not size:
                    raise ConnectionResetError("the node closed the connection")
                if exchange.feed(connection.buffer, size):
                    break
                connection.make_room(size)
                now = monotonic()
                line.expires = now + line.patience
                # TLS may hold more, which poll() does not see.
                if not connection.is_tls or now >= self._deadline:
                    return
        except WOULD_BLOCK:
            return
        except (OSError, ProtocolError) as error:
            self._fail(line, error)
            return
        self._drop(line)
        line.node.give_back(connection)
        if exchange.on_done is not None:
            exchange.on_done(exchange)

    def _send(self, line: _Line) -> bool:
        """Write until all is written or the socket takes no more; return whether it goes on."""
        exchange, send, flags = line.exchange, line.connection.send, line.connection.flags
        events = POLLIN
        out = exchange.out
        while out is not None:
            if self._has_deadline and monotonic() >= self._deadline:  # the loop looks next
                events |= POLLOUT
                break
            if line.connection.is_tls and len(out) > TLS_RECORD:
                exchange.untouched = False  # records may leave before send() says so
            try:
                size = send(out, flags)
            except WOULD_BLOCK as error:
                if not isinstance(error, ssl.SSLWantReadError):
                    events |= POLLOUT
                break
            except OSError as error:
                self._fail(line, error)
                return False
            out = exchange.sent(size)  # makes the next piece; what that raises is raised
        if events != line.events:
            line.events = events
            self._poller.modify(line.connection.fd, events)
        return True

    def _fail(self, line: _Line, error: Exception) -> None:
        exchange, node = line.exchange, line.node
        self._drop(line)
        line.connection.close()
        if line.is_reused and not exchange.is_heard and may_go_again(exchange, error):
            is_waiting = line.expires != FOREVER
            waited = monotonic() - line.expires + line.allowance if is_waiting else 0.0
            self._again(exchange, node, self._waited + max(0.0, waited))
        else:
            is_nodes_fault = not isinstance(error, DeadlineError) or is_blamed_for_deadline(
                is_first=self._is_first, is_heard=exchange.is_heard
            )
            give_up(exchange, node, error, is_nodes_fault=is_nodes_fault)

    def _again(self, exchange: Exchange, node: Node, waited: float) -> None:
        if not exchange.untouched:
            exchange.start_over()
        self._open(exchange, node, waited)

    def _drop(self, line: _Line) -> None:
        # First forgotten, then given away: it never has two owners.
        fd = line.connection.fd
        del self._lines[fd]
        self._poller.unregister(fd)

    def _start_opened(self) -> None:
        assert self._openings is not None
        for exchange, opened, waited in self._openings.collect():
            node = self._nodes[exchange.host_id]
            if isinstance(opened, redis.RedisError | OSError):
                if isinstance(opened, PoolIsFull):
                    node.health.complained(opened)
                else:
                    node.failed(opened)
                exchange.fail(opened)
                continue
            if isinstance(opened, Exception):
                raise opened  # no failure of the node's
            line = self._add_line(exchange, opened, node, is_reused=False, waited=waited)
            self._start(line)
            line.expires = monotonic() + line.allowance
            self._wake_at = 0.0  # it may be the first to expire

    def _next_expiry(self) -> float:
        expiries = [line.expires for line in self._lines.values()]
        if self._openings is not None:
            expiries += [self._openings.next_expiry()]
        return min(self._deadline, *expiries) if expiries else self._deadline

    def _expire(self, now: float) -> None:
        """Fail whatever was silent for too long, or everything once the deadline is over."""
        is_over = now >= self._deadline
        for line in list(self._lines.values()):
            if is_over:
                self._fail(line, DeadlineError())
            elif now >= line.expires:
                self._fail(line, TimeoutError())
        if self._openings is not None:
            for exchange, node in self._openings.expired(FOREVER if is_over else now):
                error = DeadlineError() if is_over else TimeoutError("Timeout connecting")
                is_nodes_fault = self._is_first or not is_over
                give_up(exchange, node, error, is_nodes_fault=is_nodes_fault)


class _Openings:
    """Connections being opened side by side, each by redis-py in a thread of its own.

    The threads end with the opening. A connection that comes too late for its round goes
    to its node's pool: it is new, and owes nothing.

    Attributes:
        fd: becomes readable when there is something to collect.
    """

    def __init__(self) -> None:
        self._number = 0
        # The exchange, the node, when it was waited for long enough, and how long before.
        self._pending: dict[int, tuple[Exchange, Node, float, float]] = {}
        self._opened: deque[tuple[int, Node, Connection | Exception, float]] = deque()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._lock = threading.Lock()
        self._closed = False
        self.fd = self._bell.fileno()

    def add(self, exchange: Exchange, node: Node, waited: float) -> None:
        """Open a connection for an exchange whose node was waited for before, for seconds."""
        number = self._number = self._number + 1
        expires = monotonic() + (node.open_timeout or FOREVER) - waited
        self._pending[number] = (exchange, node, expires, waited)
        thread = threading.Thread(
            target=self._open, args=(number, node), name=f"rb-open-{node.host_id}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            # No more threads, or the interpreter is going down; else a signal handler's.
            if "new thread" not in str(error):
                raise
            self._open(number, node)

    @property
    def pending(self) -> bool:
        """Whether an opening is still awaited."""
        return bool(self._pending)

    def collect(self) -> Iterator[tuple[Exchange, Connection | Exception, float]]:
        """Yield what was opened, or why not, since the last call.

        And for how many seconds the node was waited for, then and before.
        """
        self._bell.recv(READ_SIZE)
        while self._opened:
            number, node, opened, seconds = self._opened.popleft()
            pending = self._pending.pop(number, None)
            if pending is not None:
                exchange, _, _, waited = pending
                yield exchange, opened, waited + seconds
            elif isinstance(opened, Connection):
                node.keep(opened)

    def next_expiry(self) -> float:
        """Return when the first opening will have taken too long."""
        return min((expires for _, _, expires, _ in self._pending.values()), default=FOREVER)

    def expired(self, now: float) -> Iterator[tuple[Exchange, Node]]:
        """Yield the openings that took too long; they are awaited no more."""
        for number, (exchange, node, expires, _) in list(self._pending.items()):
            if now >= expires:
                del self._pending[number]
                yield exchange, node

    def close(self) -> None:
        """Wait for nothing more."""
        with self._lock:  # never held while anything waits
            self._closed = True
            try:
                self._bell.close()
            finally:
                self._button.close()
        self._give_back()

    def _open(self, number: int, node: Node) -> None:
        opened: Connection | Exception
        began = monotonic()
        try:
            opened = node.open()
        except Exception as error:  # noqa: BLE001 (it is raised in the thread that waits)
            opened = error
        self._opened.append((number, node, opened, monotonic() - began))
        with self._lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):  # then it is ringing already
                    self._button.send(b"!")
                return
        self._give_back()

    def _give_back(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                _, node, opened, _ = self._opened.popleft()
                if isinstance(opened, Connection):
                    node.keep(opened)
