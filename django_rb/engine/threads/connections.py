"""Connections of threads: opened by redis-py, then moved by the engine itself.

redis-py sets a connection up (address, TLS, ACL, HELLO, SELECT, CLIENT SETINFO, credential
providers, unix sockets); from then on the engine moves the bytes on its socket itself.
`_socket_of` is the one place of this package that reads something private of redis-py.

A system call that never blocks need not let go of the interpreter's lock: where other threads
compute, getting it back takes 5 ms for each of them. So on plain sockets `has_input`, `send`
and `receive_now` call the C library and keep the lock; `recv_into`, which waits, lets go of it.
TLS, gevent and Windows use the methods of their sockets: `Connection` looks at its socket.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from ..nodes.node import Node
from ..polling import POLL_FD, POLLIN, c_function, c_poll, make_poller
from ..protocol.encoding import Buffer
from ..protocol.exchange import ReplyReader

# Seconds for which a read waits in the kernel; then poll() waits. While one node is waited for
# so, no other is heard; and after a signal Python begins a read anew, where poll() counts on.
KERNEL_WAIT_SECONDS = 0.005

# Bytes that a connection reads at a time; READ_SIZE once that was not enough.
FIRST_READ_SIZE, READ_SIZE = 4096, 65536

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # lacking on Windows

# What `Connection.send` raises when the socket takes nothing now.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# What `Connection.receive_now` returns when the socket has nothing now.
NOTHING_YET = -1


_NOT_NOW = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR})


_send, _recv = map(c_function, ("send", "recv"))
_c_size = ctypes.c_size_t
_ONE = ctypes.c_ulong(1)


def _socket_of(connection: Any) -> socket.socket:
    return cast(socket.socket, connection._sock)  # noqa: SLF001 (the one exception)


def _is_plain(sock: socket.socket) -> bool:
    """Return whether a socket is the system's own, and may be moved by the C library.

    Not with TLS, and not with the sockets of gevent and its like, which wait otherwise.
    """
    return (
        type(sock).__module__ == "socket"
        and sys.maxsize > 2**32
        and None not in (c_poll, _send, _recv)
    )


def _let_wait(sock: socket.socket, socket_timeout: float | None) -> None:
    seconds = min(KERNEL_WAIT_SECONDS, socket_timeout or KERNEL_WAIT_SECONDS)
    sock.settimeout(None)
    timeval = struct.pack("ll", 0, max(1, round(seconds * 1_000_000)))  # a struct timeval
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)


class Connection:
    """One set-up connection. It has one owner at a time.

    Attributes:
        node, epoch: whose it is, and when it was opened.
        reader: the parser of its replies; empty whenever the connection is idle.
        fd: its descriptor; -1 once it is closed.
        buffer: what is received into.
        poll_fd: its struct pollfd, for `with_input`.
        has_input: ``has_input()`` is true if something can be read, the end of the stream
            included. It never waits. Decrypted bytes may wait where it does not see them.
        send: ``send(data)`` writes what the socket takes of some bytes and returns how
            many; raises WOULD_BLOCK where that is none.
        recv_into: that of its socket.
        is_plain: `recv_into` waits in the kernel for KERNEL_WAIT_SECONDS, or for a shorter
            `socket_timeout`; otherwise it never waits.
        is_tls: decrypted bytes may wait in the connection where poll() does not see them.
    """

    __slots__ = (
        "__weakref__", "_place", "_redis_connection", "buffer", "epoch", "fd",
        "has_input", "is_plain", "is_tls", "node", "poll_fd", "reader", "recv_into", "send",
    )  # fmt: skip

    def __init__(self, redis_connection: Any, node: Node, epoch: int) -> None:
        self._redis_connection = redis_connection
        self.node, self.epoch = node, epoch
        sock = _socket_of(redis_connection)
        self.fd = sock.fileno()
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self.is_plain = _is_plain(sock)
        self.poll_fd = POLL_FD.pack(self.fd, POLLIN, 0)
        self.recv_into = sock.recv_into
        # TLS takes a whole record from the socket, where poll() no more sees the rest of it.
        self._use_buffer(READ_SIZE if self.is_tls else FIRST_READ_SIZE)
        self.reader = ReplyReader()
        # No methods of its own: a connection that its owner drops is closed at once.
        if self.is_plain:
            _let_wait(sock, node.socket_timeout)
            place = ctypes.create_string_buffer(self.poll_fd, POLL_FD.size)
            self.has_input = partial(c_poll, place, _ONE, 0)
            self.send = _make_send(sock)
        else:
            sock.settimeout(0)
            poller = make_poller()
            poller.register(self.fd, POLLIN)
            self.has_input = partial(poller.poll, 0)
            self.send = sock.send

    def _use_buffer(self, size: int) -> None:
        buffer = bytearray(size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        place = (ctypes.c_void_p(address), ctypes.c_size_t(size))
        self.buffer, self._place = buffer, place  # both, whatever signal comes

    def receive_now(self) -> int:
        """Read into the buffer what is here; return its size in bytes. Never waits.

        0 is the end of the stream, NOTHING_YET where nothing is here.
        """
        if not self.is_plain:
            try:
                return self.recv_into(self.buffer, len(self.buffer))  # gevent wants a size
            except WOULD_BLOCK:
                return NOTHING_YET
        size: int = _recv(self.fd, *self._place, _DONT_WAIT)
        if size < 0 and (number := ctypes.get_errno()) not in _NOT_NOW:
            raise OSError(number, os.strerror(number))
        return size

    def make_room(self, size: int) -> None:
        """Read more at a time from now on, if the `size` bytes of a read filled the buffer."""
        if size == len(self.buffer) < READ_SIZE:
            self._use_buffer(READ_SIZE)

    def close(self) -> None:
        """Close the connection. Does nothing the second time."""
        if self.fd >= 0:
            self.fd = -1
            self._redis_connection.disconnect()


def with_input(connections: Sequence[Connection]) -> list[Connection]:
    """Return those connections whose `has_input()` is true.

    One system call for all that are plain: that is what most batches spend on each round.
    """
    ready = [each for each in connections if not each.is_plain and each.has_input()]
    plain = [each for each in connections if each.is_plain]
    if plain:
        size = len(plain) * POLL_FD.size
        places = ctypes.create_string_buffer(b"".join([each.poll_fd for each in plain]), size)
        if c_poll(places, ctypes.c_ulong(len(plain)), 0):
            found = POLL_FD.iter_unpack(places.raw)
            ready += [each for each, (*_, here) in zip(plain, found, strict=True) if here]
    return ready


def _make_send(sock: socket.socket) -> Callable[[Buffer], int]:
    """Return `Connection.send` for a plain socket."""
    send, fileno = sock.send, sock.fileno  # -1 once it is closed, as by a fork

    def send_now(data: Buffer) -> int:
        if type(data) is not bytes:  # the rest of a large one
            return send(data, _DONT_WAIT)
        size: int = _send(fileno(), data, _c_size(len(data)), _DONT_WAIT)
        return size if size >= 0 else send(data, _DONT_WAIT)  # once more, for the reason

    return send_now
