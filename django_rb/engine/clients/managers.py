"""The context managers of `map()` and `fanout()`, and the types of their clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from redis.commands.core import Script as RedisScript

if TYPE_CHECKING:
    from .promised import FannedCommands, PromisedCommands
else:

    class PromisedCommands(Protocol):
        """Declared in promised.pyi, for type checkers only."""

    FannedCommands = PromisedCommands

Hosts = Iterable[int] | str  # host ids, or "all"

C = TypeVar("C", bound="Promising")


class Promising(Protocol):
    """The type of both clients, without their commands."""

    def register_script(self, script: Any) -> RedisScript:
        """Return a script to call."""

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Set the function that converts the replies to a command, for this client only."""

    def join(self, timeout: float | None = None) -> None:
        """Run the pending commands and settle their promises."""

    async def ajoin(self, timeout: float | None = None) -> None:
        """Do what `join` does, on the running event loop."""

    async def alearn(self) -> None:
        """Find out which nodes there are, if that is not known yet."""

    def run_when_awaited(self, timeout: float | None = None) -> None:
        """From now on, awaiting a pending promise sends all pending commands."""

    def run_no_more(self) -> None:
        """From now on, awaiting a pending promise raises a RuntimeError."""

    def cancel(self) -> None:
        """Drop the commands that were not sent yet."""


class Mapped(PromisedCommands, Promising, Protocol):
    """The type of a `MappingClient`: its commands return promises.

    The annotations that the class inherits from redis-py name the values themselves.
    """


class Fanned(FannedCommands, Promising, Protocol):
    """The type of a `FanoutClient`: its commands return promises of ``{host id: result}``."""

    def target(self, hosts: Hosts) -> Fanned:
        """Return a client for other hosts."""

    def target_key(self, key: Any) -> Mapped:
        """Return a client for the host that owns a key."""


class MapManager(Generic[C]):
    """Runs a client's commands when its block ends, unless an exception ends it."""

    def __init__(self, client: C, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout

    def __enter__(self) -> C:
        return self._client

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        if exc_type is not None:
            self._client.cancel()
        else:
            self._client.join(self._timeout)
