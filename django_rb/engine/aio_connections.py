"""Connections of event loops: opened by redis-py's asyncio side, one pool per loop and node.

The twin of `connections` for asyncio. redis-py sets a connection up; from then on the
engine is the protocol on its transport (`Transport.set_protocol`), so that what a node sends
goes from the loop straight to an exchange. `_writer_of` is the one private access.

A pool is bounded. What finds no connection waits its turn; commands of one key that wait
side by side go out together, as one exchange.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from functools import cache, partial
from typing import Any, Protocol, cast

import redis
from hiredis import Reader
from redis.asyncio import Connection as RedisConnection
from redis.asyncio import SSLConnection, UnixDomainSocketConnection

from .connections import POLLIN, Node, make_poller, to_error
from .errors import BadHostSetup, ProtocolError
from .exchange import Exchange, make_reader
from .failing import give_up, may_go_again, to_redis_error

# Connections per node and loop where POOL_OPTIONS["max_connections"] says nothing.
DEFAULT_MAX_CONNECTIONS = 32

# So many connections of a pool work on what may be joined, and the rest of it waits: the
# more goes out together, the fewer are the system calls, here and at the node.
_JOINING = 2

# So many commands that wait go out together at most.
_JOINED = 512

FOREVER = float("inf")


class Job(Protocol):
    """An exchange that somebody awaits.

    Attributes:
        exchange: what is to be sent and read.
        limit: when the node must have said something, as loop.time().
        is_over: nobody awaits it any more.
    """

    exchange: Exchange
    limit: float
    is_over: bool

    def end(self) -> None:
        """The exchange has its replies or its error."""

    def crash(self, error: BaseException) -> None:
        """Something was raised that is no node's failure."""


def _writer_of(connection: Any) -> asyncio.StreamWriter:
    """Take the stream of a connection that redis-py set up, and leave it none."""
    writer, connection._writer = connection._writer, None  # noqa: SLF001 (the one exception)
    return cast(asyncio.StreamWriter, writer)


class AioConnection(asyncio.Protocol):
    """One set-up connection of an event loop. It has one job at a time.

    Attributes:
        is_closed: it is of no more use.
    """

    def __init__(self, redis_connection: Any, pool: Pool) -> None:
        self._pool = pool
        self._node = pool.node
        self._loop = pool.loop
        # Kept: a StreamWriter that is collected closes its transport.
        self._writer = _writer_of(redis_connection)
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._transport.set_protocol(self)
        self.fd: int = self._transport.get_extra_info("socket").fileno()
        poller = make_poller()
        poller.register(self.fd, POLLIN)
        self._poll = poller.poll
        self._complaints: list[Exception] = []
        self._reader: Reader = make_reader(partial(to_error, self._complaints))
        self._job: Job | None = None
        self._is_reused = False
        self._is_heard = False
        self._is_paused = False
        self._expires = FOREVER
        self._timer: asyncio.TimerHandle | None = None
        self._patience = self._node.socket_timeout or FOREVER
        self.is_closed = False

    @property
    def is_usable(self) -> bool:
        """Whether a question may be sent: the node has not hung up, nor said anything."""
        return not (self.is_closed or self._transport.is_closing() or self._poll(0))

    def start(self, job: Job, *, is_reused: bool) -> None:
        """Send what a job asks, and read until it is answered."""
        self._job = job
        self._is_reused, self._is_heard = is_reused, False
        job.exchange.begin(self._reader, self._node.has_pushes)
        self._expires = min(self._loop.time() + self._patience, job.limit)
        if self._timer is None and self._expires != FOREVER:
            self._timer = self._loop.call_at(self._expires, self._check_time)
        self._send(job)

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
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.fd)
        os.close(nowhere)

    def abandon(self, job: Job) -> None:
        """Close the connection if it works for a job that nobody awaits any more."""
        if self._job is job:
            self.close()

    # What the loop calls.

    def data_received(self, data: bytes) -> None:
        """Give the job what the node sent."""
        job = self._job
        if job is None:  # an answer that nobody asked for
            self.close()
            return
        self._is_heard = True
        self._expires = self._loop.time() + self._patience
        try:
            is_done = job.exchange.feed(data)
        except ProtocolError as error:
            self._fail(error)
            return
        if is_done:
            self._job = None
            self._pool.take_back(self, self._complaints)
            _end(job)

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
        if self._job is not None:
            self._expires = self._loop.time() + self._patience
            self._send(self._job)

    def _send(self, job: Job) -> None:
        exchange = job.exchange
        out = exchange.out
        try:
            while out is not None and not self._is_paused:
                self._transport.write(out)
                out = exchange.sent(len(out))  # makes the next piece
        except BaseException as error:
            self.close()
            job.crash(error)
            if not isinstance(error, Exception):
                raise

    def _check_time(self) -> None:
        self._timer = None
        if self._job is None:
            return
        if self._loop.time() >= self._expires:
            self._fail(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._expires, self._check_time)

    def _fail(self, error: Exception) -> None:
        job, self._job = self._job, None
        assert job is not None
        self.close()
        self._pool.failed(job, error, is_unheard=self._is_reused and not self._is_heard)


def _end(job: Job) -> None:
    """End a job whose exchange has all its replies."""
    exchange = job.exchange
    try:
        if exchange.on_done is not None:
            exchange.on_done(exchange)
    except Exception as error:  # noqa: BLE001 (it is raised where the job is awaited)
        job.crash(error)
    else:
        job.end()


class _Joined:
    """Jobs of one command each that go out together and are answered in their order."""

    is_over = False

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.limit = min(job.limit for job in jobs)
        self.exchange = Exchange(
            jobs[0].exchange.host_id,
            b"".join(cast(bytes, job.exchange.out) for job in jobs),
            len(jobs),
        )
        self.exchange.may_join = True

    def end(self) -> None:
        for job, reply in zip(self.jobs, self.exchange.replies, strict=True):
            if not job.is_over:
                job.exchange.replies.append(reply)
                _end(job)

    def crash(self, error: BaseException) -> None:
        for job in self.jobs:
            job.crash(error)


class Pool:
    """The connections of one loop to one node, and the jobs that wait for one.

    Attributes:
        node, loop: whose they are.
    """

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.loop = loop
        self._limit = node.max_connections or DEFAULT_MAX_CONNECTIONS
        self._idle: list[AioConnection] = []
        self._connections: set[AioConnection] = set()
        self._joining: set[AioConnection] = set()
        # Jobs without a connection: those that may be joined, and the others.
        self._to_join: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._openings: set[asyncio.Task[None]] = set()
        self._queue_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def connections(self) -> set[AioConnection]:
        """All connections, idle and busy."""
        return self._connections

    def submit(self, job: Job) -> None:
        """Run a job as soon as there is a connection for it; its `end` is called then."""
        health = self.node.health
        if not health.is_well and (refusal := health.refusal()) is not None:
            job.exchange.fail(refusal)
            job.end()
            return
        idle = self._idle
        while idle and not (job.exchange.may_join and len(self._joining) >= _JOINING):
            connection = idle.pop()
            if connection.is_usable:
                self._start(connection, job, is_reused=True)
                return
            connection.close()
        self._wait(job)

    def _start(self, connection: AioConnection, job: Job, *, is_reused: bool) -> None:
        if job.exchange.may_join:
            self._joining.add(connection)
        connection.start(job, is_reused=is_reused)

    def abandon(self, job: Job) -> None:
        """Let go of a job that is over: what works for it alone is closed."""
        for connection in list(self._connections):
            connection.abandon(job)

    def take_back(self, connection: AioConnection, complaints: list[Exception]) -> None:
        """Give a connection whose last reply was read its next job, or none."""
        node = self.node
        self._joining.discard(connection)
        if (complaints or not node.health.is_well) and node.answered(complaints):
            connection.close()
            self.close_idle()
            node.close()
            self._open_more()
        else:
            self._employ(connection, is_reused=True)

    def failed(self, job: Job, error: Exception, *, is_unheard: bool) -> None:
        """End a job whose connection failed, or let it go again where nobody can tell.

        Args:
            is_unheard: the connection had lain idle before, and nothing came back on it.
        """
        jobs = job.jobs if isinstance(job, _Joined) else [job]
        for one in jobs:
            if isinstance(job, _Joined):
                one.exchange.untouched = False
            if one.is_over:
                continue
            if is_unheard and may_go_again(one.exchange, error):
                if not one.exchange.untouched:
                    one.exchange.start_over()
                self._wait(one, is_first=True)
                continue
            give_up(one.exchange, self.node, error)
            one.end()
        self._after_failure()

    def forget(self, connection: AioConnection) -> None:
        """Know a closed connection no more; open another if somebody waits for it."""
        self._connections.discard(connection)
        self._joining.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._open_more()

    def close_idle(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close everything, for good: the loop is going."""
        self._is_closed = True
        if self._queue_timer is not None:
            self._queue_timer.cancel()
        for task in self._openings:
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        self._idle.clear()

    # Jobs without a connection.

    def _wait(self, job: Job, *, is_first: bool = False) -> None:
        queue = self._to_join if job.exchange.may_join else self._waiting
        if is_first:
            queue.appendleft(job)
        else:
            queue.append(job)
        if self._queue_timer is None and job.limit != FOREVER:
            self._queue_timer = self.loop.call_at(job.limit, self._check_queues)
        self._open_more()

    def _employ(self, connection: AioConnection, *, is_reused: bool) -> None:
        """Give a connection what has waited longest, or let it be idle."""
        waiting, to_join = self._waiting, self._to_join
        for queue in (waiting, to_join):
            while queue and queue[0].is_over:
                queue.popleft()
        is_first = bool(to_join) and (not waiting or to_join[0].limit <= waiting[0].limit)
        if is_first and len(self._joining) < _JOINING:
            taken = [to_join.popleft() for _ in range(min(len(to_join), _JOINED))]
            jobs = [job for job in taken if not job.is_over]
            job = jobs[0] if len(jobs) == 1 else _Joined(jobs)
            self._start(connection, job, is_reused=is_reused)
            return
        if waiting:
            self._start(connection, waiting.popleft(), is_reused=is_reused)
        else:
            self._idle.append(connection)

    def _check_queues(self) -> None:
        """Fail what waited too long for a connection."""
        self._queue_timer = None
        now = self.loop.time()
        is_nodes_fault = not self._connections
        text = (
            "Timeout connecting"
            if is_nodes_fault
            else f"All {self._limit} connections of this event loop were in use for too long; "
            "raise POOL_OPTIONS['max_connections']"
        )
        for job in self._take_waiting():
            if job.limit > now:
                self._wait(job)
            else:
                error = TimeoutError(text)
                give_up(job.exchange, self.node, error, is_nodes_fault=is_nodes_fault)
                job.end()
        self._after_failure()

    def _after_failure(self) -> None:
        """Let nobody wait for a node that is down."""
        if self.node.health.is_down:
            self.close_idle()
            for job in self._take_waiting():
                refusal = self.node.health.refusal()
                if refusal is None:  # it is the probe
                    self._wait(job)
                else:
                    job.exchange.fail(refusal)
                    job.end()
        self._open_more()

    def _take_waiting(self) -> list[Job]:
        jobs = [job for job in (*self._waiting, *self._to_join) if not job.is_over]
        self._waiting.clear()
        self._to_join.clear()
        return jobs

    def _next_waiting(self) -> Job | None:
        for queue in (self._waiting, self._to_join):
            while queue:
                job = queue.popleft()
                if not job.is_over:
                    return job
        return None

    # Opening.

    def _open_more(self) -> None:
        while (
            not self._is_closed
            and len(self._openings) < self._wanted()
            and len(self._connections) + len(self._openings) < self._limit
        ):
            task = self.loop.create_task(self._open(), name=f"rb-open-{self.node.host_id}")
            self._openings.add(task)
            task.add_done_callback(self._openings.discard)

    def _wanted(self) -> int:
        """Return how many more connections would have work at once."""
        joining = min(len(self._to_join), _JOINING - len(self._joining))
        return len(self._waiting) + joining

    async def _open(self) -> None:
        node = self.node
        try:
            async with asyncio.timeout(node.open_timeout):
                connection = AioConnection(await _connect(node), self)
        except redis.RedisError as error:
            node.name_in(error)
            self._not_opened(error)
        except TimeoutError:
            self._not_opened(to_redis_error(node, TimeoutError("Timeout connecting")))
        except OSError as error:
            self._not_opened(to_redis_error(node, error))
        except Exception as error:  # noqa: BLE001 (it is raised where a job is awaited)
            job = self._next_waiting()
            if job is not None:
                job.crash(error)
        else:
            self._connections.add(connection)
            self._openings.discard(cast(asyncio.Task[None], asyncio.current_task()))
            self._employ(connection, is_reused=False)

    def _not_opened(self, error: redis.RedisError) -> None:
        self._openings.discard(cast(asyncio.Task[None], asyncio.current_task()))
        self.node.failed(error)
        job = self._next_waiting()
        if job is not None:
            job.exchange.fail(error)
            job.end()
        self._after_failure()


async def _connect(node: Node) -> Any:
    """Return a connection of redis-py's, set up.

    Raises:
        BadHostSetup: redis-py's asyncio side does not take an option of the node's.
    """
    info = node.info
    kind: type[redis.asyncio.connection.AbstractConnection]
    if info.unix_socket_path is not None:
        kind = UnixDomainSocketConnection
    else:
        kind = SSLConnection if info.ssl else RedisConnection
    unknown = sorted(node.kwargs.keys() - _options_of(kind))
    if unknown:
        raise BadHostSetup(
            f"redis-py {redis.__version__} does not take the option {unknown[0]!r} for asyncio "
            "connections. Leave it out, or use the methods that are not asynchronous."
        )
    connection = kind(**node.kwargs)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


@cache
def _options_of(kind: type) -> frozenset[str]:
    """Return the names of the arguments that a class of connections takes."""
    return frozenset(
        name
        for base in kind.__mro__
        if "__init__" in vars(base)
        for name in inspect.signature(base).parameters
    )
