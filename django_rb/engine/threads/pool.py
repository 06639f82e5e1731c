"""The connection pool for threads, one per node.

A pool is a list used as a stack: `append` and `pop` are atomic, so taking a connection
and giving it back need no lock. A connection in the list is idle and has no replies pending;
the caller that pops it is its only owner. One that is not given back is closed, by its owner
or by the garbage collector.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from time import monotonic
from typing import Any

import redis

from ..forks import register_at_fork
from ..nodes.node import Node
from ..rounds.local_watch import LocalWatch
from ..rounds.observing import Observed
from .connections import Connection
from .handshake import Home, connect, kind_of

# Connections that were not needed for this many seconds are closed.
_IDLE_SECONDS = 60.0


class Pool:
    """The connections of threads to one node.

    Args:
        node: the node.

    Attributes:
        node: the node.
        idle: the idle connections.
        tracked: the connection on which the node tracks keys; None before it is needed.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tracked: Pool | None = None
        self.idle: list[Connection] = []
        # Weak, so that a connection whose owner was interrupted is closed by the collector.
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        # Reentrant, as a signal handler may open connections as well.
        self._opening = threading.RLock()
        self._being_opened = 0
        # The least number of idle connections at any time since `_looked_at`.
        self._least_idle = 0
        self._looked_at = monotonic()
        _pools.add(self)

    def __repr__(self) -> str:
        return f"<Pool of {self.node!r}: {len(self.idle)} idle>"

    def take(self, *, is_checked: bool = True) -> Connection | None:
        """Return an idle connection that can be used, or None.

        If something can be read from an idle connection, it is the end of the stream or an
        unexpected reply; either way nothing may be sent on it.

        Args:
            is_checked: False if the caller itself checks whether something can be read.
        """
        idle, epoch = self.idle, self.node.epoch
        try:
            while (connection := idle.pop()).epoch != epoch or (
                is_checked and connection.has_input()
            ):
                connection.close()
        except IndexError:
            self._least_idle = 0
            return None
        left = len(idle)
        if left < self._least_idle:  # noqa: PLR1730 (min() would be slower)
            self._least_idle = left
        return connection

    def give_back(self, connection: Connection) -> None:
        """Put a connection back, after its last reply; the caller must not use it any more."""
        node, reader = self.node, connection.reader
        if reader.errors or not node.health.is_well:
            node.answered(reader.errors)
        if reader.is_cut or connection.epoch != node.epoch:
            connection.close()
        else:
            idle = self.idle
            idle.append(connection)
            if len(idle) > 1:
                self._close_unneeded()
        if connection.epoch != node.epoch:
            self.close_idle()

    def keep(self, connection: Connection) -> None:
        """Put a connection without pending replies back; close it if it is outdated."""
        if connection.epoch == self.node.epoch:
            self.idle.append(connection)
            if connection.epoch != self.node.epoch:  # close() has run in between
                self.close_idle()
        else:
            connection.close()

    def _close_unneeded(self) -> None:
        """Close the connections that were idle for _IDLE_SECONDS."""
        now = monotonic()
        if now - self._looked_at < _IDLE_SECONDS:
            return
        unneeded, self._least_idle, self._looked_at = self._least_idle, len(self.idle), now
        for _ in range(unneeded):
            with suppress(IndexError):
                self.idle.pop(0).close()

    def open(self, seconds: float | None = None) -> Connection:
        """Return a new connection, set up by redis-py. Blocks up to `Node.open_timeout`.

        Args:
            seconds: a shorter limit for connecting and the handshake together.

        Raises:
            PoolIsFull: there are `max_connections`.
            redis.ConnectionError, redis.TimeoutError: naming the node.
        """
        node = self.node
        limit = self._limit
        with self._opening:
            if limit is not None and self._count() + self._being_opened >= limit:
                raise node.too_many_connections()
            self._being_opened += 1
        connection = None
        epoch = node.epoch
        kwargs = self._connection_kwargs()
        if seconds is not None:
            kwargs = _limited(kwargs, seconds)
        redis_connection: Any = kind_of(node.info)(
            follows_redirects=node.follows_redirects, **kwargs
        )
        try:
            connect(redis_connection)
            connection = self._made(redis_connection, epoch)
        except redis.RedisError as error:
            node.name_in(error)
            raise
        finally:
            if connection is None:  # after any exception, nothing must stay open
                redis_connection.disconnect()
            with self._opening:  # in one step, so that it is always counted exactly once
                self._being_opened -= 1
                if connection is not None:
                    self._all.add(connection)
        return connection

    @property
    def _limit(self) -> int | None:
        return self.node.max_connections

    def _connection_kwargs(self) -> dict[str, Any]:
        return self.node.kwargs

    def _made(self, redis_connection: Any, epoch: int) -> Connection:
        """Return the engine's connection, made from one that redis-py has set up."""
        return Connection(redis_connection, self.node, epoch)

    def close_idle(self) -> None:
        """Close every idle connection."""
        with suppress(IndexError):
            while True:
                self.idle.pop().close()
        if self.tracked is not None:
            self.tracked.close_idle()

    def count(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of them are idle."""
        with self._opening:
            count, idle = self._count(), len(self.idle)
        if self.tracked is not None:
            tracked, tracked_idle = self.tracked.count()
            return count + tracked, idle + tracked_idle
        return count, idle

    def _count(self) -> int:
        return sum(connection.fd >= 0 for connection in list(self._all))

    def _start_over(self) -> None:
        """In a forked child: close the descriptors of the parent's connections."""
        self.idle = []
        connections, self._all = list(self._all), weakref.WeakSet()
        self._opening = threading.RLock()
        self._being_opened = 0
        self.node.health.start_over()
        for connection in connections:
            connection.close()  # redis-py sees that it was forked and closes only the fd


def _limited(kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return arguments of a connection whose two timeouts are at most `seconds` together."""
    half = max(seconds / 2, 0.001)  # 0 would mean non-blocking
    shorter = {
        name: min(half, kwargs[name] or half)
        for name in ("socket_connect_timeout", "socket_timeout")
    }
    return {**kwargs, **shorter}


def make_redis_pool(
    node: Node,
    pool_cls: type[redis.ConnectionPool],
    observed: Observed | None = None,
    home: Home | None = None,
) -> redis.ConnectionPool:
    """Return a pool of redis-py's own for a node, for clients that need one.

    Args:
        observed: the cluster whose observers are called for what the clients send. The pool
            keeps it alive.
        home: where connections connect to, if that may change.
    """
    options = dict(node.kwargs)
    if observed is not None:
        options["observed"] = LocalWatch(observed, node.host_id, node.address)
    if node.max_connections is not None:  # pools have defaults of their own
        options["max_connections"] = node.max_connections
    if home is not None:
        options["home"] = home
    return pool_cls(connection_class=kind_of(node.info), **options)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for pool in list(_pools):
        pool._start_over()  # noqa: SLF001 (same room)


register_at_fork(_start_over_after_fork)
