"""The interface of a cluster that the clients over many nodes use."""

from __future__ import annotations

from typing import Protocol, TypeVar

import redis
import redis.asyncio

from ..protocol.encoding import Key
from ..protocol.exchange import Batch
from ..rounds.port import Port

T = TypeVar("T")


class ClientPort(Port, Protocol):
    """The part of a cluster that its clients use."""

    @property
    def prototype(self) -> redis.Redis:
        """A redis-py client that never connects, for its reply callbacks and its encoder."""

    @property
    def aio_prototype(self) -> redis.asyncio.Redis:
        """Like `prototype`, of redis.asyncio."""

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns a key."""

    def learn(self, timeout: float | None = None) -> None:
        """Find out which nodes there are, if that is not known yet."""

    async def alearn(self, timeout: float | None = None) -> None:
        """Do what `learn` does, on the running event loop."""

    def remember_script(self, source: str | bytes) -> bytes:
        """Keep a script's source for nodes that lack it; return its SHA1 digest."""

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch in the calling thread."""

    async def arun(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch on the running event loop."""
