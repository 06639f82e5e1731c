"""Whose connections are whose: the pools of an event loop live and end with it.

Nothing here keeps a loop alive. The pools are kept by the loop itself, as part of what
stands in for its `close()`: that ends the connections first, while the loop can still
turn. So nothing is left of a loop that was closed, whether or not its asynchronous
generators were shut down, and nothing of a loop that was collected.
"""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Thread

from .aio_connections import Pool
from .aio_handshake import check_options
from .connections import Node


class LoopPools(dict[int, Pool]):
    """The pools of one cluster on one loop by host id, made as they are needed.

    Args:
        nodes: the cluster's nodes by host id.
        loop: the loop that the pools belong to.
        user: without whom they are of no use.
    """

    def __init__(
        self, nodes: Mapping[int, Node], loop: asyncio.AbstractEventLoop, user: KnownLoops
    ) -> None:
        self._nodes = nodes
        self._loop = loop
        self._user = weakref.ref(user, self._let_go)
        self._retired: list[Pool] = []  # of nodes whose host ids others have by now
        _Ending.of(loop).members.append(self)

    def __missing__(self, host_id: int) -> Pool:
        node = self._nodes[host_id]
        check_options(node)
        pool = self[host_id] = Pool(node, self._loop)
        node.aio_pools[id(self._loop)] = pool
        return pool

    def of(self, host_id: int) -> Pool:
        """Return the pool of a node; a new one where another node has its id by now.

        Raises:
            BadHostSetup: redis-py's asyncio side does not take an option of the node's.
        """
        pool = self[host_id]
        if pool.node is not self._nodes[host_id]:
            pool.retire()
            self._retired = [*(other for other in self._retired if other.connections), pool]
            del self[host_id]
            pool = self[host_id]
        return pool

    @property
    def pools(self) -> list[Pool]:
        """All pools that may have connections."""
        return [*self.values(), *self._retired]

    async def close_idle(self) -> None:
        """Close the idle connections."""
        for pool in self.pools:
            pool.close_idle()
        await _let_close()

    async def close(self) -> None:
        """Close everything, for good, and be known no more."""
        openings = [task for pool in self.pools for task in pool.close()]
        if openings:
            await asyncio.wait(openings)
        await _let_close()
        for pool in self.pools:
            pool.node.aio_pools.pop(id(self._loop), None)
        user = self._user()
        if user is not None:
            user.forget(self._loop)

    def _let_go(self, _: object) -> None:
        """From any thread: have everything closed, as the cluster was collected."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        for pool in self.pools:
            pool.close()
        _Ending.of(self._loop).forget(self)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the descriptors, and of the parent's loop."""
        _Ending.of(self._loop).members.clear()
        for pool in self.pools:
            for connection in pool.connections:
                connection.leave_to_parent()


class KnownLoops:
    """The pools of one cluster by loop."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self._nodes = nodes
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
        # As long as they live, so does the loop, and nothing else has its id.
        pools = self._pools.get(id(loop))
        if pools is None:
            pools = self._pools[id(loop)] = LoopPools(self._nodes, loop, self)
        return pools

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Know a loop that was closed no more."""
        self._pools.pop(id(loop), None)


class _Ending:
    """Stands in for a loop's `close()`: connections end first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._close_loop = loop.close
        self.members: list[LoopPools] = []
        _endings.add(self)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Ending:
        """Return that of a loop, which has it from now on."""
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
            else:  # another loop runs in this thread, and two cannot
                thread = Thread(target=self._run_end)
                thread.start()
                thread.join()

    def _run_end(self) -> None:
        self._loop.run_until_complete(self._end())

    def forget(self, pools: LoopPools) -> None:
        """Know the pools of a cluster that is gone no more."""
        self.members = [member for member in self.members if member is not pools]

    async def _end(self) -> None:
        while self.members:
            await self.members.pop().close()


async def _let_close() -> None:
    """Wait until transports that were aborted are closed, which takes TLS three turns."""
    for _ in range(3):
        await asyncio.sleep(0)


_endings: weakref.WeakSet[_Ending] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the connections of loops that nobody closes before the interpreter exits."""
    for ending in list(_endings):
        ending.end()
