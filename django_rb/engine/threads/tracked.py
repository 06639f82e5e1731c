"""The connection of threads on which a node tracks the keys that are read."""

from __future__ import annotations

import weakref
from functools import partial
from time import monotonic
from typing import Any, cast

import redis
from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification

from ..near.tracking import Tracking
from ..nodes.tracking import REFUSED_SECONDS, TRACK_KEYS, is_refusal, tracking_kwargs
from ..protocol.reader import NO_REPLY
from ..sockets import NOTHING_YET
from .connections import Connection
from .pool import Pool


class TrackedConnection(Connection):
    """A connection on which the node tracks keys and reports their changes."""

    __slots__ = ("tracking",)

    tracking: Tracking

    def close(self) -> None:
        """Close the connection, and invalidate the copies of what was read on it."""
        tracking = getattr(self, "tracking", None)
        if tracking is not None:
            tracking.end()
        super().close()

    def __del__(self) -> None:
        self.close()  # before the descriptor is used for another file


class TrackedPool(Pool):
    """That connection; there are several only if threads opened the first at the same moment.

    If the node does not track keys for this user, other connections are used instead.

    Args:
        pool: the connections for everything else.
    """

    idle: list[Connection]

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.node)
        self._others = pool
        self._refused_until = 0.0

    @property
    def is_free(self) -> bool:
        """Whether the connection is idle, or not opened yet."""
        if self.idle:
            return True
        return (
            not self._being_opened and not self._count() and monotonic() >= self._refused_until
        )

    def take(self, *, is_checked: bool = True) -> Connection | None:
        """Return the connection, or None. If something can be read from it, it is a push."""
        try:
            while (connection := self.idle.pop()).epoch != self.node.epoch:
                connection.close()
        except IndexError:
            return None
        return connection

    def give_back(self, connection: Connection) -> None:
        """Put a connection back."""
        node, reader = self.node, connection.reader
        if reader.tracking is None:
            self._others.give_back(connection)
            return
        if reader.errors or not node.health.is_well:
            node.answered(reader.errors)
        self.keep(connection)

    def keep(self, connection: Connection) -> None:
        """Put a connection without pending replies back."""
        if connection.reader.tracking is None:
            self._others.keep(connection)
        else:
            super().keep(connection)

    def open(self, seconds: float | None = None) -> Connection:
        """Return a new connection; see `Pool.open`."""
        try:
            return super().open(seconds)
        except redis.RedisError as error:
            if isinstance(error, redis.TimeoutError):
                raise
            connection = self._others.open(seconds)
            self._refused_until = monotonic() + REFUSED_SECONDS
            if is_refusal(error):
                self.node.health.complained(error)
            return connection

    @property
    def _limit(self) -> int | None:
        return None

    def _connection_kwargs(self) -> dict[str, Any]:
        return tracking_kwargs(self.node.kwargs)

    def _made(self, redis_connection: Any, epoch: int) -> Connection:
        redis_connection.send_command(*TRACK_KEYS)
        redis_connection.read_response()
        connection = TrackedConnection(redis_connection, self.node, epoch)
        trackings = self.node.trackings
        assert trackings is not None
        tracking = Tracking(
            trackings, self.node, epoch, connection.poll_fd, partial(_hear, weakref.ref(self))
        )
        connection.tracking = connection.reader.tracking = tracking
        return connection

    def hear(self, tracking: Tracking) -> None:
        """Read the node's pushes, unless the connection is in use."""
        for _ in range(len(self.idle)):
            try:
                connection = self.idle.pop(0)
            except IndexError:
                break
            if connection.reader.tracking is not tracking:
                self.keep(connection)
                continue
            is_good = False
            try:
                is_good = _read(connection, tracking)
            finally:
                if is_good:
                    self.keep(connection)
                else:
                    connection.close()
            return
        tracking.fell_behind()


def pool_for_tracked(pool: Pool) -> Pool:
    """Return the pool for reads of keys that the node should track.

    Args:
        pool: the connections to its node.
    """
    tracked = pool.tracked
    if tracked is None:
        if pool.node.trackings is None or isinstance(pool, TrackedPool):
            return pool
        tracked = pool.tracked = TrackedPool(pool)
    return tracked if cast(TrackedPool, tracked).is_free else pool


def _hear(pool: weakref.ref[TrackedPool], tracking: Tracking) -> None:
    """Read the node's pushes, if the pool still exists."""
    known = pool()
    if known is None:
        tracking.end()
    else:
        known.hear(tracking)


def _read(connection: Connection, tracking: Tracking) -> bool:
    """Read all that has come; return whether the connection can still be used."""
    reader = connection.reader
    while True:
        try:
            size = connection.receive_now()
        except OSError:
            return False
        if size == NOTHING_YET:
            tracking.heard(monotonic())
            return True
        if not size:
            return False
        try:
            reader.feed(connection.buffer, 0, size)  # type: ignore[arg-type]
            while (reply := reader.gets()) is not NO_REPLY:
                if type(reply) is not PushNotification:  # an unexpected reply
                    return False
                tracking.told(reply)
        except HiredisProtocolError:
            return False
        connection.make_room(size)
