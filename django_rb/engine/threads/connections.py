"""Connections for threads: redis-py opens them, and the engine uses their sockets.

redis-py sets a connection up (address, TLS, ACL, HELLO, SELECT, CLIENT SETINFO, credential
providers, unix sockets); from then on the engine sends and receives on its socket itself.
`_socket_of` is the only place in this package that reads a private attribute of redis-py.

On plain sockets `has_input`, `send` and `receive_now` never release the GIL (see `sockets`);
`recv_into`, which waits, does. With TLS, gevent and Windows, the methods of the socket itself
are used.
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

# Seconds for which a read waits in the kernel; then poll() waits. It is short because no other
# node is served during such a read, and because Python restarts a read after a signal with its
# full timeout, but not poll().
KERNEL_WAIT_SECONDS = 0.005

# Bytes that a connection reads at a time: READ_SIZE once the first size was not enough.
FIRST_READ_SIZE, READ_SIZE = 4096, 65536

# The exceptions of `Connection.send` if the socket accepts nothing now.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _socket_of(connection: Any) -> socket.socket:
    return cast(socket.socket, connection._sock)  # noqa: SLF001 (the one exception)


def _let_wait(sock: socket.socket, socket_timeout: float | None) -> None:
    seconds = min(KERNEL_WAIT_SECONDS, socket_timeout or KERNEL_WAIT_SECONDS)
    sock.settimeout(None)
    timeval = struct.pack("ll", 0, max(1, round(seconds * 1_000_000)))  # a struct timeval
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)


class Connection:
    """One connection that is set up. It has one owner at a time.

    Attributes:
        node: its node.
        epoch: the node's epoch when it was opened.
        reader: the parser of its replies; empty whenever the connection is idle.
        fd: its descriptor; -1 once it is closed.
        buffer: the buffer for received bytes.
        poll_fd: its struct pollfd, for `with_input`.
        has_input: ``has_input()`` is true if something can be read, the end of the stream
            included. It never waits, and does not see bytes that TLS has decrypted already.
        send: ``send(data)`` writes as many bytes as the socket accepts and returns how
            many; raises WOULD_BLOCK if that is none.
        recv_into: the method of its socket.
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
        # TLS takes a whole record from the socket, so poll() does not see the rest of it.
        self._use_buffer(READ_SIZE if self.is_tls else FIRST_READ_SIZE)
        self.reader = ReplyReader()
        # No bound methods of this object: without a reference cycle, a connection that its
        # owner drops is closed at once.
        if self.is_plain:
            _let_wait(sock, node.socket_timeout)
            self.send = make_send(sock)
        else:
            sock.settimeout(0)
            self.send = sock.send

    def _use_buffer(self, size: int) -> None:
        self.buffer, self._place = make_buffer(size)

    def receive_now(self) -> int:
        """Read what is available into the buffer; return its size in bytes. Never waits.

        0 is the end of the stream; NOTHING_YET means that nothing is available.
        """
        if self.is_plain:
            return receive(self.fd, self._place)
        try:
            return self.recv_into(self.buffer, len(self.buffer))  # gevent needs the size
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

    It takes one system call for all that are plain, in each round of a batch.
    """
    ready = [each for each in connections if not each.is_plain and each.has_input()]
    plain = [each for each in connections if each.is_plain]
    if plain:
        found = find_input([each.poll_fd for each in plain])
        ready += [each for each, is_here in zip(plain, found, strict=False) if is_here]
    return ready
