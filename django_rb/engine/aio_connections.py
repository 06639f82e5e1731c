"""Connections of event loops: opened by redis-py's asyncio side, one pool per loop and node.

The twin of `connections` for asyncio. redis-py sets a connection up; from then on the
engine is the protocol on its transport (`Transport.set_protocol`), so that what a node sends
goes from the loop straight to an exchange.

A pool is bounded. What finds no connection waits its turn; commands of one key that wait
side by side go out together, as one exchange.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import chain
from typing import Protocol, Self, cast

import redis
from hiredis import Reader

from .aio_handshake import connect
from .connections import POLLIN, Node, make_poller, to_error
from .encoding import PIECE_SIZE
from .errors import ProtocolError
from .exchange import Exchange, make_reader
from .failing import give_up_all, may_go_again, to_redis_error

# Connections per node and loop where POOL_OPTIONS["max_connections"] says nothing.
DEFAULT_MAX_CONNECTIONS = 32

# So many connections of a pool work on what may be joined, and the rest of it waits: the
# more goes out together, the fewer are the system calls, here and at the node.
_JOINING = 2

# So many commands that wait go out together at most, or some that have so many bytes.
_JOINED = 512
_JOINED_SIZE = PIECE_SIZE

# Bytes that are written before the loop has its turn, and that may wait in a transport.
_WRITE_SIZE = PIECE_SIZE

# While a node takes what there is to send, it is looked at so often per `socket_timeout`.
_LOOKS = 4

# A timer that comes so many seconds late tells of a loop that was kept from its work.
_LATE = 0.1
_TICK = 0.1
_TRIES = 3  # to open a connection, where the loop was kept from it

# Seconds between two looks at what waits for a connection, at least.
_BETWEEN_LOOKS = 0.01

FOREVER = float("inf")


class Owner(Protocol):
    """Who awaits a job."""

    def ended(self) -> None:
        """The exchange has its replies or its error."""

    def crash(self, error: BaseException) -> None:
        """Something was raised that is no node's failure."""


class Job:
    """An exchange that somebody awaits.

    Args:
        exchange: what is to be sent and read.
        pool: that of its node.
        owner: who awaits it.
        began: when, as loop.time().

    Attributes:
        limit: when the node must have said something, as loop.time().
        connection: the one that works for it.
        is_over: nobody awaits it any more.
        is_late: others' work kept it waiting, which is not the node's fault.
        is_again: its first connection was closed when it came.
        is_forgiven: its limit was put off, as the loop had not listened.
        is_probe: it is to find out whether the node is back.
    """

    __slots__ = (
        "_owner", "began", "connection", "exchange", "is_again", "is_forgiven", "is_late",
        "is_over", "is_probe", "limit", "pool",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, pool: Pool, owner: Owner, began: float) -> None:
        self.exchange = exchange
        self.pool = pool
        self.began = began
        self.limit = began + pool.open_timeout
        self.connection: AioConnection | None = None
        self.is_over = self.is_late = self.is_again = False
        self.is_forgiven = self.is_probe = False
        self._owner = owner

    @property
    def jobs(self) -> Sequence[Job]:
        """Those that have not ended: itself."""
        return (self,)

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be sent."""
        return self.connection is None and not self.is_over

    @property
    def is_given_up(self) -> bool:
        """Whether it has ended before it was sent."""
        return self.connection is None and self.is_over

    def unanswered(self) -> Sequence[Job]:
        """Return the jobs that have no reply, as their connection has failed."""
        return (self,)

    def sit_on(self, connection: AioConnection) -> None:
        """Know the connection that works for it."""
        self.connection = connection

    def done(self) -> None:
        """End with all replies."""
        try:
            if self.exchange.on_done is not None:
                self.exchange.on_done(self.exchange)
        except BaseException as error:  # it is raised where the job is awaited
            self.crash(error)
            if not isinstance(error, Exception):
                raise
        else:
            self.end()

    def end(self) -> None:
        """End: the exchange has its replies or its error."""
        self.is_over = True
        self._owner.ended()

    def crash(self, error: BaseException) -> None:
        """End with something that is no node's failure."""
        if not self.is_over:
            self.is_over = True
            self._owner.crash(error)

    def abandon(self) -> None:
        """End, as nobody awaits it any more. A connection that works for it alone is closed."""
        self.is_over = True
        if self.connection is not None:
            self.connection.abandon()


class _Joined:
    """Jobs of one command each that go out together and are answered in their order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.exchange = Exchange(
            jobs[0].exchange.host_id,
            b"".join(cast(bytes, job.exchange.out) for job in jobs),
            len(jobs),
        )
        self.exchange.may_join = True

    @property
    def jobs(self) -> Sequence[Job]:
        """Those that have not ended."""
        return [job for job in self._jobs if not job.is_over]

    @property
    def limit(self) -> float:
        """When the node must have said something to the first of them."""
        return min((job.limit for job in self._jobs if not job.is_over), default=0.0)

    def sit_on(self, connection: AioConnection) -> None:
        """Let each know the connection that works for it."""
        for job in self._jobs:
            job.connection = connection
            job.exchange.untouched = False

    @property
    def is_over(self) -> bool:
        """Whether nobody awaits any of them any more."""
        return all(job.is_over for job in self._jobs)

    def done(self) -> None:
        """End each with its reply, if there is one."""
        try:
            for job, reply in zip(self._jobs, self.exchange.replies, strict=False):
                if not job.is_over:
                    job.exchange.replies.append(reply)
                    job.done()
        except BaseException as error:  # of one of them, and no Exception
            self.crash(error)
            raise

    def unanswered(self) -> Sequence[Job]:
        """Return those that have no reply, as their connection has failed; end the others."""
        self.done()
        return self.jobs

    def crash(self, error: BaseException) -> None:
        """End with something that is no node's failure."""
        for job in self.jobs:
            job.crash(error)


class AioConnection(asyncio.Protocol):
    """One set-up connection of an event loop. It has one job at a time.

    Attributes:
        is_closed: it is of no more use.
        is_heard: the node said something to the job.
    """

    def __init__(self, writer: asyncio.StreamWriter, pool: Pool) -> None:
        self._pool = pool
        self._node = pool.node
        self._loop = pool.loop
        # Kept: a StreamWriter that is collected closes its transport.
        self._writer = writer
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(_WRITE_SIZE)
        self.fd: int = self._transport.get_extra_info("socket").fileno()
        poller = make_poller()
        poller.register(self.fd, POLLIN)
        self._poll = poller.poll
        self._complaints: list[Exception] = []
        self._reader: Reader = make_reader(partial(to_error, self._complaints))
        self._job: Job | _Joined | None = None
        self._is_reused = False
        self._is_paused = False
        self._unsent = 0  # bytes that the transport kept when it was last looked at
        # The last time that the node did something, and what it is given for the next.
        self._since = 0.0
        self._patience = self._node.socket_timeout or FOREVER
        self._timer: asyncio.TimerHandle | None = None
        self._is_forgiven = False  # it had more time, as the loop had not listened
        self.is_heard = False
        self.is_closed = False

    @property
    def is_usable(self) -> bool:
        """Whether a question may be sent: the node has not hung up, nor said anything."""
        return not (self.is_closed or self._transport.is_closing() or self._poll(0))

    def start(self, job: Job | _Joined, *, is_reused: bool) -> None:
        """Send what a job asks, and read until it is answered."""
        job.sit_on(self)
        self._job = job
        self._is_reused = is_reused
        self.is_heard = self._is_forgiven = False
        job.exchange.begin(self._reader, self._node.has_pushes)
        self._send()
        if self._job is job:
            self._watch()

    def close(self) -> None:
        """Close the connection at once. Does nothing the second time."""
        if not self.is_closed:
            self.is_closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._job = None
            self._transport.abort()
            self._pool.forget(self)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the descriptor, and touch nothing else of the loop's.

        It shares its selector with the parent's loop.
        """
        self.is_closed = True
        nowhere, nobody = socket.socketpair()  # something that can be polled, and is over
        os.dup2(nowhere.fileno(), self.fd)
        nowhere.close()
        nobody.close()

    def abandon(self) -> None:
        """Close the connection if nobody awaits any more what it works for."""
        if self._job is not None and self._job.is_over:
            self.close()

    # What the loop calls.

    def data_received(self, data: bytes) -> None:
        """Give the job what the node sent."""
        job = self._job
        if job is None:  # an answer that nobody asked for
            self.close()
            return
        self.is_heard = True
        self._is_forgiven = False
        self._since = self._loop.time()
        try:
            if job.exchange.feed(data):
                if self._transport.get_write_buffer_size():
                    raise job.exchange.too_much()  # it answered what it does not know yet
                self._job = None
                self._pool.take_back(self, self._complaints)
                job.done()
        except ProtocolError as error:
            self._fail(error)
        except BaseException as error:
            self._crash(error)
            job.crash(error)
            raise

    def eof_received(self) -> None:
        """Fail the job: the node will say no more."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the job: the node hung up, or the way to it is broken."""
        if self._job is not None:
            self._fail(exc or ConnectionResetError("the node closed the connection"))
        self.close()

    def pause_writing(self) -> None:
        """Make no more of the commands until the node has taken what there is."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._is_paused = False
        self._send()

    def _send(self) -> None:
        """Write a piece of what is left, if any. Before the next one the loop has its turn."""
        job = self._job
        if job is None or self._is_paused:
            return
        exchange = job.exchange
        out = exchange.out
        if out is not None:
            if len(out) > _WRITE_SIZE:  # transports copy what they do not get rid of
                out = memoryview(out)[:_WRITE_SIZE]
            try:
                self._transport.write(out)
                if exchange.sent(len(out)) is not None and not self._is_paused:
                    self._loop.call_soon(self._send)
            except BaseException as error:
                self._crash(error)
                if not isinstance(error, Exception):
                    raise
                return
            self._unsent = self._transport.get_write_buffer_size()
        self._since = self._loop.time()  # to encode may have taken long

    def _crash(self, error: BaseException) -> None:
        """Close, and let those who await the job have an error that is not the node's."""
        job, self._job = self._job, None
        self.close()
        if job is not None:
            job.crash(error)

    def _fail(self, error: Exception) -> None:
        job, self._job = self._job, None
        assert job is not None
        try:
            is_unheard = self._is_reused and not self.is_heard
            self._pool.failed(job.unanswered(), error, is_unheard=is_unheard)
        finally:
            self.close()

    # Time.

    def _watch(self) -> None:
        """Look at the time when the node has had enough of it."""
        look_at = self._expires()
        if self._unsent:
            look_at = min(look_at, self._loop.time() + self._patience / _LOOKS)
        if self._timer is not None:
            if self._timer.when() <= look_at:
                return  # it looks again then
            self._timer.cancel()
            self._timer = None
        if look_at != FOREVER:
            self._timer = self._loop.call_at(
                look_at, self._check_time, look_at, context=Context()
            )

    def _expires(self) -> float:
        """Return when the node will have been silent for too long."""
        expires = self._since + self._patience
        if self.is_heard or self._job is None:
            return expires
        return min(expires, self._job.limit)

    def _check_time(self, planned: float) -> None:
        self._timer = None
        job = self._job
        if job is None:
            return
        now = self._loop.time()
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._since = now  # it takes what it is sent
        self._unsent = unsent
        if now >= self._expires():
            if self._poll(0):
                # The loop has not read yet what came in time. It does so next.
                self._timer = self._loop.call_later(0, self._check_time, now)
                return
            if now - planned >= _LATE and not self._is_forgiven:
                self._is_forgiven = True
                self._since = now  # nobody listened before
                for one in job.jobs:
                    one.limit = max(one.limit, now + self._patience)
        if now >= self._since + self._patience:
            self._fail(TimeoutError())
            return
        if not self.is_heard and now >= job.limit:
            self._pool.expire(job.jobs, now, TimeoutError())
            self.abandon()
        if self._job is not None:
            self._watch()


class Pool:
    """The connections of one loop to one node, and the jobs that wait for one.

    Attributes:
        node, loop: whose they are.
        open_timeout: seconds that a job may wait for the node's first word.
        connections: all connections, idle and busy.
    """

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.loop = loop
        self.open_timeout = node.open_timeout or FOREVER
        self.connections: set[AioConnection] = set()
        self._limit = node.max_connections or DEFAULT_MAX_CONNECTIONS
        self._idle: list[AioConnection] = []
        self._joining: set[AioConnection] = set()
        # Jobs without a connection: those that may be joined, and the others.
        self._to_join: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        # Connections that are being opened, and the jobs that they were meant for.
        self._openings: dict[asyncio.Task[None], Job] = {}
        self._queue_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._is_retired = False

    def submit(self, job: Job) -> None:
        """Run a job as soon as there is a connection for it; its `end` is called then."""
        health = self.node.health
        if not health.is_well:
            refusal = health.refusal()
            if refusal is not None:
                job.exchange.fail(refusal)
                job.end()
                return
            job.is_probe = health.is_down
        while self._idle and not (job.exchange.may_join and len(self._joining) >= _JOINING):
            connection = self._idle[-1]
            if connection.is_usable:
                # Taken when it has its job: whatever is raised, somebody will close it.
                self._start(connection, job, is_reused=True)
                return
            connection.close()
        self._wait(job)

    def _start(self, connection: AioConnection, job: Job | _Joined, *, is_reused: bool) -> None:
        try:
            if job.exchange.may_join:
                self._joining.add(connection)
            connection.start(job, is_reused=is_reused)
        except BaseException:  # a KeyboardInterrupt: it is neither idle nor at work
            connection.close()
            raise
        finally:
            if self._idle and self._idle[-1] is connection:
                self._idle.pop()

    def take_back(self, connection: AioConnection, complaints: list[Exception]) -> None:
        """Give a connection whose last reply was read its next job, or none."""
        node = self.node
        self._joining.discard(connection)
        if (complaints or not node.health.is_well) and node.answered(complaints):
            self.close_idle()
            node.close()
            connection.close()
        else:
            self._employ(connection, is_reused=True)

    def failed(self, jobs: Sequence[Job], error: Exception, *, is_unheard: bool) -> None:
        """End jobs whose connection failed, or let them go again where nobody can tell.

        Args:
            is_unheard: the connection had lain idle before, and nothing came back on it.
        """
        if is_unheard:
            self.close_idle()  # they lay beside it
        lost: list[Job] = []
        for job in jobs:
            if is_unheard and not job.is_again and may_go_again(job.exchange, error):
                if not job.exchange.untouched:
                    job.exchange.start_over()
                job.is_again = True
                job.connection = None
                self._wait(job, is_first=True)
            else:
                lost.append(job)
        self._give_up(lost, error, is_nodes_fault=True)

    def expire(self, jobs: Sequence[Job], now: float, error: Exception) -> None:
        """End those of some jobs to which the node should have said something by now."""
        over = [job for job in jobs if job.limit <= now]
        self._give_up(over, error, is_nodes_fault=not all(job.is_late for job in over))

    def _give_up(self, jobs: Sequence[Job], error: Exception, *, is_nodes_fault: bool) -> None:
        if not jobs:
            return
        exchanges = [job.exchange for job in jobs]
        give_up_all(exchanges, self.node, error, is_nodes_fault=is_nodes_fault)
        for job in jobs:
            job.end()
        if is_nodes_fault:
            self._after_failure()

    def is_silent(self, job: Job) -> bool:
        """Tell whether the node is what a job is waiting for, and has said nothing."""
        if job.connection is None:
            return not self.connections
        return not (job.connection.is_heard or job.is_late)

    def forget(self, connection: AioConnection) -> None:
        """Know a closed connection no more; open another if somebody waits for it."""
        self.connections.discard(connection)
        self._joining.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._go_on()

    def close_idle(self) -> None:
        """Close what is idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def retire(self) -> None:
        """Let connections end with their jobs: another pool takes the place."""
        self._is_retired = True
        self.close_idle()

    def close_idle_soon(self) -> None:
        """From any thread: let the loop close what is idle."""
        with suppress(RuntimeError):  # the loop is closed, and everything with it
            self.loop.call_soon_threadsafe(self.close_idle)

    def close(self) -> list[asyncio.Task[None]]:
        """Close everything, for good; return the tasks that were opening something."""
        self._is_closed = True
        if self._queue_timer is not None:
            self._queue_timer.cancel()
        openings = list(self._openings)
        for task in openings:
            task.cancel()
        for connection in list(self.connections):
            connection.close()
        self._idle.clear()
        return openings

    # Jobs without a connection.

    def _wait(self, job: Job, *, is_first: bool = False) -> None:
        queue = self._queue_of(job)
        if is_first:
            queue.appendleft(job)
        else:
            queue.append(job)
        self._check_at(job.limit)
        self._open_more()

    def _queue_of(self, job: Job) -> deque[Job]:
        return self._to_join if job.exchange.may_join else self._waiting

    def _check_at(self, when: float) -> None:
        """Look at the queues at a time, as loop.time(), if not before."""
        timer = self._queue_timer
        if timer is not None and when < timer.when():
            timer.cancel()
            timer = None
        if timer is None and when != FOREVER:
            self._queue_timer = self.loop.call_at(
                when, self._check_queues, when, context=Context()
            )

    def _go_on(self) -> None:
        """Give what waits to idle connections, and open others."""
        while self._idle and not self._is_closed and self._has_work():
            self._employ(self._idle.pop(), is_reused=True)
        self._open_more()

    def _has_work(self) -> bool:
        return _first_of(self._waiting) is not None or (
            len(self._joining) < _JOINING and _first_of(self._to_join) is not None
        )

    def _employ(self, connection: AioConnection, *, is_reused: bool) -> None:
        """Give a connection what has waited longest, or let it be idle."""
        job = self._next_for(connection, is_reused=is_reused)
        if job is not None:
            self._start(connection, job, is_reused=is_reused)
        elif self._is_retired:
            connection.close()
        elif not connection.is_closed:
            self._idle.append(connection)

    def _next_for(self, connection: AioConnection, *, is_reused: bool) -> Job | _Joined | None:
        """Take from the queues what a connection is to do next."""
        waiting, to_join = _first_of(self._waiting), _first_of(self._to_join)
        if to_join is not None and (
            len(self._joining) >= _JOINING
            or (waiting is not None and waiting.began < to_join.began)
        ):
            to_join = None
        if waiting is to_join:  # there is none
            return None
        if is_reused and not connection.is_usable:
            connection.close()
            return None
        job = self._take_joined() if to_join is not None else self._waiting.popleft()
        if is_reused:
            for one in job.jobs:
                one.is_late = True
        return job

    def _take_joined(self) -> Job | _Joined:
        taken: list[Job] = []
        size = 0
        while (
            len(taken) < _JOINED
            and size < _JOINED_SIZE
            and (job := _first_of(self._to_join)) is not None
        ):
            taken.append(self._to_join.popleft())
            size += len(cast(bytes, job.exchange.out))
        return taken[0] if len(taken) == 1 else _Joined(taken)

    def _check_queues(self, planned: float) -> None:
        """Fail what waited too long for a connection."""
        self._queue_timer = None
        now = self.loop.time()
        stalled = now - planned
        if self.connections:
            text = (
                f"All {self._limit} connections of this event loop were in use for too long; "
                "raise POOL_OPTIONS['max_connections']"
            )
        else:
            text = "Timeout connecting"
        over: list[Job] = []
        next_limit = FOREVER
        for job in self._take_waiting():
            if stalled >= _LATE and not job.is_forgiven:
                job.is_forgiven = True
                job.limit = now + self.open_timeout  # nobody listened before
            if job.limit > now:
                self._queue_of(job).append(job)
                next_limit = min(next_limit, job.limit)
            else:
                job.is_late = bool(self.connections)
                over.append(job)
        # Each look is at all of them: not for each that comes soon after another.
        self._check_at(max(next_limit, now + _BETWEEN_LOOKS))
        self._open_more()
        self.expire(over, now, TimeoutError(text))

    def _after_failure(self) -> None:
        """Let nobody wait for a node that is down, but who probes it."""
        if not self.node.health.is_down:
            return
        jobs = self._take_waiting()
        self.close_idle()
        for job in jobs:
            refusal = None if job.is_probe else self.node.health.refusal()
            if refusal is None:
                job.is_probe = True
                self._wait(job)
            else:
                job.exchange.fail(refusal)
                job.end()

    def _take_waiting(self) -> list[Job]:
        jobs = [job for job in (*self._waiting, *self._to_join) if not job.is_over]
        self._waiting.clear()
        self._to_join.clear()
        return jobs

    # Opening.

    def _open_more(self) -> None:
        while (
            not self._is_closed
            and len(self.connections) + len(self._openings) < self._limit
            and sum(not job.is_given_up for job in self._openings.values()) < self._wanted()
            and (job := self._next_to_open_for())
        ):
            # A connection keeps the context that it was opened in, and timers theirs: not
            # that of a request.
            task = self.loop.create_task(
                self._open(job), name=f"rb-open-{self.node.host_id}", context=Context()
            )
            self._openings[task] = job
            task.add_done_callback(self._opening_ended)

    def _next_to_open_for(self) -> Job | None:
        """Return the first job that waits and for which no connection is being opened."""
        have = set(self._openings.values())
        queues = chain(self._waiting, self._to_join)
        return next((job for job in queues if job.is_waiting and job not in have), None)

    def _wanted(self) -> int:
        """Return how many more connections would have work at once."""
        waiting = len(self._waiting) if _first_of(self._waiting) is not None else 0
        to_join = len(self._to_join) if _first_of(self._to_join) is not None else 0
        return waiting + min(to_join, _JOINING - len(self._joining))

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # a KeyboardInterrupt, which was raised already
        if self._openings.pop(task, None) is not None:  # it was cut short
            self._open_more()

    async def _open(self, job: Job) -> None:
        """Open a connection for a job that waits, or for whichever is next by then."""
        try:
            connection = await self._connected()
        except Exception as error:  # noqa: BLE001 (it is told where it belongs)
            self._opened()
            self._not_opened(job, error)
            self._open_more()
            return
        try:
            self.connections.add(connection)
            if self._is_closed:  # wait_for() of Python 3.11 may pass over a cancellation
                connection.close()
                return
            self._opened()
            self._employ(connection, is_reused=False)
        except BaseException:  # a KeyboardInterrupt: it is neither idle nor at work
            connection.close()
            raise

    def _opened(self) -> None:
        self._openings.pop(cast(asyncio.Task[None], asyncio.current_task()), None)

    def _not_opened(self, job: Job, error: Exception) -> None:
        node = self.node
        if isinstance(error, redis.RedisError):
            _say_why(error)
            node.name_in(error)
        elif isinstance(error, TimeoutError):
            error = to_redis_error(node, TimeoutError("Timeout connecting"))
        elif isinstance(error, OSError):
            error = to_redis_error(node, error)
        else:  # no failure of the node's
            if job.is_waiting:
                job.crash(error)
            return
        if job.exchange.error is None:  # else the job has told of it
            node.failed(error)
        if job.is_waiting:
            job.exchange.fail(error)
            job.end()
        self._after_failure()

    async def _connected(self) -> AioConnection:
        tries = 0
        while True:
            tries += 1
            with _Stalls(self.loop) as stalls:
                try:
                    async with asyncio.timeout(self.node.open_timeout):
                        return AioConnection(await connect(self.node), self)
                except (redis.TimeoutError, TimeoutError):
                    # The node may have answered in time, while the loop did not run.
                    if not stalls.seconds or tries == _TRIES:
                        raise


def _say_why(error: redis.RedisError) -> None:
    """Let an error of redis-py's say "Connection refused", and not "Connect call failed"."""
    lost = error.__context__
    if isinstance(lost, OSError) and lost.errno:
        said = lost.strerror or ""
        if said.startswith("Connect call failed"):
            error.args = (str(error).replace(said, os.strerror(lost.errno)),)


class _Stalls:
    """Counts the seconds in which a loop did not get to run, while the block runs.

    Some code blocks it, the machine is busy, or nobody runs it for a while.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = 0.0
        self._loop = loop

    def __enter__(self) -> Self:
        self._plan()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def _plan(self) -> None:
        planned = self._loop.time() + _TICK
        self._timer = self._loop.call_at(planned, self._tick, planned, context=Context())

    def _tick(self, planned: float) -> None:
        self.seconds += max(0.0, self._loop.time() - planned - _LATE)
        self._plan()


def _first_of(queue: deque[Job]) -> Job | None:
    """Return what is next in a queue, without those that nobody awaits any more."""
    while queue:
        if not queue[0].is_over:
            return queue[0]
        queue.popleft()
    return None
