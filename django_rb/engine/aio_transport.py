"""Moves the bytes of a batch's exchanges on event loops: the twin of `transport`.

The same batches, exchanges, health and retries; what differs is who waits. Connections
belong to the loop that made them and end with it.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TypeVar

from .aio_connections import FOREVER, Job, Pool
from .connections import Node
from .exchange import Batch, Exchange
from .failing import DeadlineError, give_up, is_blamed_for_deadline, to_redis_error
from .health import HealthChanges

T = TypeVar("T")


class AioTransport:
    """Drives batches on the event loop that runs.

    Args:
        nodes: the cluster's nodes by host id.
        changes: those of the nodes' health, told at the end of a call.
    """

    def __init__(self, nodes: Mapping[int, Node], changes: HealthChanges) -> None:
        self._nodes = nodes
        self._changes = changes
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        _transports.add(self)

    async def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch to its end and return its result.

        Args:
            batch: the generator; what fails on a node is told to it, not raised here.
            timeout: seconds after which whatever is unfinished has failed.
        """
        loop = asyncio.get_running_loop()
        deadline = FOREVER if timeout is None else loop.time() + timeout
        pools = self._loops.get(loop) or await self._join(loop)
        try:
            is_first = True
            while True:
                await _Round(pools, deadline, is_first=is_first).run(next(batch))
                is_first = False
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()
            if self._changes.waiting:
                self._changes.tell()

    async def aclose(self) -> None:
        """Close the idle connections of the running loop."""
        pools = self._loops.get(asyncio.get_running_loop())
        if pools is not None:
            for pool in pools.values():
                pool.close_idle()

    async def _join(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        for known in list(self._loops):
            if known.is_closed():  # without asking its asynchronous generators to end
                self._loops.pop(known, None)
        pools = self._loops[loop] = _Loop(self._nodes, loop)
        await pools.watch(self._loops)
        return pools

    def _start_over(self) -> None:
        """In a forked child: the parent's loops are not ours."""
        loops, self._loops = self._loops, {}
        for pools in loops.values():
            pools.leave_to_parent()
        # Never collected, as that would touch the parent's loop.
        _left_to_parents.append(loops)


class _Loop(dict[int, Pool]):
    """The pools of one loop by host id, made as they are needed; they end with the loop."""

    def __init__(self, nodes: Mapping[int, Node], loop: asyncio.AbstractEventLoop) -> None:
        self._nodes = nodes
        self._loop = loop
        self._retired: list[Pool] = []  # of nodes whose host ids others have by now

    def __missing__(self, host_id: int) -> Pool:
        pool = self[host_id] = Pool(self._nodes[host_id], self._loop)
        return pool

    def of(self, host_id: int) -> Pool:
        """Return the pool of a node; a new one where another node has its id by now."""
        pool = self[host_id]
        if pool.node is not self._nodes[host_id]:
            pool.retire()
            self._retired.append(self.pop(host_id))
            pool = self[host_id]
        return pool

    @property
    def pools(self) -> list[Pool]:
        """All pools that may have connections."""
        return [*self.values(), *self._retired]

    async def watch(self, loops: dict[asyncio.AbstractEventLoop, _Loop]) -> None:
        """Close everything when the loop ends.

        Loops end their asynchronous generators when they are done: asyncio.run() does,
        and so do asgiref and every server.
        """
        self._end = _until_the_end(self, loops)
        await anext(self._end)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the descriptors."""
        for pool in self.pools:
            for connection in pool.connections:
                connection.leave_to_parent()


async def _until_the_end(
    pools: _Loop, loops: dict[asyncio.AbstractEventLoop, _Loop]
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        loops.pop(asyncio.get_running_loop(), None)
        for pool in pools.pools:
            pool.close()


class _Round:
    """The exchanges that run side by side, until the last of them has ended."""

    def __init__(self, pools: _Loop, deadline: float, *, is_first: bool) -> None:
        self._pools = pools
        self._deadline = deadline
        self._is_first = is_first  # of the call's rounds
        self._loop = asyncio.get_running_loop()
        self._jobs: list[Job] = []
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    async def run(self, exchanges: Sequence[Exchange]) -> None:
        """Run exchanges to their ends."""
        try:
            self._submit(exchanges)
            if self._error is None:
                # What has failed at once lets others have their turn all the same.
                await (self._wait() if self._left else asyncio.sleep(0))
            if self._error is not None:
                raise self._error
        finally:
            for job in self._jobs:
                if not job.is_over:
                    job.abandon()

    def _submit(self, exchanges: Sequence[Exchange]) -> None:
        began = self._loop.time()
        is_over = self._deadline <= began
        self._left = 0 if is_over else len(exchanges)
        for exchange in exchanges:
            pool = self._pools.of(exchange.host_id)
            if is_over:
                exchange.fail(to_redis_error(pool.node, DeadlineError()))
                continue
            job = Job(exchange, pool, self, began)
            self._jobs.append(job)
            pool.submit(job)
            if self._error is not None:
                return
        if len(exchanges) > 1:
            took = self._loop.time() - began
            for job in self._jobs:
                job.limit += took  # to encode may have taken long

    async def _wait(self) -> None:
        self._done = self._loop.create_future()
        timer = None
        if self._deadline != FOREVER:
            timer = self._loop.call_at(self._deadline, self._expire)
        try:
            await self._done
        finally:
            if timer is not None:
                timer.cancel()

    def ended(self) -> None:
        """Count an exchange that has ended."""
        self._left -= 1
        if not self._left:
            self._wake()

    def crash(self, error: BaseException) -> None:
        """Raise an error that is no node's failure."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _expire(self) -> None:
        """Fail everything that is unfinished."""
        for job in self._jobs:
            if not job.is_over:
                is_nodes_fault = is_blamed_for_deadline(
                    is_first=self._is_first, is_heard=not job.pool.is_silent(job)
                )
                give_up(
                    job.exchange, job.pool.node, DeadlineError(), is_nodes_fault=is_nodes_fault
                )
                job.abandon()
        self._wake()


_transports: weakref.WeakSet[AioTransport] = weakref.WeakSet()
_left_to_parents: list[object] = []


def _start_over_after_fork() -> None:
    for transport in list(_transports):
        transport._start_over()  # noqa: SLF001 (same room)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_start_over_after_fork)
