"""A network with a round-trip time: a proxy that keeps all bytes for half of it, each way.

python -m benchmarks.proxy 1.0 127.0.0.1:6379 127.0.0.1:6380 …

It prints the ports at which it takes connections, one for each address, as a line of JSON.
A line on its standard input with a number sets another round-trip time, in milliseconds; it
is answered with a line. It ends with its input.

One process, one thread, one loop. What is due is sent within microseconds of its time. The
handshake of TCP takes a round trip on a real network and none to a proxy on the same machine:
so what is first said on a connection is kept for that round trip as well.
"""

from __future__ import annotations

import heapq
import json
import os
import resource
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
SOCKETS = 10_000
PATIENCE = 60e-6  # seconds by which the kernel may wake a sleeper too late: not slept


class Side:
    """One of the two sockets of a connection, and what it could not be sent yet."""

    def __init__(self, sock: socket.socket, not_before: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.not_before = not_before  # seconds; when what comes from here left its sender
        self.unsent = bytearray()
        self.ended = False  # nothing more comes from here
        self.other: Side


class Proxy:
    """The loop."""

    def __init__(self, addresses: Sequence[tuple[str, int]], rtt: float) -> None:
        self.rtt = rtt  # seconds
        self.selector = selectors.DefaultSelector()
        self.on_the_way: list[tuple[float, int, Side, bytes]] = []
        self.room = memoryview(bytearray(RECEIVE))
        self.count = 0
        self.ports = []
        for address in addresses:
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            listener.setblocking(False)
            self.ports.append(listener.getsockname()[1])
            self.selector.register(listener, selectors.EVENT_READ, (listener, address))

    def serve(self) -> None:
        """Carry bytes until standard input ends."""
        self.selector.register(0, selectors.EVENT_READ, None)
        select_ready, wait = self.selector.select, select.select
        epoll = [self.selector]
        while True:
            # The selector's own timeout counts in milliseconds; to wait for it does not.
            if self.on_the_way:
                seconds = self.on_the_way[0][0] - perf_counter() - PATIENCE
                if seconds > 0:
                    wait(epoll, [], [], seconds)
            else:
                wait(epoll, [], [])
            for key, events in select_ready(0):
                data = key.data
                if type(data) is Side:
                    if events & selectors.EVENT_READ:
                        self.receive(data)
                    if events & selectors.EVENT_WRITE:
                        self.send(data, b"")
                elif data is None:
                    if not self.obey():
                        return
                else:
                    self.accept(*data)
            now = perf_counter()
            while self.on_the_way and self.on_the_way[0][0] <= now:
                _, _, side, chunk = heapq.heappop(self.on_the_way)
                self.send(side, chunk)

    def obey(self) -> bool:
        """Take a new round-trip time; return whether to go on."""
        line = os.read(0, 100)
        if line:
            self.rtt = float(line) / 1000
            print("ok", flush=True)
        return bool(line)

    def accept(self, listener: socket.socket, address: tuple[str, int]) -> None:
        accepted, _ = listener.accept()
        now = perf_counter()
        client = Side(accepted, now + self.rtt)
        server = Side(socket.create_connection(address), now)
        client.other, server.other = server, client
        for side in (client, server):
            self.selector.register(side.sock, selectors.EVENT_READ, side)

    def receive(self, side: Side) -> None:
        try:
            chunk = bytes(self.room[: side.sock.recv_into(self.room)])
        except BlockingIOError:
            return
        except ConnectionError:
            chunk = b""
        now = perf_counter()
        if now < side.not_before:
            now = side.not_before
        # An empty chunk is the end, and comes in its turn.
        self.count += 1
        heapq.heappush(self.on_the_way, (now + self.rtt / 2, self.count, side.other, chunk))
        if not chunk:
            side.ended = True
            self.watch(side)

    def send(self, side: Side, chunk: bytes) -> None:
        """Send what is due, or what could not be sent before; an empty chunk is the end."""
        was_waiting = bool(side.unsent)
        try:
            if was_waiting:
                side.unsent += chunk
                del side.unsent[: side.sock.send(side.unsent)]
            elif chunk:
                sent = side.sock.send(chunk)
                if sent < len(chunk):
                    side.unsent += memoryview(chunk)[sent:]
            if not side.unsent and side.other.ended and not chunk and not was_waiting:
                self.end(side)
        except BlockingIOError:
            if not was_waiting:
                side.unsent += chunk
        except OSError:
            self.end(side)
        if was_waiting != bool(side.unsent):
            self.watch(side)

    def watch(self, side: Side) -> None:
        """Look for what there is to do with a socket, and no more."""
        events = 0 if side.ended else selectors.EVENT_READ
        if side.unsent:
            events |= selectors.EVENT_WRITE
        known = side.sock.fileno() in self.selector.get_map()
        if not events:
            if known:
                self.selector.unregister(side.sock)
        elif known:
            self.selector.modify(side.sock, events, side)
        elif side.sock.fileno() >= 0:
            self.selector.register(side.sock, events, side)

    def end(self, side: Side) -> None:
        """Close a connection, both sides."""
        for each in (side, side.other):
            each.unsent.clear()
            each.ended = True
            if each.sock.fileno() >= 0:
                self.watch(each)
                each.sock.close()


class ProxyProcess:
    """A proxy in a process of its own.

    with ProxyProcess([("127.0.0.1", 6379)], rtt=1.0) as proxy:
        proxy.hosts       # [("127.0.0.1", 41234)]
        proxy.set_rtt(20)

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

    @property
    def pid(self) -> int:
        return self._process.pid

    def set_rtt(self, rtt: float) -> None:
        """Let the round trip take another time, in milliseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rtt}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


def allow_many_sockets() -> None:
    """Take two sockets for each connection of everybody: more than the usual 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS if most == resource.RLIM_INFINITY else min(SOCKETS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main() -> None:
    allow_many_sockets()
    addresses = []
    for address in sys.argv[2:]:
        host, _, port = address.rpartition(":")
        addresses.append((host, int(port)))
    proxy = Proxy(addresses, float(sys.argv[1]) / 1000)
    print(json.dumps(proxy.ports), flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
