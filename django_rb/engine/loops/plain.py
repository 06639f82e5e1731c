"""The transport for plain sockets, which never releases the GIL.

asyncio's transports release it for each send and receive, and if other threads compute,
getting it back takes 5 ms for each of them. This one uses the functions of `sockets`; only the
loop's own wait releases the GIL. When the loop wakes up for one socket, data for other sockets
is read as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextvars import Context
from typing import Protocol

from ..protocol.encoding import Buffer
from ..sockets import (
    find_input,
    is_plain,
    make_buffer,
    make_has_input,
    make_send,
    poll_fd_of,
    receive,
)
from ..spinning import Spin

_READ_SIZE = 65536  # bytes
_READS = 4  # reads from one socket before the loop runs other tasks


class Receiver(Protocol):
    """The protocol of a transport."""

    def data_received(self, data: Buffer, size: int = -1) -> None:
        """Process what the node sent: the first `size` bytes of `data`."""

    def eof_received(self) -> None:
        """Handle the end of the stream."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the connection."""

    def pause_writing(self) -> None:
        """Stop writing for now."""

    def resume_writing(self) -> None:
        """Resume writing."""


class Inbox:
    """The receive buffer that the plain sockets of one loop share.

    Attributes:
        buffer, place: see `sockets.make_buffer`.
        expecting: the transports that have sent something and received nothing since.
        spin: decides whether to spin before a wait.
    """

    def __init__(self) -> None:
        self.buffer, self.place = make_buffer(_READ_SIZE)
        self.expecting: set[PlainTransport] = set()
        self.spin = Spin()

    def read_what_came(self) -> None:
        """Read from all transports that expect something what is available by now."""
        expecting = list(self.expecting)
        found = find_input([transport.poll_fd for transport in expecting])
        for transport, is_here in zip(expecting, found, strict=False):
            if is_here:
                transport.read()


def take_over(
    writer: asyncio.StreamWriter,
    loop: asyncio.AbstractEventLoop,
    inbox: Inbox,
    receiver: Receiver,
) -> PlainTransport | None:
    """Move the socket of a stream to a transport of its own; None if it is not plain."""
    if writer.get_extra_info("ssl_object") is not None:
        return None
    # asyncio cannot detach a socket: it closes its own descriptor, and ours stays open.
    sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    try:
        if not is_plain(sock):
            sock.close()
            return None
        sock.setblocking(False)
        writer.transport.abort()
        return PlainTransport(sock, loop, inbox, receiver)
    except BaseException:
        sock.close()
        raise


class PlainTransport:
    """The transport of one plain socket.

    Attributes:
        poll_fd: see `sockets.find_input`.
        has_input: see `sockets.make_has_input`.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        inbox: Inbox,
        receiver: Receiver,
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._inbox = inbox
        self._receiver = receiver
        self._send = make_send(sock)
        self._unsent: Buffer = b""
        self._is_closing = False
        self.poll_fd = poll_fd_of(self._fd)
        self.has_input = make_has_input(sock)
        loop.add_reader(self._fd, self._readable)

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the socket has not accepted yet."""
        return len(self._unsent)

    def write(self, data: Buffer) -> None:
        """Send what the socket accepts. Pause the receiver until the rest is sent, if any."""
        try:
            size = self._send(data)
        except BlockingIOError:
            size = 0
        except OSError as error:
            self._loop.call_soon(self._lose, error, context=Context())
            return
        self._inbox.expecting.add(self)
        if size < len(data):
            self._unsent = memoryview(data)[size:]
            self._loop.add_writer(self._fd, self._writable)
            self._receiver.pause_writing()

    def abort(self) -> None:
        """Close it at once. Does nothing the second time."""
        if not self._is_closing:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
                self._loop.remove_writer(self._fd)
            self.let_go()

    def let_go(self) -> None:
        """Close the descriptor without using the loop."""
        self._is_closing = True
        self._inbox.expecting.discard(self)
        self._sock.close()

    def _lose(self, error: Exception) -> None:
        if not self._is_closing:
            self._receiver.connection_lost(error)

    def _writable(self) -> None:
        try:
            size = self._send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = memoryview(self._unsent)[size:]
        if not self._unsent:
            self._loop.remove_writer(self._fd)
            self._receiver.resume_writing()

    def _readable(self) -> None:
        if self.read() and self._inbox.expecting:
            self._inbox.read_what_came()

    def read(self) -> bool:
        """Read what is available; return whether something was."""
        inbox, receiver = self._inbox, self._receiver
        for _ in range(_READS):
            if self._is_closing:
                return False
            try:
                size = receive(self._fd, inbox.place)
            except OSError as error:
                self._lose(error)
                return False
            if size < 0:
                return False
            inbox.expecting.discard(self)
            if size == 0:
                receiver.eof_received()
                return False
            try:
                receiver.data_received(inbox.buffer, size)
            except Exception as error:  # noqa: BLE001 (the awaiting round has it already)
                # As asyncio's transports do: this may run inside another task's call.
                context = {"message": "data_received() failed", "exception": error}
                self._loop.call_exception_handler({**context, "protocol": receiver})
            if size < _READ_SIZE:
                break
        return True
