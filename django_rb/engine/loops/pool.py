"""The connections of one event loop to one node, and the jobs that wait for them.

A pool is bounded. Jobs without a connection wait in a queue; waiting commands on one key are
joined, and sent together as one exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import cast

from ..nodes.failing import (
    MOST_OPENINGS,
    MOST_OPENINGS_PER_NODE,
    give_up_all,
    is_own_lack,
)
from ..nodes.node import Node
from ..protocol.reader import ReplyReader
from ..rounds.again import may_go_again
from .connections import FOREVER, LATE_SECONDS, AioConnection
from .handshake import connect
from .jobs import Job, Joined
from .openings import AllOpenings, as_failure, open_connection
from .plain import Inbox
from .queues import Queues

# Connections per node and loop if POOL_OPTIONS["max_connections"] is not set.
DEFAULT_MAX_CONNECTIONS = 32

# This many connections of a pool are used for jobs that may be joined; further ones wait. The
# more are sent together, the fewer system calls are made, here and on the node.
_JOINING = 2

# The least time between two checks of the queues, in seconds.
_BETWEEN_LOOKS = 0.01


class Pool:
    """The connections of one loop to one node, and the jobs that wait for one.

    Args:
        openings: the connections that are being opened on the loop, to all nodes.

    Attributes:
        node, loop: the node and the loop.
        inbox: the buffer that all plain connections of the loop share.
        openings: the connections that are being opened on the loop, to all nodes.
        open_timeout: seconds that a job may wait for the first bytes of a reply.
        connections: all connections, idle and busy.
    """

    def __init__(
        self,
        node: Node,
        loop: asyncio.AbstractEventLoop,
        openings: AllOpenings,
        inbox: Inbox,
    ) -> None:
        self.node = node
        self.loop = loop
        self.inbox = inbox
        self.open_timeout = node.open_timeout or FOREVER
        self.connections: set[AioConnection] = set()
        self._limit = node.max_connections or DEFAULT_MAX_CONNECTIONS
        self._idle: list[AioConnection] = []
        self._joining: set[AioConnection] = set()
        self._queues = Queues()  # of jobs without a connection
        # Connections that are being opened, and the jobs for which that was begun.
        self._openings: dict[asyncio.Task[None], Job] = {}
        self.openings = openings
        self._queue_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._is_retired = False

    def count(self) -> tuple[int, int]:
        """From any thread: return how many connections are open, and how many of them idle."""
        return len(self.connections), len(self._idle)

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
        if job.exchange.needs_new_connection:
            self.close_idle()  # another one was closed, so these are probably dead too
        while self._idle and not (job.exchange.may_join and len(self._joining) >= _JOINING):
            connection = self._idle[-1]
            if connection.is_usable:
                # Removed from the idle ones only now: after any exception, it is still closed.
                self._start(connection, job, is_reused=True)
                return
            connection.close()
        self._wait(job)

    def _start(self, connection: AioConnection, job: Job | Joined, *, is_reused: bool) -> None:
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

    def take_back(self, connection: AioConnection, reader: ReplyReader) -> None:
        """Give a connection its next job after its last reply, or keep it idle."""
        node = self.node
        self._joining.discard(connection)
        if reader.errors or not node.health.is_well:
            node.answered(reader.errors)
        if connection.epoch != node.epoch:
            self.close_idle()
            connection.close()
        elif reader.is_cut:
            connection.close()
        else:
            self._employ(connection, is_reused=True)

    def failed(
        self, jobs: Sequence[Job], error: Exception, *, is_unheard: bool, is_new: bool
    ) -> None:
        """End jobs whose connection failed; those that may be sent again are marked as stale.

        Args:
            is_unheard: the connection had been idle before, and nothing was received on it.
            is_new: it was opened for them.
        """
        if is_unheard:
            self.close_idle()  # they are as old, so they are probably dead too
        lost: list[Job] = []
        for job in jobs:
            if is_unheard and may_go_again(job.exchange, error):
                job.exchange.is_stale = True
                job.exchange.waited = self.loop.time() - job.began
                job.end()
            else:
                lost.append(job)
        self._give_up(lost, error, is_nodes_fault=True, is_new=is_new)

    def expire(self, jobs: Sequence[Job], now: float, error: Exception) -> None:
        """End those jobs whose time limit is over."""
        over = [job for job in jobs if job.limit <= now]
        self._give_up(over, error, is_nodes_fault=not all(job.is_late for job in over))

    def _give_up(
        self,
        jobs: Sequence[Job],
        error: Exception,
        *,
        is_nodes_fault: bool,
        is_new: bool = False,
    ) -> None:
        if not jobs:
            return
        exchanges = [job.exchange for job in jobs]
        give_up_all(exchanges, self.node, error, is_nodes_fault=is_nodes_fault, is_new=is_new)
        for job in jobs:
            job.end()
        if is_nodes_fault:
            self._after_failure()

    def is_silent(self, job: Job) -> bool:
        """Return whether a job waits for the node's reply, and nothing has come yet."""
        if job.connection is None:
            return not self.connections
        return not (job.connection.is_heard or job.is_late)

    def forget(self, connection: AioConnection) -> None:
        """Remove a closed connection; open another if jobs wait for one."""
        self.connections.discard(connection)
        self._joining.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._go_on()

    def close_idle(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def retire(self) -> None:
        """Close each connection when its job has ended: another pool has replaced this one."""
        self._is_retired = True
        self.close_idle()

    def close(self) -> list[asyncio.Task[None]]:
        """Close everything, for good; return the tasks that were opening connections."""
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

    def _wait(self, job: Job) -> None:
        self._queues.add(job)
        timer = self._queue_timer
        if timer is None or job.limit < timer.when():
            self._check_at(job.limit)
        if not job.exchange.may_join or len(self._joining) < _JOINING:
            self.open_more()

    def _check_at(self, when: float) -> None:
        """Check the queues at a time, as loop.time(), or earlier."""
        timer = self._queue_timer
        if timer is not None and when < timer.when():
            timer.cancel()
            timer = None
        if timer is None and when != FOREVER:
            self._queue_timer = self.loop.call_at(
                when, self._check_queues, when, context=Context()
            )

    def _go_on(self) -> None:
        """Give waiting jobs to idle connections, and open further ones."""
        while self._idle and not self._is_closed and self._has_work():
            self._employ(self._idle.pop(), is_reused=True)
        self.open_more()

    def _has_work(self) -> bool:
        queues = self._queues
        return queues.first_other() is not None or (
            len(self._joining) < _JOINING and queues.first_to_join() is not None
        )

    def _employ(self, connection: AioConnection, *, is_reused: bool) -> None:
        """Give a connection the job that has waited longest, or keep it idle."""
        job = self._next_for(connection, is_reused=is_reused)
        if job is not None:
            self._start(connection, job, is_reused=is_reused)
        elif self._is_retired or connection.epoch != self.node.epoch:
            connection.close()
        elif not connection.is_closed:
            self._idle.append(connection)

    def _next_for(self, connection: AioConnection, *, is_reused: bool) -> Job | Joined | None:
        """Take the next job for a connection from the queues."""
        waiting, to_join = self._queues.first_other(), self._queues.first_to_join()
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
        queues = self._queues
        job = queues.take_joined() if to_join is not None else queues.take_other()
        if is_reused:
            for one in job.jobs:
                one.is_late = True
        return job

    def _check_queues(self, planned: float) -> None:
        """Fail the jobs that have waited too long for a connection."""
        self._queue_timer = None
        now = self.loop.time()
        stalled = now - planned
        if self.connections:
            text = (
                f"All {self._limit} connections of this event loop were in use for too long; "
                "increase POOL_OPTIONS['max_connections']"
            )
        else:
            text = "Timeout connecting"
        over: list[Job] = []
        next_limit = FOREVER
        for job in self._queues.take_all():
            if stalled >= LATE_SECONDS and not job.is_forgiven:
                job.is_forgiven = True
                job.limit = now + self.open_timeout  # the loop was blocked before
            if job.limit > now:
                self._queues.add(job)
                next_limit = min(next_limit, job.limit)
            else:
                job.is_late = bool(self.connections)
                over.append(job)
        # A check goes through all jobs, so there is none right after another.
        self._check_at(max(next_limit, now + _BETWEEN_LOOKS))
        self.open_more()
        self.expire(over, now, TimeoutError(text))

    def _after_failure(self) -> None:
        """If the node is down, fail the waiting jobs except for the probe."""
        if not self.node.health.is_down:
            return
        jobs = self._queues.take_all()
        self.close_idle()
        for job in jobs:
            refusal = None if job.is_probe else self.node.health.refusal()
            if refusal is None:
                job.is_probe = True
                self._wait(job)
            else:
                job.exchange.fail(refusal)
                job.end()

    # Opening.

    async def connect(self) -> asyncio.StreamWriter:
        """Open a connection and return its stream."""
        return await connect(self.node)

    def make_connection(self, writer: asyncio.StreamWriter, epoch: int) -> AioConnection:
        """Return a connection that uses a stream."""
        return AioConnection(writer, self, epoch)

    def open_more(self) -> None:
        """Open connections for waiting jobs, within the limits."""
        while (
            not self._is_closed
            and not self._shares_openings
            and len(self.connections) + len(self._openings) < self._limit
            and sum(not job.is_given_up for job in self._openings.values()) < self._wanted()
            and (job := self._queues.first_but(set(self._openings.values())))
        ):
            # Connections and timers keep the contextvars context in which they were created;
            # this must not be the context of one request.
            opening = self._open(job)
            try:
                task = self.loop.create_task(
                    opening, name=f"rb-open-{self.node.host_id}", context=Context()
                )
            except BaseException:  # near the recursion limit
                opening.close()
                raise
            self._openings[task] = job
            self.openings.add(task)
            task.add_done_callback(self._opening_ended)
        if len(self.openings) >= MOST_OPENINGS and self._has_work():
            self.openings.held.add(self)

    @property
    def _shares_openings(self) -> bool:
        """Whether no more connections may be opened now, so that jobs share those."""
        return bool(self._openings) and (
            len(self._openings) >= MOST_OPENINGS_PER_NODE or len(self.openings) >= MOST_OPENINGS
        )

    def _wanted(self) -> int:
        """Return how many more connections would be used at once."""
        others, to_join = self._queues.sizes()
        return others + min(to_join, _JOINING - len(self._joining))

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # a KeyboardInterrupt, which was raised already
        self._openings.pop(task, None)  # it is there if it was cut short
        self._let_others_open(task)
        self.open_more()

    async def _open(self, job: Job) -> None:
        """Open a connection for a waiting job, or for another if that is served by then."""
        try:
            connection = await open_connection(self)
        except Exception as error:  # noqa: BLE001 (it is raised to those who wait)
            self._opened()
            self._not_opened(job, error)
            return  # more is opened at its end: eager tasks would begin inside each other
        try:
            self.connections.add(connection)
            if self._is_closed:  # wait_for() of Python 3.11 may pass over a cancellation
                connection.close()
                return
            self._opened()
            self._employ(connection, is_reused=False)
            self.open_more()
        except BaseException:  # a KeyboardInterrupt: it is neither idle nor at work
            connection.close()
            raise

    def _opened(self) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        self._openings.pop(task, None)
        self._let_others_open(task)

    def _let_others_open(self, task: asyncio.Task[None]) -> None:
        """Let other pools open connections, as there is one opening less."""
        openings = self.openings
        openings.discard(task)
        if openings.held and len(openings) < MOST_OPENINGS:
            held, openings.held = openings.held, set()
            for pool in held:
                self.loop.call_soon(pool.open_more, context=Context())

    def _not_opened(self, job: Job, error: Exception) -> None:
        failure = as_failure(self.node, error)
        if failure is None:
            if job.is_waiting:
                job.crash(error)
            return
        if is_own_lack(failure):
            self.node.health.complained(failure)
        elif job.exchange.error is None:  # else the job has reported it
            self.node.failed(failure)
        if job.is_waiting:
            job.exchange.fail(failure)
            job.end()
        self._after_failure()
