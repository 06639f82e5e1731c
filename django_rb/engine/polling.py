"""Waiting for sockets: select.poll() where there is one, else the best of `selectors`.

A look that never waits need not let go of the interpreter's lock: where other threads compute,
getting it back takes 5 ms for each of them. `readable` calls the C library, and keeps it.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol, cast

POLLIN, POLLOUT = 1, 4  # the values of poll(2) everywhere; select lacks them on some platforms


class Poller(Protocol):
    """What the engine uses of select.poll()."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor."""

    def modify(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor for other events."""

    def unregister(self, fd: int, /) -> None:
        """Watch a descriptor no more."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Return (descriptor, events) for those that are ready, after `timeout` ms at most."""


class SelectorPoller:
    """select.poll() for platforms that have none, made of the best of `selectors`."""

    def __init__(self) -> None:
        import selectors  # noqa: PLC0415 (needed on few platforms)

        self._selector = selectors.DefaultSelector()
        self._read, self._write = selectors.EVENT_READ, selectors.EVENT_WRITE

    def _events(self, eventmask: int) -> int:
        return (self._read if eventmask & POLLIN else 0) | (
            self._write if eventmask & POLLOUT else 0
        )

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor."""
        self._selector.register(fd, self._events(eventmask))

    def modify(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor for other events."""
        self._selector.modify(fd, self._events(eventmask))

    def unregister(self, fd: int, /) -> None:
        """Watch a descriptor no more."""
        self._selector.unregister(fd)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Return (descriptor, events) for those that are ready, after `timeout` ms at most."""
        ready = self._selector.select(None if timeout is None else timeout / 1000)
        return [
            (
                key.fd,
                (POLLIN if events & self._read else 0)
                | (POLLOUT if events & self._write else 0),
            )
            for key, events in ready
        ]

    def __del__(self) -> None:
        self._selector.close()


def make_poller() -> Poller:
    """Return a poll object. Looked up late, so that gevent's patching is seen."""
    poll = getattr(select, "poll", None)
    return SelectorPoller() if poll is None else cast(Poller, poll())


POLL_FD = struct.Struct("ihh")  # struct pollfd of poll(2): descriptor, events, what is there


def c_function(name: str) -> Any:
    """Return a function of the C library that keeps the interpreter's lock; None without.

    Its arguments are of C's types already, or integers for an int: to have ctypes convert
    them takes as long as the rest of the call.
    """
    if not hasattr(socket, "MSG_DONTWAIT"):  # Windows
        return None
    try:
        function = getattr(ctypes.PyDLL(None, use_errno=name == "recv"), name)
    except (AttributeError, OSError):  # a platform without it
        return None
    function.restype = ctypes.c_ssize_t if name != "poll" else ctypes.c_int
    return function


c_poll = c_function("poll")


def readable(fds: Sequence[int]) -> list[int]:
    """Return those of some descriptors from which something can be read now, or no more.

    One system call for all of them, which never waits.
    """
    if not fds:
        return []
    if c_poll is None:
        poller = make_poller()
        for fd in fds:
            poller.register(fd, POLLIN)
        return [fd for fd, _ in poller.poll(0)]
    places = ctypes.create_string_buffer(
        b"".join([POLL_FD.pack(fd, POLLIN, 0) for fd in fds]), len(fds) * POLL_FD.size
    )
    if not c_poll(places, ctypes.c_ulong(len(fds)), 0):
        return []
    return [fd for fd, _, found in POLL_FD.iter_unpack(places.raw) if found]
