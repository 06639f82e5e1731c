"""Connections to nodes: opened by redis-py, kept in one pool per node, never shared.

redis-py sets a connection up (address, TLS, ACL, HELLO, SELECT, CLIENT SETINFO, credential
providers, unix sockets); from then on the engine moves the bytes on its socket itself.
This is the only room that knows redis-py's connections and pools, and `_socket_of` is the
one place in the project that reads something private of redis-py.

A pool is a list used as a stack: `append` and `pop` are atomic, so taking a connection
and giving it back need no lock. A connection in the list is idle and owes nobody a reply;
whoever pops it is its only owner. One that is not given back is closed, by its owner or
by the garbage collector.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

import redis
from hiredis import Reader

from .errors import COMPLAINTS, NOT_READY, OUTDATED, at_node, reply_error
from .exchange import make_reader
from .handshake import conceal, merge
from .health import DEFAULT_HEALTH, Health, HealthChanges, HealthOptions, check_health
from .hosts import HostInfo

DEFAULT_SOCKET_TIMEOUT = 2.0
DEFAULT_SOCKET_CONNECT_TIMEOUT = 1.0

# Seconds for which a read waits in the kernel; then poll() waits. While one node is waited for
# so, no other is heard; and after a signal Python begins a read anew, where poll() counts on.
MOMENT = 0.005

# Bytes that a connection reads at a time; READ_SIZE once that was not enough.
FIRST_READ_SIZE, READ_SIZE = 4096, 65536

POLLIN, POLLOUT = 1, 4  # the values of poll(2) everywhere; select lacks them on some platforms

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # lacking on Windows

# What `Connection.send` and `receive` raise when the socket takes or has nothing now.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Poller(Protocol):
    """What the engine uses of select.poll()."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor."""

    def modify(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor for other events."""

    def unregister(self, fd: int, /) -> None:
        """Watch a descriptor no more."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Return (descriptor, events) for those that are ready, after `timeout` ms at most."""


class SelectorPoller:
    """select.poll() for platforms that have none, made of the best of `selectors`."""

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
        """Watch a descriptor no more."""
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
    """Return a poll object. Looked up late, so that gevent's patching is seen."""
    poll = getattr(select, "poll", None)
    return SelectorPoller() if poll is None else cast(Poller, poll())


def _socket_of(connection: Any) -> socket.socket:
    return cast(socket.socket, connection._sock)  # noqa: SLF001 (the one exception)


def _can_wait(sock: socket.socket) -> bool:
    """Return whether a read may wait in the kernel, which spares a poll() before it.

    Not with TLS, and not with the sockets of gevent and its like, which wait otherwise.
    """
    return type(sock).__module__ == "socket" and _DONT_WAIT != 0 and sys.maxsize > 2**32


def _let_wait(sock: socket.socket, socket_timeout: float | None) -> None:
    seconds = MOMENT if socket_timeout is None else min(MOMENT, socket_timeout)
    sock.settimeout(None)
    timeval = struct.pack("ll", 0, max(1, round(seconds * 1_000_000)))  # a struct timeval
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)


class Connection:
    """One set-up connection. It has one owner at a time.

    Attributes:
        complaints: error replies that tell of the node, and not of a command.
        reader: the parser of its replies; empty whenever the connection is idle.
        fd: its descriptor; -1 once it is closed.
        send: ``send(data, flags)`` writes what the socket takes of some bytes and returns
            how many; raises WOULD_BLOCK where that is none.
        buffer: what is received into.
        receive: ``receive(buffer)`` reads as many bytes as are here and have room, and returns
            how many; 0 is the end of the stream; raises WOULD_BLOCK where none are here.
        flags: what makes `send` return at once.
        can_wait: `receive` waits in the kernel for a MOMENT, or for a shorter
            `socket_timeout`, and then raises BlockingIOError.
        is_tls: decrypted bytes may wait in the connection where poll() does not see them.
        poll: waits up to a number of milliseconds for something to read; false for nothing.
    """

    __slots__ = (
        "__weakref__", "_redis_connection", "buffer", "can_wait", "complaints", "fd", "flags",
        "is_tls", "poll", "reader", "receive", "send",
    )  # fmt: skip

    def __init__(self, redis_connection: Any, socket_timeout: float | None) -> None:
        self._redis_connection = redis_connection
        sock = _socket_of(redis_connection)
        self.can_wait = _can_wait(sock)
        if self.can_wait:
            _let_wait(sock, socket_timeout)
        else:
            sock.settimeout(0)
        self.flags = _DONT_WAIT if self.can_wait else 0
        self.fd = sock.fileno()
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self.send = sock.send
        self.receive = sock.recv_into
        # TLS takes a whole record from the socket, where poll() no more sees the rest of it.
        self.buffer = bytearray(READ_SIZE if self.is_tls else FIRST_READ_SIZE)
        self.complaints: list[Exception] = []
        self.reader: Reader = make_reader(partial(to_error, self.complaints))
        poller = make_poller()
        poller.register(self.fd, POLLIN)
        self.poll = poller.poll

    def receive_now(self) -> int:
        """Do what `receive` does into the buffer, but never wait."""
        # A size of 0 is all of the buffer, but to gevent's TLS sockets.
        return self.receive(self.buffer, len(self.buffer), self.flags)

    def make_room(self, size: int) -> None:
        """Read more at a time from now on, if the `size` bytes of a read filled the buffer."""
        if size == len(self.buffer) < READ_SIZE:
            self.buffer = bytearray(READ_SIZE)

    def close(self) -> None:
        """Close the connection. Does nothing the second time."""
        if self.fd >= 0:
            self.fd = -1
            self._redis_connection.disconnect()


def to_error(complaints: list[Exception], text: str) -> Exception:
    """Return the exception for an error reply; keep it if it is a complaint."""
    error = reply_error(text)
    if isinstance(error, COMPLAINTS):
        complaints.append(error)
    return error


class PoolIsFull(redis.exceptions.MaxConnectionsError):
    """All connections that POOL_OPTIONS["max_connections"] allows for are in use."""


class AioPool(Protocol):
    """What a node knows of its pools on event loops."""

    def close_idle_soon(self) -> None:
        """From any thread: let the loop close what is idle."""


class Node:
    """One node of a cluster and its pool of connections.

    Args:
        info: where it is.
        options: POOL_OPTIONS: `socket_timeout` and `socket_connect_timeout` in seconds,
            `max_connections`, and every option of redis-py's connections.
        health_options: when it counts as down.
        changes: where changes of its health are put down.

    Attributes:
        kwargs: the arguments of redis-py's connection classes. They hold its secrets.
        idle: the connections that nobody uses.
        aio_pools: the pools that event loops have for it, by the id() of the loop.
        health: when it may be asked. Where that is well, it need not be looked at.
        is_plain: the node is well, and its connections can wait in the kernel and say
            nothing that was not asked for.
    """

    def __init__(
        self,
        info: HostInfo,
        options: Mapping[str, Any] | None = None,
        health_options: HealthOptions | None = None,
        changes: HealthChanges | None = None,
    ) -> None:
        self.info = info
        self.host_id = info.host_id
        self.address = info.address
        kwargs = {
            "protocol": 2,
            "socket_timeout": DEFAULT_SOCKET_TIMEOUT,
            "socket_connect_timeout": DEFAULT_SOCKET_CONNECT_TIMEOUT,
            **(options or {}),
        }
        if not info.ssl:
            kwargs = {name: v for name, v in kwargs.items() if not name.startswith("ssl_")}
        if info.unix_socket_path is not None:
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("socket_keepalive")}
        self.max_connections: int | None = kwargs.pop("max_connections", None)
        self.kwargs = conceal(merge(kwargs, info.connection_kwargs))
        self.socket_timeout: float | None = self.kwargs["socket_timeout"]
        self.socket_connect_timeout: float | None = self.kwargs["socket_connect_timeout"]
        self.has_pushes = str(self.kwargs["protocol"]) == "3"
        self.is_plain = False  # until a connection has shown that it can wait
        self._can_wait = False
        self.health = Health(
            info.host_id,
            info.address,
            health_options or check_health(DEFAULT_HEALTH),
            self.open_timeout,
            changes or HealthChanges(),
        )
        timeout = self.socket_timeout
        self.patience = None if timeout is None else timeout * 1000  # as poll() takes it
        self.idle: list[Connection] = []
        self.aio_pools: weakref.WeakValueDictionary[int, AioPool] = (
            weakref.WeakValueDictionary()
        )
        # Weak, so that a connection whose owner was interrupted is closed all the same.
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        # Reentrant, as a signal handler may open connections as well.
        self._opening = threading.RLock()
        self._being_opened = 0
        _nodes.add(self)

    def __repr__(self) -> str:
        return f"<Node {self.host_id}: {self.address}>"

    @property
    def open_timeout(self) -> float | None:
        """How long opening a connection may take, in seconds; None without limit."""
        if self.socket_timeout is None or self.socket_connect_timeout is None:
            return None
        return self.socket_timeout + self.socket_connect_timeout

    def take(self) -> Connection | None:
        """Return an idle connection to be looked at before use, or None if there is none."""
        try:
            return self.idle.pop()
        except IndexError:
            return None

    def take_usable(self) -> Connection | None:
        """Return an idle connection that is good for use, or None if there is none.

        Whatever can be read from an idle connection is the end of the stream or a reply
        that nobody asked for; either way no question may be sent on it.
        """
        idle = self.idle
        try:
            while (connection := idle.pop()).poll(0):
                connection.close()
        except IndexError:
            return None
        return connection

    def give_back(self, connection: Connection) -> None:
        """Make a connection idle: its last reply was read, and nobody else refers to it."""
        if (connection.complaints or not self.health.is_well) and self.answered(
            connection.complaints
        ):
            connection.close()
            self.close()
        else:
            self.idle.append(connection)

    def answered(self, complaints: list[Exception]) -> bool:
        """Take note of an answer and of what was said besides, which is cleared.

        Returns whether the node's connections are outdated: a new one may lead elsewhere,
        as after a failover, or log in anew.
        """
        said = complaints.copy()
        complaints.clear()
        for error in said:
            self.health.complained(error)
        self.health.answered(is_ready=not any(isinstance(error, NOT_READY) for error in said))
        self._set_plain()
        return any(isinstance(error, OUTDATED) for error in said)

    def failed(self, error: Exception) -> None:
        """Take note of a connection that failed."""
        self.health.failed(error)
        self.is_plain = False
        if self.health.is_down:  # what is idle may be dead as well, and not know it
            self.close()

    def keep(self, connection: Connection) -> None:
        """Make a connection idle that was opened and not used."""
        self.idle.append(connection)

    def _set_plain(self) -> None:
        self.is_plain = self._can_wait and not self.has_pushes and self.health.is_well

    def open(self) -> Connection:
        """Return a new connection, set up by redis-py. Blocks up to `open_timeout`.

        Raises:
            PoolIsFull: there are `max_connections`.
            redis.ConnectionError, redis.TimeoutError: naming the node.
        """
        with self._opening:
            if (
                self.max_connections is not None
                and self._count() + self._being_opened >= self.max_connections
            ):
                raise PoolIsFull(
                    at_node(
                        f"All {self.max_connections} connections are in use; raise "
                        "POOL_OPTIONS['max_connections']",
                        self.host_id,
                        self.address,
                    )
                )
            self._being_opened += 1
        connection = None
        try:
            redis_connection = self.info.connection_class(**self.kwargs)
            redis_connection.connect()  # type: ignore[no-untyped-call]
            connection = Connection(redis_connection, self.socket_timeout)
        except redis.RedisError as error:
            self.name_in(error)
            raise
        finally:
            with self._opening:  # at once: it is counted once, and nobody is counting now
                self._being_opened -= 1
                if connection is not None:
                    self._all.add(connection)
        self._can_wait = connection.can_wait
        self._set_plain()
        return connection

    def name_in(self, error: redis.RedisError) -> None:
        """Add the node to what redis-py says of a connection that failed."""
        error.args = (at_node(error, self.host_id, self.address),)

    def close(self) -> None:
        """Close every idle connection. Those in use are closed by who uses them."""
        while (connection := self.take()) is not None:
            connection.close()
        for reference in self.aio_pools.valuerefs():
            if (pool := reference()) is not None:
                pool.close_idle_soon()

    def _count(self) -> int:
        return sum(connection.fd >= 0 for connection in list(self._all))

    def make_pool(
        self, pool_cls: type[redis.ConnectionPool] = redis.ConnectionPool
    ) -> redis.ConnectionPool:
        """Return a pool of redis-py's own for this node, for clients that need one."""
        options = dict(self.kwargs)
        if self.max_connections is not None:  # pools have defaults of their own
            options["max_connections"] = self.max_connections
        return pool_cls(connection_class=self.info.connection_class, **options)

    def _start_over(self) -> None:
        """In a forked child: the parent's connections are not ours to use."""
        self.idle = []
        self.aio_pools = weakref.WeakValueDictionary()
        connections, self._all = list(self._all), weakref.WeakSet()
        self._opening = threading.RLock()
        self._being_opened = 0
        self.health.start_over()
        for connection in connections:
            connection.close()  # only the descriptor: redis-py knows that it was forked


_nodes: weakref.WeakSet[Node] = weakref.WeakSet()


def _start_over_after_fork() -> None:
    for node in list(_nodes):
        node._start_over()  # noqa: SLF001 (same room)


def register_at_fork(hook: Callable[[], None]) -> None:
    """Call `hook` in every forked child, before anything else is done there."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=hook)


register_at_fork(_start_over_after_fork)
