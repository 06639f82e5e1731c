"""redis-py's classes of connections, as the engine and its local clients open them.

They differ from redis-py's own in six ways. The frames of an error while connecting have no
credentials in their variables. Whatever exception a credential provider raises becomes a
ConnectionError. The host name in a node's certificate is checked unless the settings say
otherwise; redis-py does so by default only since 6.0. The cluster's observers are called for
what a local client sends, except for the handshake. What redis-py sends about itself in two
round trips takes one. And in the same packet, the engine announces to a primary that it follows
REDIRECT.

The engine looks names up by `lookups`, but for those of nodes with TLS: redis-py has to be
given the name to which it holds their certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import redis

from .. import guarding
from ..lookups import wait_for_addresses
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..nodes.options import FOLLOW_REDIRECTS, check_host_name, take_introduction
from ..protocol.encoding import Args
from ..rounds.local_watch import LocalWatch
from ..rounds.observing import Observer
from ..secrecy import hides_locals


class Home:
    """The node that the connections of a local client connect to; it may change.

    Attributes:
        node: which one.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    def __repr__(self) -> str:
        return repr(self.node)


class _Discreet(redis.connection.AbstractConnection):
    _is_in_handshake = _is_greeted = False

    @hides_locals
    def __init__(
        self,
        observed: LocalWatch | None = None,
        home: Home | None = None,
        greetings: Sequence[Args] = (),
        follows_redirects: bool = False,
        **kwargs: Any,
    ) -> None:
        self._observed = observed
        self._home = home
        self._leads_to: Node | None = None  # while it is connected
        self._aims_at: Node | None = None
        super().__init__(**kwargs)
        self._introduction = take_introduction(self)
        if follows_redirects:
            self._introduction.insert(0, FOLLOW_REDIRECTS)
        self._greetings = greetings

    @hides_locals
    def connect(self) -> None:
        """Connect, if it is not connected.

        Raises:
            redis.RedisError: it cannot be connected.
        """
        self._go_home()
        guarding.check(self)
        if self._observed is not None:
            self._observed.begin_use()
        try:
            with self._in_handshake():
                super().connect()  # type: ignore[no-untyped-call]
        except redis.RedisError:
            raise
        except Exception as error:
            # redis-py does so only after errors of its own
            self.disconnect()
            raise redis.ConnectionError(
                f"Connecting failed: {type(error).__name__}: {error}"
            ) from error

    def _go_home(self) -> None:
        """Set the address to that of the current primary, before connecting."""
        if self._home is None or self._leads_to is not None:
            return
        node = self._home.node
        if not node.info.is_placed and (refusal := node.health.refusal()) is not None:
            raise refusal
        self._leads_to = self._aims_at = node
        self.host, self.port = node.info.host, node.info.port

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close the connection."""
        self._leads_to = None
        self._is_greeted = False
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _check_home(self) -> None:
        """Close the connection if its node is no longer the primary.

        Raises:
            redis.ConnectionError: it was closed.
        """
        if self._home is None or self._leads_to is None:
            return
        if self._leads_to.address != self._home.node.address:
            self.disconnect()
            raise redis.ConnectionError(
                self._home.node.named(
                    "The connection leads to a node that is no longer the primary"
                )
            )

    @hides_locals
    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Do what newer redis-py does if it reconnects before it sends."""
        self._go_home()
        guarding.check(self)
        with self._in_handshake():
            super().connect_check_health(*args, **kwargs)

    # It greets in these two, before a pubsub subscribes again when it is connected anew.

    def on_connect(self) -> None:
        """Log in and greet."""
        super().on_connect()  # type: ignore[no-untyped-call]
        self._begin()

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Do what newer redis-py does in place of `on_connect`."""
        super().on_connect_check_health(*args, **kwargs)
        self._begin()

    def _begin(self) -> None:
        self._leads_to = self._aims_at  # also if redis-py has tried more than once
        try:
            self._greet()
        except BaseException:  # some replies may not have been read
            self.disconnect()
            raise

    def _greet(self) -> None:
        """Send what each connection begins with, in one packet."""
        commands = [*self._introduction, *self._greetings]
        if self._is_greeted or not commands:
            return
        self._is_greeted = True
        connection: Any = self
        pieces = [piece for each in commands for piece in connection.pack_command(*each)]
        connection.send_packed_command([b"".join(pieces)], check_health=False)
        for _ in self._introduction:
            with suppress(redis.ResponseError):  # an older server, or a user who may not
                connection.read_response()
        for _ in self._greetings:
            connection.read_response()

    @contextmanager
    def _in_handshake(self) -> Iterator[None]:
        before, self._is_in_handshake = self._is_in_handshake, True
        try:
            yield
        finally:
            self._is_in_handshake = before

    @hides_locals
    def send_packed_command(
        self, command: bytes | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send what a client has packed, and tell the observers."""
        self._check_home()
        observers: Sequence[Observer] = ()
        if self._observed is not None and not self._is_in_handshake:
            observers = self._observed.begin_use()
        send = super().send_packed_command
        if not observers:
            send(command, check_health)  # type: ignore[no-untyped-call]
            return
        assert self._observed is not None
        pieces = [command] if isinstance(command, bytes) else list(command)
        self._observed.send(observers, pieces, partial(send, pieces, check_health))


class TCPConnection(_Discreet, redis.Connection):
    """A connection over TCP."""


class UnixDomainSocketConnection(_Discreet, redis.UnixDomainSocketConnection):
    """A connection through a unix socket."""


class SSLConnection(_Discreet, redis.SSLConnection):
    """A connection over TCP with TLS."""

    @hides_locals
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**check_host_name(kwargs))


def kind_of(info: HostInfo) -> type[_Discreet]:
    """Return the class of connections for the kind of address that a node has."""
    if info.unix_socket_path is not None:
        return UnixDomainSocketConnection
    return SSLConnection if info.ssl else TCPConnection


def connect(connection: _Discreet) -> None:
    """Connect for the engine: over TCP without TLS to one of the addresses of the node's name.

    Raises:
        redis.RedisError: it cannot be connected.
    """
    if not isinstance(connection, TCPConnection):
        connection.connect()
        return
    guarding.check(connection)  # before its name is looked up
    name = connection.host
    addresses = wait_for_addresses(name, connection.port, connection.socket_connect_timeout)
    for left in range(len(addresses) - 1, -1, -1):
        connection.host = addresses[-1 - left]
        try:
            connection.connect()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            # A subclass means that the node was reached, so no other address is tried.
            if not left or type(error) not in {redis.ConnectionError, redis.TimeoutError}:
                raise
        else:
            return
        finally:
            connection.host = name
