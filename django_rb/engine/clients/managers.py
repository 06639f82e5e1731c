"""The blocks of `map()` and `fanout()`, and what type checkers are told of their clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from redis.commands.core import Script as RedisScript

if TYPE_CHECKING:
    from .promised import FannedCommands, PromisedCommands
else:

    class PromisedCommands(Protocol):
        """What promised.pyi declares, for type checkers only."""

    FannedCommands = PromisedCommands

Hosts = Iterable[int] | str  # host ids, or "all"

C = TypeVar("C", bound="Promising")


class Promising(Protocol):
    """What type checkers see of both clients besides their commands."""

    def register_script(self, script: Any) -> RedisScript:
        """Return a script to be called."""

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Convert the replies of a command in another way, on this client only."""

    def join(self, timeout: float | None = None) -> None:
        """Run what was asked for and settle its promises."""

    async def ajoin(self, timeout: float | None = None) -> None:
        """Do so on the event loop that runs."""

    async def alearn(self) -> None:
        """Find out which nodes there are, if that is not known yet."""

    def run_when_awaited(self, timeout: float | None = None) -> None:
        """Let a pending promise that is awaited have everything sent that waits."""

    def run_no_more(self) -> None:
        """Let a pending promise that is awaited raise a RuntimeError."""

    def cancel(self) -> None:
        """Forget what was not sent yet."""


class Mapped(PromisedCommands, Promising, Protocol):
    """What type checkers see of a `MappingClient`: its commands give promises.

    The annotations that it inherits from redis-py's client name the values themselves.
    """


class Fanned(FannedCommands, Promising, Protocol):
    """What type checkers see of a `FanoutClient`: promises of ``{host id: result}``."""

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
