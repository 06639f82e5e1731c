"""A TCP proxy in front of one node that does to its bytes whatever a test wants.

    with Proxy(("127.0.0.1", 6379)) as proxy:
        with proxy.tampering(replies=reset_after(3)):
            …

What becomes of the bytes of one direction of one connection is decided by a `Tamper`, an
async function that gets the bytes as they come, passes on what it likes and raises
`HangUp` to end the connection. The functions below make the usual ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

import hiredis

from django_rb.engine.polling import make_poller

T = TypeVar("T")

READ_SIZE = 65536
STOP_SECONDS = 10.0
# A handshake on the loopback is over in microseconds; one that is not is in the black hole.
HANDSHAKE_SECONDS = 0.05
MOST_FILLERS = 256

Send = Callable[[bytes], Awaitable[None]]
Tamper = Callable[[Send, bytes], Awaitable[None]]
MakeTamper = Callable[[], Tamper]
"""Makes the tamper of one direction of one connection, which may count its bytes."""


class HangUp(Exception):
    """The connection ends here."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


async def pass_on(send: Send, data: bytes) -> None:
    """Change nothing."""
    await send(data)


async def swallow(send: Send, data: bytes) -> None:
    """Let nothing through."""


def hang_up(*, reset: bool = False) -> Tamper:
    """End the connection, with FIN or with RST, once there is something to pass on."""

    async def tamper(send: Send, data: bytes) -> None:
        raise HangUp(reset=reset)

    return tamper


def after(count: int, then: Tamper) -> MakeTamper:
    """Pass `count` bytes, and give whatever follows, if only b"", to `then`."""

    def make() -> Tamper:
        left = count

        async def tamper(send: Send, data: bytes) -> None:
            nonlocal left
            passed, rest = data[:left], data[left:]
            left -= len(passed)
            if passed:
                await send(passed)
            if not left:
                await then(send, rest)

        return tamper

    return make


def cut_after(count: int) -> MakeTamper:
    """End the connection (FIN) after so many bytes."""
    return after(count, hang_up())


def reset_after(count: int) -> MakeTamper:
    """Reset the connection (RST) after so many bytes."""
    return after(count, hang_up(reset=True))


def stall_after(count: int) -> MakeTamper:
    """Say no more after so many bytes, and keep the connection."""
    return after(count, swallow)


def from_byte(count: int, then: Tamper, before: Tamper = pass_on) -> MakeTamper:
    """Give the first `count` bytes to one tamper and what comes after them to another."""

    def make() -> Tamper:
        left = count

        async def tamper(send: Send, data: bytes) -> None:
            nonlocal left
            if left:
                left -= len(data)
                await before(send, data)
            else:
                await then(send, data)

        return tamper

    return make


def instead(said: bytes) -> MakeTamper:
    """Say something else in place of whatever comes first, and nothing after it."""

    def make() -> Tamper:
        to_say = [said]

        async def tamper(send: Send, data: bytes) -> None:
            if to_say:
                await send(to_say.pop())

        return tamper

    return make


def added(said: bytes) -> MakeTamper:
    """Say something more after whatever comes."""

    async def tamper(send: Send, data: bytes) -> None:
        await send(data + said)

    return lambda: tamper


def preceded(said: bytes) -> MakeTamper:
    """Say something more before whatever comes."""

    async def tamper(send: Send, data: bytes) -> None:
        await send(said + data)

    return lambda: tamper


def without_the_last(count: int) -> MakeTamper:
    """Leave the last bytes of whatever comes out."""

    async def tamper(send: Send, data: bytes) -> None:
        if len(data) > count:
            await send(data[:-count])

    return lambda: tamper


def delayed(seconds: float) -> MakeTamper:
    """Pass everything on a little later."""

    async def tamper(send: Send, data: bytes) -> None:
        await asyncio.sleep(seconds)
        await send(data)

    return lambda: tamper


def dripping(seconds: float) -> MakeTamper:
    """Pass a byte at a time, with a pause before each."""

    async def tamper(send: Send, data: bytes) -> None:
        for position in range(len(data)):
            await asyncio.sleep(seconds)
            await send(data[position : position + 1])

    return lambda: tamper


def only_first(make_tamper: MakeTamper, others: Tamper = pass_on) -> MakeTamper:
    """Tamper with one connection, the first that has something to say; `others` come next."""
    unused = [make_tamper]

    def make() -> Tamper:
        return unused.pop()() if unused else others

    return make


class _Plan:
    """What is done to every connection from now on, in either direction."""

    def __init__(self, requests: MakeTamper | None, replies: MakeTamper | None) -> None:
        self.makers = {"requests": requests, "replies": replies}


class Proxy:
    """Stands in front of one node, on a port of this machine that it keeps to its end.

    Everything runs on one event loop in a thread of its own; the methods are for others.

    Args:
        upstream: host and port of the node.
        address: where to listen; on Linux any of 127.0.0.0/8.
        port: the port there, 0 for any.

    Attributes:
        port: where the proxy listens.
        accepted: how many connections were accepted so far.
        most_open: how many connections there were at a time, at most.
        commands: what clients said, over all connections, in the order of its coming.
        replied: how many bytes the node said.
    """

    def __init__(
        self, upstream: tuple[str, int], address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._upstream = upstream
        self.address = address
        self._place = _bound((address, port))  # nobody else gets the port
        self.port: int = self._place.getsockname()[1]
        self.accepted = 0
        self.most_open = 0
        self.commands: list[list[bytes]] = []
        self.replied = 0
        self._plan = _Plan(None, None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], asyncio.Future[bool]] = {}

    @property
    def host(self) -> dict[str, Any]:
        """The proxy as a node in HOSTS."""
        return {"host": self.address, "port": self.port}

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._place.close()

    def names(self) -> list[bytes]:
        """Return the names of the commands that came, but for those of the handshake."""
        handshake = {b"AUTH", b"CLIENT", b"HELLO", b"SELECT"}
        return [command[0] for command in self.commands if command[0] not in handshake]

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    # What a test does to it.

    @contextlib.contextmanager
    def tampering(
        self, *, requests: MakeTamper | None = None, replies: MakeTamper | None = None
    ) -> Iterator[None]:
        """Tamper with what passes, on connections old and new, until the block ends."""
        before, self._plan = self._plan, _Plan(requests, replies)
        try:
            yield
        finally:
            self._plan = before

    def hang_up(self, *, reset: bool = False) -> None:
        """End all connections, with FIN or RST. Returns when they have ended."""
        self._do(self._hang_up(reset=reset))

    def listen(self) -> None:
        """Accept connections."""
        self._do(self._listen())

    def refuse(self) -> None:
        """End all connections and refuse new ones."""
        self._do(self._refuse())

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections until the block ends."""
        self.refuse()
        try:
            yield
        finally:
            self.listen()

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """Let attempts to connect hang, as if packets went nowhere, until the block ends.

        A listening socket whose queue is full does that: the kernel drops what comes.
        """
        self.refuse()
        with contextlib.ExitStack() as stack:
            stack.callback(self.listen)
            hole = stack.enter_context(_bound((self.address, self.port)))
            hole.listen(0)
            while not _hangs(filler := stack.enter_context(socket.socket()), self._place):
                assert filler.fileno() < hole.fileno() + MOST_FILLERS, "The hole has no end"
            yield

    # What happens on the loop.

    def _run(self) -> None:
        with contextlib.closing(self._loop) as loop:
            loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_SECONDS)

    async def _listen(self) -> None:
        self._listener = listener = _bound((self.address, self.port))
        listener.listen(128)
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may have gone again
            client, _ = listener.accept()
            self.accepted += 1
            task = self._loop.create_task(self._serve(client))
            self._connections[task] = self._loop.create_future()
            self.most_open = max(self.most_open, self.open)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._hang_up(reset=False)

    async def _hang_up(self, *, reset: bool) -> None:
        connections = dict(self._connections)
        for over in connections.values():
            if not over.done():
                over.set_result(reset)
        if connections:
            await asyncio.wait(connections)

    async def _serve(self, client: socket.socket) -> None:
        """Serve one connection until either side, a tamper or the test ends it."""
        task = asyncio.current_task()
        assert task is not None
        over = self._connections[task]
        reset = False
        with client, socket.socket() as node:
            for sock in (client, node):
                sock.setblocking(False)
                # What is said at once arrives at once.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                await self._loop.sock_connect(node, self._upstream)
                pumps = [
                    self._loop.create_task(self._pump("requests", client, node)),
                    self._loop.create_task(self._pump("replies", node, client)),
                ]
                ends: list[asyncio.Future[Any]] = [over, *pumps]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                results = await asyncio.gather(*pumps, return_exceptions=True)
                hang_ups = [end.reset for end in results if isinstance(end, HangUp)]
                reset = any(hang_ups) or (over.done() and over.result())
            if reset:
                linger = struct.pack("ii", 1, 0)  # a close() that resets instead of ending
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)  # FIN, even if not all was read
        over.cancel()
        del self._connections[task]

    async def _pump(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        loop = self._loop
        parser = hiredis.Reader(notEnoughData=Ellipsis)
        plan: _Plan | None = None
        tamper: Tamper = pass_on

        async def send(data: bytes) -> None:
            await loop.sock_sendall(sink, data)

        while data := await loop.sock_recv(source, READ_SIZE):
            if direction == "requests":
                parser.feed(data)
                self.commands += iter(parser.gets, Ellipsis)
            else:
                self.replied += len(data)
            if plan is not self._plan:
                plan = self._plan
                make_tamper = plan.makers[direction]
                tamper = make_tamper() if make_tamper else pass_on
            await tamper(send, data)


def _bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock


def _hangs(sock: socket.socket, place: socket.socket) -> bool:
    """Begin to connect; return whether that hangs."""
    sock.setblocking(False)
    sock.connect_ex(place.getsockname())
    poller = make_poller()
    poller.register(sock.fileno(), 4)
    return not poller.poll(HANDSHAKE_SECONDS * 1000)
