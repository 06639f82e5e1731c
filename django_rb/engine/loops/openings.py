"""How connections of an event loop are opened, and what of it its pools share."""

from __future__ import annotations

import asyncio
import os
from contextvars import Context
from typing import Protocol, Self

import redis

from ..nodes.failing import to_redis_error
from ..nodes.node import Node
from .connections import LATE_SECONDS, AioConnection, Home

_TICK = 0.1  # seconds between two looks at whether the loop runs
_TRIES = 3  # to open a connection, where the loop was kept from it


class OpensMore(Protocol):
    """A pool, as far as others' openings concern it."""

    def open_more(self) -> None:
        """Open connections for what waits, as far as there may be more."""


class AllOpenings(set["asyncio.Task[None]"]):
    """What is being opened on one loop, to whatever node.

    Attributes:
        held: pools that would open more if there were less.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: set[OpensMore] = set()


async def open_connection(pool: Home) -> AioConnection:
    """Return a new connection of a pool's.

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
                        # What asyncio had of a plain socket is closed in the loop's next turn.
                        # Nothing may fork before: nobody would close it in the child.
                        await asyncio.sleep(0)
                    except BaseException:
                        connection.close()
                        raise
                    return connection
            except (redis.TimeoutError, TimeoutError):
                # The node may have answered in time, while the loop did not run.
                if not stalls.seconds or tries == _TRIES:
                    raise


def as_failure(node: Node, error: Exception) -> Exception | None:
    """Return why a connection could not be opened, naming the node.

    None if that is no failure of the node's.
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
        self.seconds += max(0.0, self._loop.time() - planned - LATE_SECONDS)
        self._plan()
