"""A network with a round-trip time: a proxy that keeps all bytes for half of it, each way.

python -m benchmarks.proxy 1.0 127.0.0.1:6379 127.0.0.1:6380 …

It prints the ports at which it takes connections, one for each address, as a line of JSON,
and ends with its input. One thread, one loop: what is due is sent within some 0.1 ms.
"""

from __future__ import annotations

import heapq
import json
import select
import selectors
import socket
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

RECEIVE = 1 << 18


class Proxy:
    """The loop. What is sent is small: a socket that takes no more is waited for."""

    def __init__(self, addresses: Sequence[tuple[str, int]], rtt: float) -> None:
        self.delay = rtt / 2  # seconds
        self.selector = selectors.DefaultSelector()
        self.on_the_way: list[tuple[float, int, socket.socket, bytes]] = []
        self.count = 0
        self.ports = []
        for address in addresses:
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.ports.append(listener.getsockname()[1])
            self.selector.register(listener, selectors.EVENT_READ, address)

    def serve(self) -> None:
        """Carry bytes until standard input ends."""
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            wait = self.on_the_way[0][0] - perf_counter() if self.on_the_way else None
            # The selector's own timeout counts in milliseconds.
            select.select([self.selector], [], [], wait if wait is None else max(0.0, wait))
            for key, _ in self.selector.select(0):
                if key.fileobj is sys.stdin:
                    return
                assert isinstance(key.fileobj, socket.socket)
                if isinstance(key.data, socket.socket):
                    self.receive(key.fileobj, key.data)
                else:
                    self.accept(key.fileobj, key.data)
            while self.on_the_way and self.on_the_way[0][0] <= perf_counter():
                _, _, target, chunk = heapq.heappop(self.on_the_way)
                self.send(target, chunk)

    def accept(self, listener: socket.socket, address: tuple[str, int]) -> None:
        client, _ = listener.accept()
        server = socket.create_connection(address)
        for sock, other in ((client, server), (server, client)):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(sock, selectors.EVENT_READ, other)

    def receive(self, sock: socket.socket, other: socket.socket) -> None:
        try:
            chunk = sock.recv(RECEIVE)
        except OSError:
            chunk = b""
        if not chunk:  # the end comes in its turn, as bytes do
            self.selector.unregister(sock)
        self.count += 1
        due = perf_counter() + self.delay
        heapq.heappush(self.on_the_way, (due, self.count, other, chunk))

    def send(self, target: socket.socket, chunk: bytes) -> None:
        try:
            if chunk:
                target.sendall(chunk)
            else:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # its other side has ended, too, and is told by its own end


class ProxyProcess:
    """A proxy in a process of its own.

    with ProxyProcess([("127.0.0.1", 6379)], rtt=1.0) as proxy:
        proxy.hosts  # [("127.0.0.1", 41234)]

    Args:
        rtt: round-trip time in milliseconds.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], rtt: float) -> None:
        self._command = [
            *(sys.executable, "-m", "benchmarks.proxy", str(rtt)),
            *(f"{host}:{port}" for host, port in addresses),
        ]
        self.hosts: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the parent
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.hosts = [("127.0.0.1", port) for port in ports]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate("")


def main() -> None:
    addresses = []
    for address in sys.argv[2:]:
        host, _, port = address.rpartition(":")
        addresses.append((host, int(port)))
    proxy = Proxy(addresses, float(sys.argv[1]) / 1000)
    print(json.dumps(proxy.ports), flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
