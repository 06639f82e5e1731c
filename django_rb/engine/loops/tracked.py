"""The connection of an event loop on which a node tracks the keys that are read."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from time import monotonic

import redis
from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification

from ..near.tracking import Tracking
from ..nodes.tracking import REFUSED_SECONDS, is_refusal
from ..protocol.encoding import Buffer
from ..protocol.reader import NO_REPLY
from ..sockets import poll_fd_of
from .connections import AioConnection
from .handshake import connect
from .jobs import Job
from .plain import PlainTransport
from .pool import Pool


class TrackedConnection(AioConnection):
    """A connection on which the node tracks keys and reports their changes."""

    def __init__(self, writer: asyncio.StreamWriter, pool: Pool, epoch: int) -> None:
        super().__init__(writer, pool, epoch)
        trackings = pool.node.trackings
        assert trackings is not None
        transport = self._transport
        if isinstance(transport, PlainTransport):
            poll_fd = transport.poll_fd
        else:
            poll_fd = poll_fd_of(transport.get_extra_info("socket").fileno())
        self._tracking = self._reader.tracking = Tracking(
            trackings, pool.node, epoch, poll_fd, partial(_hear, weakref.ref(self))
        )

    @property
    def is_usable(self) -> bool:
        """Whether commands may be sent. If something can be read, it is a push."""
        return not (
            self.is_closed or self.epoch != self._node.epoch or self._transport.is_closing()
        )

    def hear(self) -> None:
        """Read the node's pushes, if called in the loop's thread."""
        transport = self._transport
        if isinstance(transport, PlainTransport) and _running_loop() is self._loop:
            transport.read()
        else:
            self._tracking.fell_behind()

    def data_received(self, data: Buffer, size: int = -1) -> None:
        """Process the node's pushes, and pass replies to the job."""
        if self._job is not None:
            super().data_received(data, size)
            return
        reader, tracking = self._reader, self._tracking
        try:
            reader.feed(data, 0, size)  # type: ignore[arg-type]
            while (reply := reader.gets()) is not NO_REPLY:
                if type(reply) is not PushNotification:  # an unexpected reply
                    self.close()
                    return
                tracking.told(reply)
        except HiredisProtocolError:
            self.close()
            return
        tracking.heard(monotonic())

    def close(self) -> None:
        """Close the connection, and invalidate the copies of what was read on it."""
        self._tracking.end()
        super().close()

    def __del__(self) -> None:
        tracking = getattr(self, "_tracking", None)
        if tracking is not None:  # its loop was garbage-collected without being closed
            tracking.end()

    def leave_to_parent(self) -> None:
        """In a forked child: close the descriptor."""
        self._tracking.end()
        super().leave_to_parent()


def _hear(connection: weakref.ref[TrackedConnection], tracking: Tracking) -> None:
    """Read the node's pushes, if the connection still exists."""
    known = connection()
    if known is None:
        tracking.end()
    else:
        known.hear()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class TrackedPool(Pool):
    """That connection, and the read that waits for it to be opened.

    If the node does not track keys for this user, other connections are used instead.

    Args:
        pool: the connections for everything else.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.node, pool.loop, pool.openings, pool.inbox)
        self._limit = 1
        self._others = pool
        self._refused_until = 0.0

    @property
    def is_free(self) -> bool:
        """Whether the connection is idle, or not opened yet."""
        if self._idle:
            return True
        return (
            not self.connections
            and not self._openings
            and not self._is_closed
            and not self._is_retired
            and not any(self._queues.sizes())
            and self.loop.time() >= self._refused_until
        )

    def submit(self, job: Job) -> None:
        """Run a job that reads keys which the node should track."""
        job.exchange.may_join = False
        super().submit(job)

    async def connect(self) -> asyncio.StreamWriter:
        """Open a connection and return its stream."""
        return await connect(self.node, is_tracked=True)

    def make_connection(self, writer: asyncio.StreamWriter, epoch: int) -> AioConnection:
        """Return a connection that uses a stream."""
        return TrackedConnection(writer, self, epoch)

    def _not_opened(self, job: Job, error: Exception) -> None:
        if not isinstance(error, redis.RedisError) or isinstance(error, redis.TimeoutError):
            super()._not_opened(job, error)
            return
        self._refused_until = self.loop.time() + REFUSED_SECONDS
        if is_refusal(error):
            self.node.health.complained(error)
        for waiting in self._queues.take_all():
            self._others.submit(waiting)
