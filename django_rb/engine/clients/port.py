"""What the clients over many nodes need of a cluster."""

from __future__ import annotations

from typing import Protocol, TypeVar

import redis
import redis.asyncio

from ..protocol.encoding import Key
from ..protocol.exchange import Batch
from ..rounds.port import Port

T = TypeVar("T")


class ClientPort(Port, Protocol):
    """A cluster, as far as its clients know it."""

    @property
    def prototype(self) -> redis.Redis:
        """A client of redis-py's that never connects: its reply callbacks and its encoder."""

    @property
    def aio_prototype(self) -> redis.asyncio.Redis:
        """As `prototype`, of redis-py's asyncio side."""

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns a key."""

    def learn(self, timeout: float | None = None) -> None:
        """Find out which nodes there are, if that is not known yet."""

    async def alearn(self, timeout: float | None = None) -> None:
        """Do so on the event loop that runs."""

    def remember_script(self, source: str | bytes) -> bytes:
        """Keep a script's source for nodes that do not know it; return its SHA1 digest."""

    def run(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch in the thread that calls."""

    async def arun(self, batch: Batch[T], timeout: float | None = None) -> T:
        """Run a batch on the event loop that runs."""
