"""What a cluster sends, for those who listen.

A tap covers a cluster's ways out: `run`, `arun`, `try_call` and `try_calls` of the cluster,
and `get_connection` of the pools of its local clients. It does so by attributes of these very
objects, and takes them away with its last listener: a cluster to which nobody listens pays
nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import redis
from hiredis import Reader

from ..engine import Cluster
from ..engine.protocol.exchange import NO_REPLY, Batch, Exchange

T = TypeVar("T")

Command = tuple[str | bytes, ...]

# What a connection says of its own accord. It holds passwords.
_NOT_TOLD = ("AUTH", "HELLO")


class Listener:
    """Is told what a cluster does, by the thread that does it."""

    def on_use(self) -> None:
        """Something is about to be sent."""

    def on_batch(self) -> None:
        """A batch begins. A command or a pipeline of a local client is one, too."""

    def on_round(self) -> None:
        """A round of a batch begins."""

    def on_command(self, host_id: int, command: Command) -> None:
        """A command was sent: its name, and its arguments as bytes."""


def add_listener(cluster: Cluster, listener: Listener) -> None:
    """Let a listener know what a cluster sends from now on. Once is enough."""
    with _lock:
        tap = _taps.get(cluster)
        if tap is None:
            tap = _taps[cluster] = _Tap(cluster)
        tap.listeners = [*(other for other in tap.listeners if other is not listener), listener]


def remove_listener(cluster: Cluster, listener: Listener) -> None:
    """Let a listener know no more."""
    with _lock:
        tap = _taps.get(cluster)
        if tap is not None:
            tap.listeners = [other for other in tap.listeners if other is not listener]
            if not tap.listeners:
                del _taps[cluster]
                tap.close()


class _Tap:
    """Refers to what it covers weakly only, as that refers to the tap."""

    def __init__(self, cluster: Cluster) -> None:
        self.listeners: list[Listener] = []
        self._cluster = weakref.ref(cluster)
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._try_call = cluster.try_call
        cluster.try_call = _go_on_with_a_batch
        self._try_calls = cluster.try_calls
        cluster.try_calls = _ask_in_a_batch
        _cover(cluster, "run", self._run)
        _cover(cluster, "arun", self._arun)
        for host_id in cluster.hosts:
            pool = cluster.get_pool_for_host(host_id)
            _cover(pool, "get_connection", partial(self._take, host_id, weakref.ref(pool)))

    def close(self) -> None:
        cluster = self._cluster()
        if cluster is not None:
            cluster.try_call = self._try_call
            cluster.try_calls = self._try_calls
            _uncover(cluster, "run")
            _uncover(cluster, "arun")
            for host_id in cluster.hosts:
                _uncover(cluster.get_pool_for_host(host_id), "get_connection")
        for connection in list(self._connections):
            _uncover(connection, "send_packed_command")

    def _tell(self, name: str, *args: Any) -> None:
        for listener in self.listeners:
            getattr(listener, name)(*args)

    def _run(
        self, batch: Batch[T], timeout: float | None = None, began: float | None = None
    ) -> T:
        cluster = self._cluster()
        assert cluster is not None
        return type(cluster).run(cluster, self._heard(batch), timeout, began)

    async def _arun(self, batch: Batch[T], timeout: float | None = None) -> T:
        cluster = self._cluster()
        assert cluster is not None
        return await type(cluster).arun(cluster, self._heard(batch), timeout)

    def _heard(self, batch: Batch[T]) -> Batch[T]:
        """Tell of a batch; return it as it is to be run."""
        self._tell("on_use")
        if not self.listeners:  # there may be none any more
            return batch
        self._tell("on_batch")
        return self._told(batch)

    def _told(self, batch: Batch[T]) -> Batch[T]:
        """Return the same batch, whose rounds and commands are told."""
        try:
            while True:
                exchanges: Sequence[Exchange] = next(batch)
                self._tell("on_round")
                for exchange in exchanges:
                    self._listen_to(exchange)
                yield exchanges
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()

    def _listen_to(self, exchange: Exchange) -> None:
        sent, reader = exchange.sent, Reader()
        exchange.may_join = False  # together with others it would be sent as another exchange

        def tell_and_go_on(size: int) -> Any:
            nonlocal reader
            assert exchange.out is not None
            if exchange.untouched:  # or it starts over, perhaps after half a command
                reader = Reader()
            self._read(exchange.host_id, reader, bytes(exchange.out[:size]))
            return sent(size)

        exchange.sent = tell_and_go_on  # type: ignore[method-assign]

    def _take(
        self,
        host_id: int,
        get_pool: Callable[[], redis.ConnectionPool | None],
        *args: Any,
        **options: Any,
    ) -> Any:
        pool = get_pool()
        assert pool is not None
        self._tell("on_use")
        connection: Any = type(pool).get_connection(pool, *args, **options)
        if self.listeners and connection not in self._connections:
            send, reader = connection.send_packed_command, Reader()

            def tell_and_send(command: Any, *args: Any, **options: Any) -> Any:
                self._tell("on_batch")
                self._tell("on_round")
                for piece in (command,) if isinstance(command, bytes | str) else command:
                    self._read(host_id, reader, piece)
                return send(command, *args, **options)

            self._connections.add(connection)
            _cover(connection, "send_packed_command", tell_and_send)
        return connection

    def _read(self, host_id: int, reader: Reader, data: bytes | str) -> None:
        """Tell the commands that become whole with some more bytes of a connection."""
        reader.feed(data)
        while (words := reader.gets()) is not False:
            name, *args = words
            command: Command = (name.decode(errors="backslashreplace"), *args)
            if str(command[0]).upper() not in _NOT_TOLD:
                self._tell("on_command", host_id, command)


def _cover(thing: object, name: str, cover: Callable[..., Any]) -> None:
    setattr(thing, name, cover)


def _uncover(thing: object, name: str) -> None:
    vars(thing).pop(name, None)


def _go_on_with_a_batch(host_id: int, command: bytes, key: bytes, only_reads: bool) -> object:
    return NO_REPLY


def _ask_in_a_batch(owners: Sequence[int], commands: Sequence[bytes]) -> None:
    return None


_lock = threading.Lock()
_taps: weakref.WeakKeyDictionary[Cluster, _Tap] = weakref.WeakKeyDictionary()
