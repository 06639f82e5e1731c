"""Connections of event loops: opened by redis-py's asyncio side, then moved by the engine.

redis-py sets a connection up; from then on what a node sends goes from the loop straight to
an exchange: by a transport of the engine's own where the socket is plain, and where it is not
(TLS, gevent, Windows) by that of asyncio, whose protocol the connection is then.
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

# Bytes that are written before the loop has its turn, and that may wait in a transport.
_WRITE_SIZE = PIECE_SIZE

# While a node takes what there is to send, it is looked at so often per `socket_timeout`.
_LOOKS = 4

# A timer that comes so many seconds late tells of a loop that was kept from its work.
LATE_SECONDS = 0.1

FOREVER = float("inf")


class Home(Protocol):
    """The pool of a connection, as far as the connection knows it."""

    node: Node
    loop: asyncio.AbstractEventLoop
    inbox: Inbox

    async def connect(self) -> asyncio.StreamWriter:
        """Return the stream of a new connection."""

    def make_connection(self, writer: asyncio.StreamWriter, epoch: int) -> AioConnection:
        """Return the connection of a stream."""

    def take_back(self, connection: AioConnection, reader: ReplyReader) -> None:
        """Give a connection whose last reply was read its next job, or none."""

    def failed(
        self, jobs: Sequence[Job], error: Exception, *, is_unheard: bool, is_new: bool
    ) -> None:
        """End jobs whose connection failed."""

    def expire(self, jobs: Sequence[Job], now: float, error: Exception) -> None:
        """End those of some jobs to which the node should have said something by now."""

    def forget(self, connection: AioConnection) -> None:
        """Know a closed connection no more."""


class AioConnection(asyncio.Protocol):
    """One set-up connection of an event loop. It has one job at a time.

    Attributes:
        epoch: that of its node when it was opened.
        is_closed: it is of no more use.
        is_heard: the node said something to the job.
        since: the last time that the node did something, or was given something to do.
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
        self._unsent = 0  # bytes that the transport kept when it was last looked at
        self.since = 0.0
        # Seconds that the node is given for the next.
        self._patience = self._node.socket_timeout or FOREVER
        self._timer: asyncio.TimerHandle | None = None
        self._is_forgiven = False  # it had more time, as the loop had not listened
        self.is_heard = False
        self.is_closed = False

    def _take_over(
        self, writer: asyncio.StreamWriter, inbox: Inbox
    ) -> PlainTransport | asyncio.Transport:
        plain = take_over(writer, self._loop, inbox, self)
        if plain is not None:
            self._has_input = plain.has_input
            return plain
        # Kept: a StreamWriter that is collected closes its transport.
        self._writer = writer
        transport = cast(asyncio.Transport, writer.transport)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(_WRITE_SIZE)
        self._has_input = make_has_input(transport.get_extra_info("socket"))
        return transport

    @property
    def is_usable(self) -> bool:
        """Whether a question may be sent: the node has not hung up, nor said anything."""
        return not (
            self.is_closed
            or self.epoch != self._node.epoch
            or self._transport.is_closing()
            or self._has_input()
        )

    def start(self, job: Job | Joined, *, is_reused: bool) -> None:
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
        if isinstance(self._transport, PlainTransport):
            self._transport.let_go()
            return
        nowhere, nobody = socket.socketpair()  # something that can be polled, and is over
        os.dup2(nowhere.fileno(), self._transport.get_extra_info("socket").fileno())
        nowhere.close()
        nobody.close()

    def abandon(self) -> None:
        """Close the connection if nobody awaits any more what it works for."""
        if self._job is not None and self._job.is_over:
            self.close()

    # What the loop calls.

    def data_received(self, data: Buffer, size: int = -1) -> None:
        """Give the job what the node sent: the first `size` bytes of `data`, or all."""
        job = self._job
        if job is None:  # an answer that nobody asked for
            self.close()
            return
        self.is_heard = True
        self._is_forgiven = False
        self.since = self._loop.time()
        try:
            if job.exchange.feed(data, size):
                if self._transport.get_write_buffer_size():
                    # It answered what it does not know yet.
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
        self.since = self._loop.time()  # to encode may have taken long

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
            is_new = not self._is_reused
            self._pool.failed(job.unanswered(), error, is_unheard=is_unheard, is_new=is_new)
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
            self.since = now  # it takes what it is sent
        self._unsent = unsent
        if now >= self._expires():
            if self._has_input():
                # The loop has not read yet what came in time. It does so next.
                self._timer = self._loop.call_later(0, self._check_time, now)
                return
            if now - planned >= LATE_SECONDS and not self._is_forgiven:
                self._is_forgiven = True
                self.since = now  # nobody listened before
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
