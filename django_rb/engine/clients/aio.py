"""The clients over many nodes for event loops, with the routing and batches of the others.

Commands and the conversion of replies are redis-py's, of its asyncio client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, NoReturn, TypeVar, cast

import redis.asyncio
from redis.client import EMPTY_RESPONSE
from redis.commands.core import AsyncScript

from ..errors import first_error
from ..rounds.scans import Cursors
from .fanout import FanoutClient
from .locks import ARGUMENTS_BEFORE_CLASS, AioLock
from .managers import Fanned, Hosts, Mapped, Promising
from .mapping import MappingClient
from .port import ClientPort
from .routing import Routing

C = TypeVar("C", bound=Promising)


class AioUnconnectedPool(redis.asyncio.ConnectionPool):
    """A pool that gives clients their options, and never connects."""

    def get_connection(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raise an error that names a client with connections."""
        raise NotImplementedError(
            "This requires a connection to one node, but this client uses many nodes. Use "
            "redis.asyncio.Redis for the node."
        )


class AioRoutingClient(Routing, redis.asyncio.Redis):  # type: ignore[misc]  # ours go first
    """Each command goes to the node that owns its keys; its result is awaited.

    await cluster.aio.set("page:1", "text")
    await cluster.aio.mget("page:1", "page:2")     # asks all nodes in parallel

    Any number of tasks, loops and threads may share one.
    """

    def lock(self, *args: Any, **options: Any) -> Any:
        """Return an asynchronous lock; see `RoutingClient.lock`."""
        if len(args) <= ARGUMENTS_BEFORE_CLASS:
            options.setdefault("lock_class", AioLock)
        return redis.asyncio.Redis.lock(self, *args, **options)

    @staticmethod
    def _get_prototype(cluster: ClientPort) -> object:
        return cluster.aio_prototype

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and return its result.

        Raises:
            UnroutableCommand: its keys are on several nodes, or it has none.
        """
        if EMPTY_RESPONSE in options and len(args) == 1:  # mget([])
            return options[EMPTY_RESPONSE]
        call = self._call(self._sendable(args), options)
        return await self._cluster.arun(call, self._command_timeout)

    async def scan_iter(  # type: ignore[override]
        self,
        match: Any = None,
        count: int | None = None,
        _type: str | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yield the keys of all nodes, scanning every node at once, page by page.

        See `RoutingClient.scan_iter`.
        """
        options = self._scan_options(match, count, _type)
        cursors: Cursors | None = None
        while cursors or cursors is None:
            cursors, keys, failures = await self._cluster.arun(
                self._scan(cursors, options), self._command_timeout
            )
            for key in keys:
                yield key
            if failures:
                raise first_error(failures)

    def register_script(self, script: Any) -> AsyncScript:  # type: ignore[override]
        """Return a script to call and await; it is loaded on nodes that lack it."""
        self._keep_script(script)
        return AsyncScript(self, script)

    async def script_load(self, script: Any) -> str:
        """Keep a script and return its SHA1 digest; nodes load it when it is first used."""
        return self._keep_script(script)

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Mapped]:
        """Return an asynchronous context manager for promises; see `Cluster.amap`."""
        client = MappingClient(self._cluster, max_concurrency, auto_batch=auto_batch)
        return AioMapManager(cast(Mapped, client), timeout)

    def fanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Fanned]:
        """Return an asynchronous context manager for chosen hosts; see `Cluster.afanout`."""
        client = FanoutClient(self._cluster, hosts, max_concurrency, auto_batch=auto_batch)
        return AioMapManager(cast(Fanned, client), timeout, needs_nodes=True)


class AioMapManager(Generic[C]):
    """Runs a client's commands when its block ends, unless an exception ends it.

    Awaiting a promise inside the block sends all commands that are pending by then.
    """

    def __init__(self, client: C, timeout: float | None, *, needs_nodes: bool = False) -> None:
        self._client = client
        self._timeout = timeout
        self._needs_nodes = needs_nodes

    async def __aenter__(self) -> C:
        if self._needs_nodes:
            await self._client.alearn()
        self._client.run_when_awaited(self._timeout)
        return self._client

    async def __aexit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        if exc_type is not None:
            self._client.cancel()
            self._client.run_no_more()
        else:
            await self._client.ajoin(self._timeout)
