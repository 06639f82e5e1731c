"""System calls on plain sockets that never block and do not release the GIL.

If other threads compute, getting the GIL back takes 5 ms for each of them. A call that never
blocks need not release it, so these functions call the C library through ctypes.PyDLL.
They work with plain sockets on Linux and macOS; see `is_plain`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from .polling import POLLIN, make_poller
from .protocol.encoding import Buffer

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # lacking on Windows

# What `receive` returns if there is nothing to read now.
NOTHING_YET = -1

# A buffer's address in memory and its size in bytes, as C types.
Place = tuple[ctypes.c_void_p, ctypes.c_size_t]

_NOT_NOW = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR})

_POLL_FD = struct.Struct("ihh")  # struct pollfd of poll(2): fd, events, revents


def _c_function(name: str) -> Any:
    """Return a function of the C library that keeps the GIL; None if there is none.

    Callers pass C types, or integers for an int: converting arguments in ctypes would take as
    long as the rest of the call.
    """
    if not _DONT_WAIT:
        return None
    try:
        function = getattr(ctypes.PyDLL(None, use_errno=name == "recv"), name)
    except (AttributeError, OSError):  # a platform without it
        return None
    function.restype = ctypes.c_ssize_t if name != "poll" else ctypes.c_int
    return function


_poll, _send, _recv = map(_c_function, ("poll", "send", "recv"))
_c_size = ctypes.c_size_t
_ONE = ctypes.c_ulong(1)


def is_plain(sock: socket.socket) -> bool:
    """Return whether the functions of this module work with a socket.

    Not with TLS, nor with sockets of gevent and the like, which wait in their own way.
    """
    return (
        type(sock).__module__ == "socket"
        and sys.maxsize > 2**32
        and None not in (_poll, _send, _recv)
    )


def make_send(sock: socket.socket) -> Callable[[Buffer], int]:
    """Return a function that sends as many bytes as the socket accepts, and returns how many.

    It raises BlockingIOError if that is none, and OSError if sending failed.
    """
    send, fileno = sock.send, sock.fileno  # -1 once it is closed, as by a fork

    def send_now(data: Buffer) -> int:
        if type(data) is not bytes:  # the rest of a large one
            return send(data, _DONT_WAIT)
        size: int = _send(fileno(), data, _c_size(len(data)), _DONT_WAIT)
        return size if size >= 0 else send(data, _DONT_WAIT)  # again, to raise the right error

    return send_now


def make_buffer(size: int) -> tuple[bytearray, Place]:
    """Return a buffer of `size` bytes to receive into, with its `Place`."""
    buffer = bytearray(size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return buffer, (ctypes.c_void_p(address), ctypes.c_size_t(size))


def receive(fd: int, place: Place) -> int:
    """Read what is available into a buffer; return its size in bytes.

    0 is the end of the stream; NOTHING_YET means that nothing is available.

    Raises:
        OSError: the connection is broken.
    """
    size: int = _recv(fd, *place, _DONT_WAIT)
    if size < 0 and (number := ctypes.get_errno()) not in _NOT_NOW:
        raise OSError(number, os.strerror(number))
    return size


def poll_fd_of(fd: int) -> bytes:
    """Return a struct pollfd that polls a descriptor for reading."""
    return _POLL_FD.pack(fd, POLLIN, 0)


def make_has_input(sock: socket.socket) -> Callable[[], object]:
    """Return a function that tells whether a socket is readable; the end of the stream counts.

    It works with any socket, but does not see bytes that TLS has decrypted already.
    """
    fd = sock.fileno()
    if is_plain(sock):
        place = ctypes.create_string_buffer(poll_fd_of(fd), _POLL_FD.size)
        return partial(_poll, place, _ONE, 0)
    poller = make_poller()
    poller.register(fd, POLLIN)
    return partial(poller.poll, 0)


def find_readable(poll_fds: Sequence[bytes]) -> list[int]:
    """Return the indexes of the readable descriptors, for any kind of socket.

    One system call for all of them, which never waits.
    """
    if not poll_fds:
        return []
    if _poll is not None:
        return [place for place, is_here in enumerate(find_input(poll_fds)) if is_here]
    poller, places = make_poller(), {}
    for place, poll_fd in enumerate(poll_fds):
        fd = _POLL_FD.unpack(poll_fd)[0]
        poller.register(fd, POLLIN)
        places[fd] = place
    return [places[fd] for fd, _ in poller.poll(0)]


def find_input(poll_fds: Sequence[bytes]) -> Iterator[bool]:
    """Yield for each descriptor whether it is readable; yield nothing if none is.

    One system call for all of them.
    """
    places = ctypes.create_string_buffer(b"".join(poll_fds), len(poll_fds) * _POLL_FD.size)
    if _poll(places, ctypes.c_ulong(len(poll_fds)), 0):
        for *_, here in _POLL_FD.iter_unpack(places.raw):
            yield bool(here)
