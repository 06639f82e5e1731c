"""A round in a thread: parallel exchanges, until the last of them has ended.

All requests are sent first; then one poll() loop reads the replies as they come.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic, sleep

import redis

from ..errors import CannotOpen, ProtocolError
from ..nodes.failing import (
    LATE_PART,
    DeadlineError,
    give_up,
    is_blamed_for_deadline,
    is_own_lack,
    to_redis_error,
)
from ..nodes.node import PoolIsFull
from ..polling import POLLIN, POLLOUT, Poller, make_poller
from ..protocol.exchange import Exchange
from ..protocol.interludes import Pause, Race, Visit
from ..rounds.again import may_go_again
from ..sockets import NOTHING_YET
from ..spinning import LONG_WAIT_SECONDS, Spin
from .connections import WOULD_BLOCK, Connection, with_input
from .lines import FOREVER, Line
from .openings import Bell, Openings, Ticket, open_in_time
from .pool import Pool
from .tracked import pool_for_tracked

TLS_RECORD = 16384  # bytes; a larger write is split into several, RFC 8446, section 5.1


class Round:
    """One round.

    Args:
        pools: by host id.
        openings: what is being opened.
        spin: whether to spin before a wait.
        deadline: when unfinished exchanges fail, as monotonic().
        timeout: seconds for the whole call, if this is its first round and it has a deadline.
    """

    def __init__(
        self,
        pools: Mapping[int, Pool],
        openings: Openings,
        spin: Spin,
        deadline: float = FOREVER,
        timeout: float | None = None,
    ) -> None:
        self._pools = pools
        self._openings = openings
        self._spin = spin
        self._deadline = deadline
        self._timeout = timeout
        self._lines: dict[int, Line] = {}  # by descriptor
        self._tickets: dict[Ticket, Exchange] = {}  # for connections that are being opened
        self._bell: Bell | None = None
        self._race: Race | None = None
        self._poller: Poller = make_poller()
        self._began = monotonic()
        self._wake_at = 0.0  # never later than the first expiry

    def run(self, exchanges: Sequence[Exchange]) -> None:
        """Run exchanges until all have ended."""
        if isinstance(exchanges, Pause):
            left = self._deadline - monotonic()
            exchanges.is_over = left <= exchanges.seconds
            sleep(max(0.0, min(exchanges.seconds, left)))
            return
        if isinstance(exchanges, Visit):
            exchanges.run(self._deadline - monotonic())
            return
        if isinstance(exchanges, Race):
            self._race = exchanges
        try:
            if self._deadline != FOREVER and self._deadline <= monotonic():
                for exchange in exchanges:
                    node = self._pools[exchange.host_id].node
                    exchange.fail(to_redis_error(node, DeadlineError()))
                return
            unconnected = self._connect(exchanges)
            for line in list(self._lines.values()):
                self._start(line)
            for exchange, pool in unconnected:
                self._await(exchange, pool)
            if self._tickets:
                self._open()
            self._loop()
        finally:
            self._close()

    def go_on(self, exchange: Exchange, connection: Connection, pool: Pool) -> None:
        """Finish an exchange that was started on an idle connection."""
        try:
            line = self._add_line(exchange, connection, pool, is_reused=True)
            if exchange.out is not None:
                self._send(line)
            elif connection.is_tls:  # it may have decrypted bytes, which poll() does not see
                self._serve(line, POLLIN)
            self._loop()
        finally:
            self._close()

    def fail(
        self, exchange: Exchange, connection: Connection, pool: Pool, error: Exception
    ) -> None:
        """End an exchange whose idle connection failed."""
        self._fail(Line(exchange, connection, pool, is_reused=True), error)

    def _close(self) -> None:
        if self._bell is not None:
            self._bell.close()
        for ticket in self._tickets:
            ticket.let_go()
        for line in self._lines.values():  # none are left unless an exception was raised
            line.connection.close()

    # Connections.

    def _connect(self, exchanges: Sequence[Exchange]) -> list[tuple[Exchange, Pool]]:
        """Give exchanges idle connections; return those without one, with their pools."""
        lines = self._lines
        unconnected: list[tuple[Exchange, Pool]] = []
        for exchange in exchanges:
            pool = self._pools[exchange.host_id]
            if exchange.is_tracked:
                pool = pool_for_tracked(pool)
            health = pool.node.health
            if not health.is_well and (refusal := health.refusal()) is not None:
                exchange.fail(refusal)
            elif exchange.needs_new_connection or not (found := pool.take(is_checked=False)):
                unconnected.append((exchange, pool))
            else:
                self._add_line(exchange, found, pool, is_reused=True)
        checked = [
            line.connection
            for line in lines.values()
            if line.connection.reader.tracking is None  # others may have pushes to read
        ]
        for connection in with_input(checked):
            line = lines[connection.fd]
            self._drop(line)
            connection.close()
            if found := line.pool.take():
                self._add_line(line.exchange, found, line.pool, is_reused=True)
            else:
                unconnected.append((line.exchange, line.pool))
        return unconnected

    def _add_line(
        self, exchange: Exchange, connection: Connection, pool: Pool, *, is_reused: bool
    ) -> Line:
        line = Line(exchange, connection, pool, is_reused)
        self._lines[connection.fd] = line
        self._poller.register(connection.fd, POLLIN)
        return line

    def _await(self, exchange: Exchange, pool: Pool) -> None:
        """Add a ticket for an exchange that needs a new connection."""
        try:
            if self._bell is None:
                self._bell = Bell()
                self._poller.register(self._bell.fd, POLLIN)
        except OSError as error:  # no descriptor is left for it, so none for a connection
            node = pool.node
            text = node.named(f"No connection can be opened: {error}")
            self._not_opened(exchange, pool, CannotOpen(text))
            return
        ticket = Ticket(pool, self._bell, exchange.waited)
        self._tickets[ticket] = exchange

    def _open(self) -> None:
        """Have connections opened for all tickets."""
        assert self._bell is not None
        waiting = self._openings.want_all(
            deque(self._tickets), self._bell, self._deadline, self._start_opened
        )
        while waiting:  # open them here, one after the other: each gets its share of the time
            ticket = waiting[-1]
            left = min(self._deadline, _expires(ticket)) - monotonic()
            open_in_time(ticket, max(0.0, left / len(waiting)))
            waiting.pop()

    def _not_opened(self, exchange: Exchange, pool: Pool, error: Exception) -> None:
        if isinstance(error, PoolIsFull) or is_own_lack(error):
            pool.node.health.complained(error)
        elif isinstance(error, redis.RedisError | OSError):
            pool.node.failed(error)
        else:
            raise error  # not a failure of the node
        exchange.fail(error)

    def _start_opened(self) -> None:
        """Start exchanges whose connections were opened; end those whose openings failed."""
        bell = self._bell
        assert bell is not None
        bell.silence()
        while bell.outcomes:
            ticket = bell.outcomes.popleft()
            exchange, outcome = self._tickets.pop(ticket, None), ticket.take()
            if exchange is None or outcome is None:
                continue
            pool = ticket.pool
            if isinstance(outcome, Exception):
                self._not_opened(exchange, pool, outcome)
                continue
            line = self._add_line(exchange, outcome, pool, is_reused=False)
            # The wait for an opening counts towards the timeout: together they take no longer
            # than opening a connection and a reply may take.
            open_timeout = pool.node.open_timeout or FOREVER
            line.allowance = min(line.patience, open_timeout - ticket.seconds)
            self._start(line)
            line.since = monotonic()
            line.expires = line.since + line.allowance
            self._wake_at = 0.0  # compute it again: this may be the first to expire

    # Bytes.

    def _start(self, line: Line) -> None:
        """Send what the socket accepts without waiting."""
        line.exchange.begin(line.connection.reader, line.pool.node.has_pushes)
        self._send(line)

    def _loop(self) -> None:
        """Send to and read from nodes as they are ready, until all exchanges have ended."""
        lines = self._lines
        poll = self._poller.poll
        now = monotonic()
        for waiting in lines.values():
            waiting.since, waiting.expires = now, now + waiting.allowance
        self._wake_at = self._next_expiry()
        if self._spin.left > 0 and not self._tickets:
            self._serve_in_a_spin()
        while lines or self._tickets:
            wake_at = self._wake_at
            ready = poll(None if wake_at == FOREVER else max(0.0, wake_at - now) * 1000)
            began, now = now, monotonic()
            if not ready and wake_at != FOREVER:  # do not ask the clock: tests may stop it
                now = max(now, wake_at)
            for fd, events in ready:
                line = lines.get(fd)
                if line is not None:
                    self._serve(line, events)
                elif self._bell is not None and fd == self._bell.fd:
                    self._start_opened()
            if now - began > LONG_WAIT_SECONDS and self._serve_all_with_input():
                self._spin.waited(now - began)  # only the last wait of a round counts
            if now >= self._wake_at:
                self._expire(now)
                self._wake_at = self._next_expiry()

    def _serve_in_a_spin(self) -> None:
        """Read from the nodes that answer within a spin."""
        for line in self._lines.values():
            if line.exchange.out is not None or not line.connection.is_plain:
                return
        self._spin.serve(self._serve_all_with_input)

    def _serve_all_with_input(self) -> bool:
        """Read from all nodes that have answered by now; return whether none is left."""
        waiting = [line for line in self._lines.values() if line.exchange.out is None]
        for connection in with_input([line.connection for line in waiting]):
            if (line := self._lines.get(connection.fd)) is not None:  # not in a forked child
                self._serve(line, POLLIN)
        return not self._lines

    def _serve(self, line: Line, events: int) -> None:
        exchange, connection = line.exchange, line.connection
        if exchange.out is not None:
            if not self._send(line):
                return
            line.since = monotonic()  # encoding may have taken long
            line.expires = line.since + line.patience
        if events == POLLOUT and not connection.is_tls:
            return
        try:
            while True:
                size = connection.receive_now()
                if size == NOTHING_YET:
                    return
                if not size:
                    raise ConnectionResetError("the node closed the connection")
                if exchange.feed(connection.buffer, size):
                    break
                connection.make_room(size)
                now = monotonic()
                line.expires = now + line.patience
                # TLS may have decrypted bytes, which poll() does not see.
                if not connection.is_tls or now >= self._deadline:
                    return
        except (OSError, ProtocolError) as error:
            self._fail(line, error)
            return
        self._end(line)

    def _send(self, line: Line) -> bool:
        """Write until all is sent or the socket accepts no more; return whether it goes on."""
        exchange, connection = line.exchange, line.connection
        send, has_deadline = connection.send, self._deadline != FOREVER
        events = POLLIN
        out = exchange.out
        while out is not None:
            if has_deadline and monotonic() >= self._deadline:  # _expire() comes next
                events |= POLLOUT
                break
            if connection.is_tls and len(out) > TLS_RECORD:
                exchange.untouched = False  # TLS may send records and then raise
            try:
                size = send(out)
            except WOULD_BLOCK as error:
                if not isinstance(error, ssl.SSLWantReadError):
                    events |= POLLOUT
                break
            except OSError as error:  # maybe of a signal handler: it is unknown what was sent
                self._fail(line, error)
                return False
            out = exchange.sent(size)  # errors of encoding the next piece are raised
        if events != line.events:
            line.events = events
            self._poller.modify(connection.fd, events)
        return True

    # Ends.

    def _end(self, line: Line) -> None:
        """End an exchange that has its replies."""
        self._drop(line)
        line.pool.give_back(line.connection)
        exchange = line.exchange
        if exchange.on_done is not None and not exchange.has_errors:
            exchange.on_done(exchange)
        if self._race is not None and self._race.is_decided_by(exchange):
            self._lose_others(self._race)

    def _lose_others(self, race: Race) -> None:
        """End the exchanges that did not win the race."""
        for line in list(self._lines.values()):
            self._drop(line)
            line.connection.close()
            race.lose(line.exchange)
        while self._tickets:
            ticket, exchange = self._tickets.popitem()
            ticket.let_go()
            race.lose(exchange)

    def _fail(self, line: Line, error: Exception, *, silent: float = 0.0) -> None:
        exchange, node = line.exchange, line.pool.node
        self._drop(line)
        line.connection.close()
        if line.is_reused and may_go_again(exchange, error):
            exchange.is_stale = True
            exchange.waited = monotonic() - self._began
            return
        is_nodes_fault = not isinstance(error, DeadlineError) or is_blamed_for_deadline(
            timeout=self._timeout,
            silent=silent,
            is_heard=exchange.is_heard or exchange.untouched,
        )
        is_new = not line.is_reused
        give_up(exchange, node, error, is_nodes_fault=is_nodes_fault, is_new=is_new)

    def _drop(self, line: Line) -> None:
        # Removed here before it is given back, so that it never has two owners.
        fd = line.connection.fd
        if self._lines.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def _next_expiry(self) -> float:
        expiries = [line.expires for line in self._lines.values()]
        expiries += [_expires(ticket) for ticket in self._tickets]
        return min(self._deadline, *expiries) if expiries else self._deadline

    def _expire(self, now: float) -> None:
        """Fail exchanges whose node did not answer in time, or all after the deadline."""
        is_over = now >= self._deadline
        # Nodes are not blamed for time in which this process did not run.
        is_late = now - self._wake_at > LATE_PART * (now - self._began)
        for line in list(self._lines.values()):
            if not (is_over or now >= line.expires) or line.connection.fd not in self._lines:
                continue
            if line.connection.has_input():  # its answer has come, but was not read yet
                self._serve(line, POLLIN)
                if self._lines.get(line.connection.fd) is not line:
                    continue
            error = DeadlineError() if is_over else TimeoutError()
            self._fail(line, error, silent=0.0 if is_late else now - line.since)
        for ticket, exchange in list(self._tickets.items()):
            if is_over or now >= _expires(ticket):
                del self._tickets[ticket]
                ticket.let_go()
                error = DeadlineError() if is_over else TimeoutError("Timeout connecting")
                is_nodes_fault = not is_over or is_blamed_for_deadline(
                    timeout=self._timeout,
                    silent=0.0 if is_late else now - ticket.began,
                    is_heard=False,
                )
                give_up(exchange, ticket.pool.node, error, is_nodes_fault=is_nodes_fault)


def _expires(ticket: Ticket) -> float:
    return ticket.began + (ticket.pool.node.open_timeout or FOREVER)
