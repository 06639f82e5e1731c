"""Waiting for sockets: select.poll() if the platform has it, else the best of `selectors`."""

from __future__ import annotations

import select
from typing import Protocol, cast

POLLIN, POLLOUT = 1, 4  # the values of poll(2) everywhere; select lacks them on some platforms


class Poller(Protocol):
    """The part of select.poll()'s interface that the engine uses."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor."""

    def modify(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor for other events."""

    def unregister(self, fd: int, /) -> None:
        """Stop watching a descriptor."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Return (descriptor, events) for those that are ready, after `timeout` ms at most."""


class SelectorPoller:
    """A replacement for select.poll() on platforms without it."""

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
        """Stop watching a descriptor."""
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
    """Return a poll object. select.poll is looked up late, so that gevent can patch it."""
    poll = getattr(select, "poll", None)
    return SelectorPoller() if poll is None else cast(Poller, poll())
