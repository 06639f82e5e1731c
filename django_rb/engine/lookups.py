"""Looking up host names: each name in its own thread, once for all callers that wait for it.

The system's look-up cannot be cancelled and takes no timeout: if a name server does not answer,
it lasts half a minute. So callers wait no longer than `socket_connect_timeout`, a name that is
being looked up is not looked up again, and no other name has to wait for its thread.

While a look-up is slow, or no name server answers, the last known address is used, as RFC 8767
describes for stale records; not if the name server says that the name does not exist.
"""

from __future__ import annotations

import _thread
import asyncio
import copy
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from time import monotonic
from typing import cast

import redis

from .errors import CannotOpen
from .forks import register_at_fork

# A look-up counts as slow after this share of the timeout for connecting.
SLOW_PART = 1 / 4


class Lookup:
    """One look-up of a name.

    Attributes:
        began: when it began, as monotonic().
        addresses: the result.
        error: why there is no result.
        is_over: whether it has ended, with addresses or an error.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = monotonic()
        self.addresses: Sequence[str] = ()
        self.error: Exception | None = None
        self.is_over = False
        self._waiting: list[Callable[[], object]] = []

    def when_over(self, tell: Callable[[], object]) -> None:
        """Call `tell()` when it is over, in any thread; at once if it is over already."""
        self._waiting.append(tell)
        if self.is_over:
            self._tell()

    def run(self) -> None:
        """Find the addresses, however long that takes."""
        try:
            self.addresses = _resolve(self.name)
            _known[self.name] = self.addresses
        except (OSError, UnicodeError) as error:
            self.error = error
        finally:
            self.is_over = True
            _under_way.pop(self.name, None)
            self._tell()

    def _tell(self) -> None:
        while self._waiting:
            try:
                tell = self._waiting.pop()
            except IndexError:  # another thread took the last one
                return
            tell()

    def seconds_left(self, seconds: float | None) -> float | None:
        """Return how many seconds to wait for it, given the timeout for connecting."""
        if self.name not in _known:
            return seconds
        return max(0.0, self.began + (seconds or 1.0) * SLOW_PART - monotonic())

    def cannot_run(self, error: Exception) -> None:
        """End without a result, as no thread could be started."""
        self.error = CannotOpen(f"The name {self.name!r} cannot be resolved: {error}")
        self.is_over = True
        _under_way.pop(self.name, None)
        self._tell()

    def result(self, port: int) -> Sequence[str]:
        """Return the addresses known by now, in the order in which to try them.

        Raises:
            redis.TimeoutError: there are none yet.
            redis.ConnectionError: there are none; the message is worded like redis-py's.
            CannotOpen: no thread could be started.
        """
        if self.addresses:
            return self.addresses
        error, known = self.error, _known.get(self.name)
        if known and (error is None or _is_unanswered(error)):
            return known
        if error is None:
            raise redis.TimeoutError(f"Timeout while resolving the name {self.name!r}")
        error = copy.copy(error)  # each caller raises its own
        if isinstance(error, CannotOpen):
            raise error
        what, reason = "Error", str(error)
        if isinstance(error, OSError) and error.errno is not None:
            what, reason = f"Error {error.errno}", str(error.strerror)
        raise redis.ConnectionError(
            f"{what} connecting to {self.name}:{port}. {reason}."
        ) from error


# By name. There is no lock, as a signal handler may look up names too: every change is one
# atomic assignment or removal.
_under_way: dict[str, Lookup] = {}
_known: dict[str, Sequence[str]] = {}  # what was found last


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Return whether a host is an address, which needs no look-up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def look_up(name: str) -> Lookup:
    """Return the look-up of a name that is under way; begin one if there is none."""
    new = Lookup(name)
    lookup = _under_way.setdefault(name, new)
    if lookup is new:
        try:
            _thread.start_new_thread(new.run, ())
        except BaseException as error:
            is_lack = isinstance(error, RuntimeError) and "thread" in str(error)
            new.cannot_run(cast(Exception, error))
            if not is_lack:  # a signal handler raised it
                raise
    return lookup


def wait_for_addresses(name: str, port: int, seconds: float | None) -> Sequence[str]:
    """Return the addresses of a host; blocks the calling thread.

    If no thread can be started, a new name is looked up in the calling one, without a timeout.

    Args:
        port: for errors.
        seconds: how long connecting may take; None without limit.

    Raises:
        redis.TimeoutError, redis.ConnectionError: see `Lookup.result`.
    """
    if is_address(name):
        return (name,)
    lookup = look_up(name)
    if isinstance(lookup.error, CannotOpen) and name not in _known:
        lookup = Lookup(name)
        lookup.run()
    is_over = threading.Event()
    lookup.when_over(is_over.set)
    is_over.wait(lookup.seconds_left(seconds))
    return lookup.result(port)


async def await_addresses(name: str, port: int, seconds: float | None) -> Sequence[str]:
    """Return the addresses of a host; the calling task waits for them.

    Args:
        port: for errors.
        seconds: how long connecting may take; None without limit.

    Raises:
        redis.TimeoutError, redis.ConnectionError: see `Lookup.result`.
    """
    if is_address(name):
        return (name,)
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(is_over.set)

    lookup = look_up(name)
    lookup.when_over(tell)
    with suppress(TimeoutError):
        async with asyncio.timeout(lookup.seconds_left(seconds)):
            await is_over.wait()
    return lookup.result(port)


def _resolve(name: str) -> Sequence[str]:
    """Return the addresses of a name in the order in which to try them."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    addresses = (
        # The fourth is the zone of a link-local address (fe80::1%2).
        f"{place[0]}%{place[3]}" if len(place) > 3 and place[3] else str(place[0])
        for *_, place in found
    )
    return tuple(dict.fromkeys(addresses))


def _is_unanswered(error: Exception) -> bool:
    """Return whether no name server gave an answer about the name."""
    return isinstance(error, CannotOpen) or (
        isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    )


def _start_over_after_fork() -> None:
    _under_way.clear()  # the parent's threads do not run here


register_at_fork(_start_over_after_fork)
