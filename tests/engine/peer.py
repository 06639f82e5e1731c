"""A node that says exactly what a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import hiredis

Answer = Callable[["Peer", socket.socket, list[bytes]], None]


class Peer:
    """A TCP server on 127.0.0.1 that answers CLIENT with OK and leaves the rest to a test.

    `answer(peer, connection, command)` is called in a thread for each command;
    `peer.commands` lists what came, over all connections.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.commands: list[list[bytes]] = []
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def host(self) -> dict[str, Any]:
        """The peer as a node in HOSTS."""
        return {"host": "127.0.0.1", "port": self.port}

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self.connections:
            hang_up(connection)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            # What is said at once arrives at once.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        try:
            while data := connection.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not Ellipsis:
                    if command[0] == b"CLIENT":
                        connection.sendall(b"+OK\r\n")
                    else:
                        self.commands.append(command)
                        self._answer(self, connection, command)
        except OSError:
            pass
        finally:
            connection.close()


def hang_up(connection: socket.socket) -> None:
    """Close a connection, also while another thread reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
