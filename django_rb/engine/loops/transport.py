"""Runs batches on event loops, as `threads.transport` does in threads.

Batches, exchanges, health and second looks are the same. Connections belong to the loop that
opened them and are closed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from time import thread_time
from typing import TypeVar

from ..forks import register_at_fork
from ..nodes.changes import HealthChanges
from ..nodes.failing import (
    LATE_PART,
    DeadlineError,
    give_up,
    is_blamed_for_deadline,
    to_redis_error,
)
from ..nodes.node import Node
from ..protocol.exchange import Batch, Exchange
from ..protocol.interludes import Pause, Race, Visit
from ..rounds.again import asks_for_more, look_again
from ..rounds.port import Port
from ..spinning import LONG_WAIT_SECONDS
from .connections import FOREVER, LATE_SECONDS
from .jobs import Job
from .lifetime import KnownLoops, LoopPools
from .pool import Pool

T = TypeVar("T")


class Transport:
    """Runs batches on the running event loop.

    Args:
        changes: the changes of the nodes' health, reported at the end of a call.
    """

    def __init__(self, changes: HealthChanges) -> None:
        self._nodes: Mapping[int, Node] = {}
        self._changes = changes
        self._loops = KnownLoops()
        _transports.add(self)

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Connect to these nodes only, from now on."""
        self._nodes = nodes
        for pools in self._loops:
            pools.soon(partial(self._keep_known, pools))

    def _keep_known(self, pools: LoopPools) -> None:
        # The current nodes, not those given above: this runs a little later.
        pools.keep_only(list(self._nodes.values()))

    def close_idle_soon(self) -> None:
        """From any thread: have all loops close their idle connections."""
        for pools in self._loops:
            pools.close_idle_soon()

    async def run(
        self, batch: Batch[T], timeout: float | None = None, port: Port | None = None
    ) -> T:
        """Run a batch to its end and return its result.

        Args:
            batch: the generator. Failures of nodes are not raised here; it finds them in its
                exchanges.
            timeout: seconds after which unfinished exchanges fail.
            port: the cluster, for second looks; None if the batch includes them.
        """
        loop = asyncio.get_running_loop()
        deadline = FOREVER if timeout is None else loop.time() + timeout
        pools = self._loops.get(loop)
        # A host that is removed meanwhile stays usable until the batch ends.
        latest = nodes = self._nodes
        try:
            given = timeout
            while True:
                exchanges = next(batch)
                if self._nodes is not latest:  # a host was added, and the batch may use it
                    latest = self._nodes
                    nodes = {**nodes, **latest}
                await _AwaitedRound(nodes, pools, deadline, given).run(exchanges)
                given = None
                if port is not None and asks_for_more(exchanges):
                    with contextlib.closing(look_again(port, exchanges)) as rounds:
                        for following in rounds:
                            nodes = {**nodes, **self._nodes}  # each round may learn of new ones
                            round_ = _AwaitedRound(nodes, pools, deadline)
                            await round_.run(following)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()
            if self._changes.waiting:
                self._changes.tell()

    def count(self, host_id: int) -> tuple[int, int]:
        """From any thread: return how many connections to a node are open, how many idle."""
        node = self._nodes.get(host_id)
        counts = [pools.count(node) for pools in self._loops] if node else []
        return sum(count for count, _ in counts), sum(idle for _, idle in counts)

    async def aclose(self) -> None:
        """Close the idle connections of the running loop."""
        await self._loops.get(asyncio.get_running_loop()).close_idle()

    def _start_over(self) -> None:
        """In a forked child: forget the parent's loops."""
        loops, self._loops = self._loops, KnownLoops()
        # Kept for ever: garbage collection would use the parent's loop.
        _left_to_parents.append(loops)
        for pools in loops:
            _left_to_parents.append(pools)
            pools.leave_to_parent()


class _AwaitedRound:
    """Exchanges that run in parallel, until the last of them has ended."""

    def __init__(
        self,
        nodes: Mapping[int, Node],
        pools: LoopPools,
        deadline: float,
        timeout: float | None = None,
    ) -> None:
        self._nodes = nodes
        self._pools = pools
        self._deadline = deadline
        self._timeout = timeout  # of the whole call, if this is its first round
        self._loop = asyncio.get_running_loop()
        self._began = self._submitted = self._loop.time()
        self._jobs: list[tuple[Job, Pool]] = []
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._race: Race | None = None

    async def run(self, exchanges: Sequence[Exchange]) -> None:
        """Run exchanges until all have ended."""
        if isinstance(exchanges, Pause):
            left = self._deadline - self._loop.time()
            exchanges.is_over = left <= exchanges.seconds
            await asyncio.sleep(max(0.0, min(exchanges.seconds, left)))
            return
        if isinstance(exchanges, Visit):
            await exchanges.arun(self._deadline - self._loop.time())
            return
        if isinstance(exchanges, Race):
            self._race = exchanges
        try:
            self._submit(exchanges)
            if self._error is None:
                if not self._left:
                    # Even if all failed at once, other tasks must get to run.
                    await asyncio.sleep(0)
                elif not self._is_served_in_a_spin():
                    await self._wait()
            if self._error is not None:
                raise self._error
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for job, _ in self._jobs:
                if not job.is_over:
                    job.abandon()
            self._jobs.clear()  # a cycle would keep the replies until Python collects it

    def _submit(self, exchanges: Sequence[Exchange]) -> None:
        began = self._loop.time()
        is_over = self._deadline <= began
        self._left = 0 if is_over else len(exchanges)
        for exchange in exchanges:
            node = self._nodes[exchange.host_id]
            if is_over:
                exchange.fail(to_redis_error(node, DeadlineError()))
                continue
            pool = (
                self._pools.for_tracked(node) if exchange.is_tracked else self._pools.of(node)
            )
            job = Job(exchange, self, began, began + pool.open_timeout - exchange.waited)
            self._jobs.append((job, pool))
            pool.submit(job)
            if self._error is not None:
                return
            if not self._left and isinstance(exchanges, Race):  # it was answered at once
                for rest in exchanges[len(self._jobs) :]:
                    exchanges.lose(rest)
                return
        if len(exchanges) > 1:
            self._submitted = self._loop.time()
            for job, _ in self._jobs:
                job.limit += self._submitted - began  # encoding may have taken long

    def _is_served_in_a_spin(self) -> bool:
        inbox = self._pools.inbox
        # Not if some jobs wait for a connection, or use a transport of asyncio.
        if inbox.spin.left <= 0 or len(inbox.expecting) < self._left:
            return False
        return inbox.spin.serve(self._serve_what_came)

    def _serve_what_came(self) -> bool:
        self._pools.inbox.read_what_came()
        return not self._left or self._error is not None

    async def _wait(self) -> None:
        self._done = self._loop.create_future()
        if self._deadline != FOREVER:
            self._timer = self._loop.call_at(self._deadline, self._expire)
        spin, began = self._pools.inbox.spin, self._loop.time()
        computed = thread_time() if spin.is_alert else None
        spin.is_alert = False  # one measurement is enough for all waiting rounds
        await self._done
        seconds = self._loop.time() - began
        if computed is not None:  # CPU time of the loop itself does not count as waiting
            spin.waited(seconds - (thread_time() - computed))
        if seconds > LONG_WAIT_SECONDS:
            spin.is_alert = True

    def ended(self) -> None:
        """Count an exchange that has ended."""
        self._left -= 1
        if not self._left:
            self._wake()
        elif self._race is not None:
            self._look_at(self._race)

    def _look_at(self, race: Race) -> None:
        """End the other exchanges if a race is decided."""
        if any(job.is_over and race.is_decided_by(job.exchange) for job, _ in self._jobs):
            self._race = None
            for job, _ in self._jobs:
                if not job.is_over:
                    race.lose(job.exchange)
                    job.abandon()
            self._left = 0
            self._wake()

    def crash(self, error: BaseException) -> None:
        """Raise an error that is not a failure of a node."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._done is not None:
            with contextlib.suppress(asyncio.InvalidStateError):  # it was cancelled
                self._done.set_result(None)

    def _expire(self) -> None:
        """Fail everything that is unfinished."""
        # Nodes are not blamed for time in which the loop did not run.
        now = self._loop.time()
        is_late = now - self._deadline > min(LATE_SECONDS, LATE_PART * (now - self._began))
        for job, pool in self._jobs:
            if not job.is_over:
                since = self._submitted
                if job.connection is not None:
                    since = max(since, job.connection.since)
                is_nodes_fault = is_blamed_for_deadline(
                    timeout=self._timeout,
                    silent=0.0 if is_late else now - since,
                    is_heard=not pool.is_silent(job),
                )
                give_up(job.exchange, pool.node, DeadlineError(), is_nodes_fault=is_nodes_fault)
                job.abandon()
        self._wake()


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
_left_to_parents: list[object] = []


def _start_over_after_fork() -> None:
    for transport in list(_transports):
        transport._start_over()  # noqa: SLF001 (same room)


register_at_fork(_start_over_after_fork)
