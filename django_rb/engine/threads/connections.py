"""Connections of threads: opened by redis-py, then moved by the engine itself.

redis-py sets a connection up (address, TLS, ACL, HELLO, SELECT, CLIENT SETINFO, credential
providers, unix sockets); from then on the engine moves the bytes on its socket itself.
`_socket_of` is the one place of this package that reads something private of redis-py.

On plain sockets `has_input`, `send` and `receive_now` never let go of the interpreter's lock
(see `sockets`); `recv_into`, which waits, does. TLS, gevent and Windows use the methods of
their sockets: `Connection` looks at its socket.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any, cast

from ..nodes.node import Node
from ..protocol.reader import ReplyReader
from ..sockets import (
    NOTHING_YET,
    find_input,
    is_plain,
    make_buffer,
    make_has_input,
    make_send,
    poll_fd_of,
    receive,
)

# Seconds for which a read waits in the kernel; then poll() waits. While one node is waited for
# so, no other is heard; and after a signal Python begins a read anew, where poll() counts on.
KERNEL_WAIT_SECONDS = 0.005

# Bytes that a connection reads at a time; READ_SIZE once that was not enough.
FIRST_READ_SIZE, READ_SIZE = 4096, 65536

# What `Connection.send` raises when the socket takes nothing now.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _socket_of(connection: Any) -> socket.socket:
    return cast(socket.socket, connection._sock)  # noqa: SLF001 (the one exception)


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
        self.is_plain = is_plain(sock)
        self.poll_fd = poll_fd_of(self.fd)
        self.has_input = make_has_input(sock)
        self.recv_into = sock.recv_into
        # TLS takes a whole record from the socket, where poll() no more sees the rest of it.
        self._use_buffer(READ_SIZE if self.is_tls else FIRST_READ_SIZE)
        self.reader = ReplyReader()
        # No methods of its own: a connection that its owner drops is closed at once.
        if self.is_plain:
            _let_wait(sock, node.socket_timeout)
            self.send = make_send(sock)
        else:
            sock.settimeout(0)
            self.send = sock.send

    def _use_buffer(self, size: int) -> None:
        self.buffer, self._place = make_buffer(size)

    def receive_now(self) -> int:
        """Read into the buffer what is here; return its size in bytes. Never waits.

        0 is the end of the stream, NOTHING_YET where nothing is here.
        """
        if self.is_plain:
            return receive(self.fd, self._place)
        try:
            return self.recv_into(self.buffer, len(self.buffer))  # gevent wants a size
        except WOULD_BLOCK:
            return NOTHING_YET

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
        found = find_input([each.poll_fd for each in plain])
        ready += [each for each, is_here in zip(plain, found, strict=False) if is_here]
    return ready
