"""Opening connections on an event loop, with limits that its pools share."""

from __future__ import annotations

import asyncio
import os
from contextvars import Context
from typing import Protocol, Self

import redis

from ..nodes.failing import to_redis_error
from ..nodes.node import Node
from .connections import LATE_SECONDS, AioConnection, Home

_TICK = 0.1  # seconds between two checks whether the loop was blocked
_TRIES = 3  # to open a connection, if the loop was blocked meanwhile


class OpensMore(Protocol):
    """The part of a pool that `AllOpenings` uses."""

    def open_more(self) -> None:
        """Open connections for waiting jobs, within the limits."""


class AllOpenings(set["asyncio.Task[None]"]):
    """The connections that are being opened on one loop, to all nodes.

    Attributes:
        held: pools that wait to open more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: set[OpensMore] = set()


async def open_connection(pool: Home) -> AioConnection:
    """Return a new connection of a pool.

    Raises:
        redis.RedisError, OSError: it cannot be opened; see `as_failure`.
    """
    node = pool.node
    tries = 0
    while True:
        tries += 1
        with _Stalls(pool.loop) as stalls:
            try:
                async with asyncio.timeout(node.open_timeout):
                    epoch = node.epoch
                    writer = await pool.connect()
                    try:
                        connection = pool.make_connection(writer, epoch)
                    except BaseException:
                        writer.transport.abort()
                        raise
                    try:
                        # asyncio closes its copy of a plain socket in the loop's next
                        # iteration. A fork before that would leave it open in the child.
                        await asyncio.sleep(0)
                    except BaseException:
                        connection.close()
                        raise
                    return connection
            except (redis.TimeoutError, TimeoutError):
                # The node may have answered in time, while the loop was blocked.
                if not stalls.seconds or tries == _TRIES:
                    raise


def as_failure(node: Node, error: Exception) -> Exception | None:
    """Return why a connection could not be opened, naming the node.

    None if that is not a failure of the node.
    """
    if isinstance(error, redis.RedisError):
        _say_why(error)
        node.name_in(error)
        return error
    if isinstance(error, TimeoutError):
        return to_redis_error(node, TimeoutError("Timeout connecting"))
    if isinstance(error, OSError):
        return to_redis_error(node, error)
    return None


def _say_why(error: redis.RedisError) -> None:
    """Replace "Connect call failed" in redis-py's error by "Connection refused"."""
    lost = error.__context__
    if isinstance(lost, OSError) and lost.errno:
        said = lost.strerror or ""
        if said.startswith("Connect call failed"):
            error.args = (str(error).replace(said, os.strerror(lost.errno)),)


class _Stalls:
    """A context manager that measures for how many seconds the loop could not run.

    Other code blocks it, the machine is busy, or the loop was stopped for a while.
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
        self.seconds += max(0.0, self._loop.time() - planned - LATE_SECONDS)
        self._plan()
