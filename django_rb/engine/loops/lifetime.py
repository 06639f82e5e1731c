"""The lifetime of connections on event loops: the pools of a loop are closed with it.

Nothing here keeps a loop alive. The loop itself refers to its pools, through a replacement for
its `close()` that closes the connections first, while the loop can still run. So no connection
of a closed loop stays open, whether or not its asynchronous generators were shut down, and none
of a loop that was garbage-collected.
"""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from threading import Thread

from ..nodes.node import Node
from .handshake import check_options
from .openings import AllOpenings
from .plain import Inbox
from .pool import Pool
from .tracked import TrackedPool


class LoopPools:
    """The pools of one cluster on one loop, made as they are needed.

    Args:
        loop: the loop that the pools belong to.
        user: the transport; when it is garbage-collected, they are closed.

    Attributes:
        inbox: the buffer that all plain connections of the loop share.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, user: KnownLoops) -> None:
        self._loop = loop
        self._user = weakref.ref(user, self._let_go)
        self._by_node: dict[Node, Pool] = {}
        self._tracked: dict[Node, TrackedPool] = {}
        self._openings = AllOpenings()
        self.inbox = Inbox()
        self._retired: list[Pool] = []  # of nodes that were removed
        _Ending.of(loop).members.append(self)

    def of(self, node: Node) -> Pool:
        """Return the pool of a node.

        Raises:
            BadHostSetup: redis-py's asyncio side does not take an option of the node's.
        """
        pool = self._by_node.get(node)
        if pool is None:
            check_options(node)
            pool = self._by_node[node] = Pool(node, self._loop, self._openings, self.inbox)
        return pool

    def for_tracked(self, node: Node) -> Pool:
        """Return the pool for reads of keys that the node should track."""
        pool = self.of(node)
        if node.trackings is None:
            return pool
        tracked = self._tracked.get(node)
        if tracked is None:
            tracked = self._tracked[node] = TrackedPool(pool)
        return tracked if tracked.is_free else pool

    def count(self, node: Node) -> tuple[int, int]:
        """From any thread: return how many connections to a node are open, how many idle."""
        known = filter(None, (self._by_node.get(node), self._tracked.get(node)))
        counts = [pool.count() for pool in known]
        return sum(count for count, _ in counts), sum(idle for _, idle in counts)

    def keep_only(self, nodes: Collection[Node]) -> None:
        """Close the connections to all other nodes as soon as their jobs have ended."""
        self._retired = [pool for pool in self._retired if pool.connections]
        for node in [node for node in self._by_node if node not in nodes]:
            for pool in filter(None, (self._by_node.pop(node), self._tracked.pop(node, None))):
                pool.retire()
                self._retired.append(pool)

    @property
    def pools(self) -> list[Pool]:
        """All pools that may have connections."""
        return [*self._by_node.values(), *self._tracked.values(), *self._retired]

    async def close_idle(self) -> None:
        """Close the idle connections."""
        self._close_idle()
        await _let_close()

    async def close(self) -> None:
        """Close everything, for good."""
        openings = [task for pool in self.pools for task in pool.close()]
        if openings:
            await asyncio.wait(openings)
        await _let_close()
        user = self._user()
        if user is not None:
            user.forget(self._loop)

    def soon(self, do: Callable[[], object]) -> None:
        """From any thread: call `do` soon, in the loop's thread."""
        with suppress(RuntimeError):  # the loop is closed, and everything with it
            self._loop.call_soon_threadsafe(do)

    def close_idle_soon(self) -> None:
        """From any thread: have the loop close idle connections."""
        self.soon(self._close_idle)

    def _close_idle(self) -> None:
        for pool in self.pools:
            pool.close_idle()

    def _let_go(self, _: object) -> None:
        """From any thread: close everything, as the cluster was garbage-collected."""
        self.soon(self._leave)

    def _leave(self) -> None:
        for pool in self.pools:
            pool.close()
        _Ending.of(self._loop).forget(self)

    def leave_to_parent(self) -> None:
        """In a forked child: close the descriptors without using the parent's loop."""
        _Ending.of(self._loop).members.clear()
        for pool in self.pools:
            for connection in pool.connections:
                connection.leave_to_parent()


class KnownLoops:
    """The pools of one cluster by loop."""

    def __init__(self) -> None:
        self._pools: weakref.WeakValueDictionary[int, LoopPools] = weakref.WeakValueDictionary()

    def __iter__(self) -> Iterator[LoopPools]:
        for reference in self._pools.valuerefs():
            pools = reference()
            if pools is not None:
                yield pools

    def __len__(self) -> int:
        return len(self._pools)

    def get(self, loop: asyncio.AbstractEventLoop) -> LoopPools:
        """Return the pools of a loop. Call it in the loop's thread."""
        # An id is unique while the loop exists, and the pools exist only as long as that.
        pools = self._pools.get(id(loop))
        if pools is None:
            pools = self._pools[id(loop)] = LoopPools(loop, self)
        return pools

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remove a loop that was closed."""
        self._pools.pop(id(loop), None)


class _Ending:
    """Replaces a loop's `close()`: connections are closed first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._close_loop = loop.close
        self.members: list[LoopPools] = []
        _endings.add(self)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Ending:
        """Return the one of a loop, which is installed if needed."""
        ending = vars(loop).get("close")
        if not isinstance(ending, cls):
            ending = cls(loop)
            setattr(loop, "close", ending)  # noqa: B010 (a method, to type checkers)
        return ending

    def __call__(self) -> None:
        """Close the connections, then the loop."""
        self.end()
        self._close_loop()

    def end(self) -> None:
        """Close the connections, unless the loop runs."""
        if self.members and not (self._loop.is_closed() or self._loop.is_running()):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self._run_end()
            else:  # another loop runs in this thread, so this one cannot
                thread = Thread(target=self._run_end)
                thread.start()
                thread.join()

    def _run_end(self) -> None:
        self._loop.run_until_complete(self._end())

    def forget(self, pools: LoopPools) -> None:
        """Remove the pools of a cluster that is gone."""
        self.members = [member for member in self.members if member is not pools]

    async def _end(self) -> None:
        while self.members:
            await self.members.pop().close()


async def _let_close() -> None:
    """Wait until aborted transports are closed, which takes three loop iterations for TLS."""
    for _ in range(3):
        await asyncio.sleep(0)


_endings: weakref.WeakSet[_Ending] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """At exit, close the connections of loops that were not closed."""
    for ending in list(_endings):
        ending.end()
