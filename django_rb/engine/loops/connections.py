"""Connections for event loops: redis.asyncio opens them, and the engine uses their sockets.

redis-py sets a connection up; from then on what a node sends goes from the loop straight to
an exchange. Plain sockets have a transport of the engine's own. Others (TLS, gevent, Windows)
keep asyncio's transport, and the connection is its protocol.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextvars import Context
from typing import Protocol, cast

from ..errors import ProtocolError
from ..nodes.node import Node
from ..protocol.encoding import PIECE_SIZE, Buffer
from ..protocol.reader import ReplyReader
from ..sockets import make_has_input
from .jobs import Job, Joined
from .plain import Inbox, PlainTransport, take_over

# Bytes that are written before the loop runs other tasks, and that a transport may buffer.
_WRITE_SIZE = PIECE_SIZE

# While a large request is sent, its progress is checked this often per `socket_timeout`.
_LOOKS = 4

# If a timer is this many seconds late, the loop was blocked.
LATE_SECONDS = 0.1

FOREVER = float("inf")


class Home(Protocol):
    """The part of a pool that its connections use."""

    node: Node
    loop: asyncio.AbstractEventLoop
    inbox: Inbox

    async def connect(self) -> asyncio.StreamWriter:
        """Open a connection and return its stream."""

    def make_connection(self, writer: asyncio.StreamWriter, epoch: int) -> AioConnection:
        """Return a connection that uses a stream."""

    def take_back(self, connection: AioConnection, reader: ReplyReader) -> None:
        """Give a connection its next job after its last reply, or keep it idle."""

    def failed(
        self, jobs: Sequence[Job], error: Exception, *, is_unheard: bool, is_new: bool
    ) -> None:
        """End jobs whose connection failed."""

    def expire(self, jobs: Sequence[Job], now: float, error: Exception) -> None:
        """End those jobs whose time limit is over."""

    def forget(self, connection: AioConnection) -> None:
        """Remove a closed connection."""


class AioConnection(asyncio.Protocol):
    """One connection of an event loop that is set up. It has one job at a time.

    Attributes:
        epoch: the node's epoch when it was opened.
        is_closed: it cannot be used any more.
        is_heard: the node has begun to answer the job.
        since: when bytes were last sent or received, as loop.time().
    """

    def __init__(self, writer: asyncio.StreamWriter, pool: Home, epoch: int) -> None:
        self._pool = pool
        self._node = pool.node
        self.epoch = epoch
        self._loop = pool.loop
        self._transport = self._take_over(writer, pool.inbox)
        self._reader = ReplyReader()
        self._job: Job | Joined | None = None
        self._is_reused = False
        self._is_paused = False
        self._unsent = 0  # bytes in the transport's buffer when it was last checked
        self.since = 0.0
        # Seconds until the node must accept or send further bytes.
        self._patience = self._node.socket_timeout or FOREVER
        self._timer: asyncio.TimerHandle | None = None
        self._is_forgiven = False  # its time was extended once, as the loop was blocked
        self.is_heard = False
        self.is_closed = False

    def _take_over(
        self, writer: asyncio.StreamWriter, inbox: Inbox
    ) -> PlainTransport | asyncio.Transport:
        plain = take_over(writer, self._loop, inbox, self)
        if plain is not None:
            self._has_input = plain.has_input
            return plain
        # Kept, as a StreamWriter closes its transport when it is garbage-collected.
        self._writer = writer
        transport = cast(asyncio.Transport, writer.transport)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(_WRITE_SIZE)
        self._has_input = make_has_input(transport.get_extra_info("socket"))
        return transport

    @property
    def is_usable(self) -> bool:
        """Whether commands may be sent: it is not closed, and nothing can be read from it."""
        return not (
            self.is_closed
            or self.epoch != self._node.epoch
            or self._transport.is_closing()
            or self._has_input()
        )

    def start(self, job: Job | Joined, *, is_reused: bool) -> None:
        """Send a job's commands, and read until all replies have come."""
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
        """In a forked child: close the descriptor without using the loop.

        The loop shares its selector with the parent's loop.
        """
        self.is_closed = True
        if isinstance(self._transport, PlainTransport):
            self._transport.let_go()
            return
        nowhere, nobody = socket.socketpair()  # takes the descriptor's place: pollable, closed
        os.dup2(nowhere.fileno(), self._transport.get_extra_info("socket").fileno())
        nowhere.close()
        nobody.close()

    def abandon(self) -> None:
        """Close the connection if its job is no longer awaited."""
        if self._job is not None and self._job.is_over:
            self.close()

    # Called by the loop.

    def data_received(self, data: Buffer, size: int = -1) -> None:
        """Pass the first `size` bytes of `data`, or all of it, to the job."""
        job = self._job
        if job is None:  # an unexpected reply
            self.close()
            return
        self.is_heard = True
        self._is_forgiven = False
        self.since = self._loop.time()
        try:
            if job.exchange.feed(data, size):
                if self._transport.get_write_buffer_size():
                    # It answered commands that were not sent yet.
                    raise job.exchange.too_much(is_early=True)
                self._job = None
                self._pool.take_back(self, self._reader)
                job.done()
        except ProtocolError as error:
            self._fail(error)
        except BaseException as error:
            self._crash(error)
            job.crash(error)
            raise

    def eof_received(self) -> None:
        """Fail the job: the node has closed the connection."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the job: the connection was closed or broken."""
        if self._job is not None:
            self._fail(exc or ConnectionResetError("the node closed the connection"))
        self.close()

    def pause_writing(self) -> None:
        """Encode no more commands until the transport's buffer has been sent."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._is_paused = False
        self._send()

    def _send(self) -> None:
        """Write the next piece, if any. The loop runs other tasks before the one after it."""
        job = self._job
        if job is None or self._is_paused:
            return
        exchange = job.exchange
        out = exchange.out
        if out is not None:
            if len(out) > _WRITE_SIZE:  # transports copy what they cannot send at once
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
        self.since = self._loop.time()  # encoding may have taken long

    def _crash(self, error: BaseException) -> None:
        """Close, and raise to those who await the job an error that is not the node's."""
        job, self._job = self._job, None
        self.close()
        if job is not None:
            job.crash(error)

    def _fail(self, error: Exception) -> None:
        job, self._job = self._job, None
        assert job is not None
        try:
            is_unheard = self._is_reused and not self.is_heard
            is_new = not self._is_reused
            self._pool.failed(job.unanswered(), error, is_unheard=is_unheard, is_new=is_new)
        finally:
            self.close()

    # Time.

    def _watch(self) -> None:
        """Set the timer for when the node's time is over."""
        look_at = self._expires()
        if self._unsent:
            look_at = min(look_at, self._loop.time() + self._patience / _LOOKS)
        if self._timer is not None:
            if self._timer.when() <= look_at:
                return  # that timer checks again
            self._timer.cancel()
            self._timer = None
        if look_at != FOREVER:
            self._timer = self._loop.call_at(
                look_at, self._check_time, look_at, context=Context()
            )

    def _expires(self) -> float:
        """Return when the node's time is over, as loop.time()."""
        expires = self.since + self._patience
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
            self.since = now  # the node accepts what it is sent
        self._unsent = unsent
        if now >= self._expires():
            if self._has_input():
                # The loop has not read yet what has come in time. It does so next.
                self._timer = self._loop.call_later(0, self._check_time, now)
                return
            if now - planned >= LATE_SECONDS and not self._is_forgiven:
                self._is_forgiven = True
                self.since = now  # the loop was blocked before
                for one in job.jobs:
                    one.limit = max(one.limit, now + self._patience)
        if now >= self.since + self._patience:
            self._fail(TimeoutError())
            return
        if not self.is_heard and now >= job.limit:
            self._pool.expire(job.jobs, now, TimeoutError())
            self.abandon()
        if self._job is not None:
            self._watch()
