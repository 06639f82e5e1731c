"""redis-py's classes of connections for asyncio, as the engine opens them.

They differ from redis-py's own in the same ways as those of `threads.handshake`. Besides, with
every version of redis-py, a credential provider is called once for each connection, and awaited
if it is asynchronous; the files for TLS are read in the loop's executor, and again only when
they change; connections are closed at once; and names are looked up by `lookups`, so that
redis-py gets addresses. Only `take_writer` uses a private attribute of redis-py.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import redis
import redis.asyncio

from .. import guarding
from ..errors import BadHostSetup
from ..lookups import await_addresses
from ..nodes.hosts import HostInfo
from ..nodes.options import FOLLOW_REDIRECTS, check_host_name, is_introduction
from ..nodes.tracking import TRACK_KEYS, tracking_kwargs
from ..protocol.encoding import Args
from ..secrecy import hides_locals

if TYPE_CHECKING:
    from ..nodes.node import Node


def take_writer(connection: Any) -> asyncio.StreamWriter | None:
    """Return the stream of a connection that redis-py has set up, and detach it."""
    writer: asyncio.StreamWriter | None
    writer, connection._writer = connection._writer, None  # noqa: SLF001 (the one exception)
    return writer


class _Discreet(redis.asyncio.connection.AbstractConnection):
    @hides_locals
    def __init__(
        self, greetings: Sequence[Args] = (), follows_redirects: bool = False, **kwargs: Any
    ) -> None:
        self._greetings = greetings
        self._follows_redirects = follows_redirects
        self._has_said_so = self._is_answered_first = False
        if kwargs.get("retry") is not None:
            kwargs["retry"] = _awaited(kwargs["retry"])
        if kwargs.get("retry_on_error") is not None:
            kwargs["retry_on_error"] = list(kwargs["retry_on_error"])  # redis-py adds to it
        super().__init__(**kwargs)
        self._provider = self.credential_provider

    @hides_locals
    async def connect(self) -> None:
        """Connect, if it is not connected.

        Raises:
            redis.RedisError: it cannot be connected.
        """
        guarding.check(self)
        try:
            if self._provider is not None:
                self.credential_provider = _Credentials(await _credentials_from(self._provider))
            await self._reach()
            if self._follows_redirects and not self._has_said_so:  # redis-py told no name
                await self.send_command(*FOLLOW_REDIRECTS)
                with suppress(redis.ResponseError):
                    await self.read_response()
            for greeting in self._greetings:
                await self.send_command(*greeting)
                await self.read_response()
        except redis.RedisError as error:
            if type(error) is redis.ConnectionError:
                _complete(error)
            raise
        except Exception as error:
            # redis-py disconnects only after errors of its own
            await self.disconnect()
            raise redis.ConnectionError(
                f"Connecting failed: {type(error).__name__}: {error}"
            ) from error

    async def _reach(self) -> None:
        await super().connect()  # type: ignore[no-untyped-call]

    @hides_locals
    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command; with redis-py's first one, announce that REDIRECT is followed."""
        if self._has_said_so or not (self._follows_redirects and is_introduction(args)):
            await super().send_command(*args, **kwargs)
            return
        self._has_said_so = self._is_answered_first = True
        pieces = [*self.pack_command(*FOLLOW_REDIRECTS), *self.pack_command(*args)]
        await self.send_packed_command([b"".join(pieces)], kwargs.get("check_health", True))

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply, and before it the one to our own command."""
        if self._is_answered_first:
            self._is_answered_first = False
            with suppress(redis.ResponseError):  # an older server, or a user who may not
                await super().read_response(*args, **kwargs)
        return await super().read_response(*args, **kwargs)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close at once, without waiting for the node's close_notify of TLS."""
        self._has_said_so = self._is_answered_first = False
        writer = take_writer(self)
        if writer is not None:
            writer.transport.abort()
        await super().disconnect(*args, **kwargs)


class TCPConnection(_Discreet, redis.asyncio.Connection):
    """A connection over TCP."""

    async def _reach(self) -> None:
        """Connect to one of the addresses of the node's name."""
        name = self.host
        addresses = await await_addresses(name, self.port, self.socket_connect_timeout)
        for left in range(len(addresses) - 1, -1, -1):
            self.host = addresses[-1 - left]
            try:
                await super()._reach()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                # A subclass means that the node was reached, so no other address is tried.
                if not left or type(error) not in {redis.ConnectionError, redis.TimeoutError}:
                    raise
            else:
                return
            finally:
                self.host = name


class UnixDomainSocketConnection(_Discreet, redis.asyncio.UnixDomainSocketConnection):
    """A connection through a unix socket."""


class _NamedContext(ssl.SSLContext):
    """A context that checks certificates against the node's name, not its address."""

    node_name = ""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return super().wrap_bio(*args, **{**kwargs, "server_hostname": self.node_name})


class SSLConnection(TCPConnection, redis.asyncio.SSLConnection):
    """A connection over TCP with TLS."""

    @hides_locals
    def __init__(
        self, *, ssl_password: Any = None, ssl_ca_path: str | None = None, **kwargs: Any
    ) -> None:
        kwargs = check_host_name(kwargs)
        requirement = kwargs.get("ssl_cert_reqs")
        if isinstance(requirement, ssl.VerifyMode):  # redis-py 5 accepts only the names
            kwargs["ssl_cert_reqs"] = requirement.name.removeprefix("CERT_").lower()
        super().__init__(**kwargs)
        # Only redis-py 8 has these two.
        self._key_password = ssl_password
        self._ca_path = ssl_ca_path

    @hides_locals
    def make_context(self) -> ssl.SSLContext:
        """Return an SSL context for the options; this reads files."""
        told: Any = self.ssl_context
        certfile, keyfile = told.certfile, told.keyfile
        told.certfile = told.keyfile = None
        context: ssl.SSLContext = told.get()
        context.__class__ = _NamedContext  # ssl.create_default_context() takes no class
        cast(_NamedContext, context).node_name = self.host
        if certfile or keyfile:
            context.load_cert_chain(certfile, keyfile, self._key_password)
        if self._ca_path:
            context.load_verify_locations(capath=self._ca_path)
        return context


def _complete(error: redis.ConnectionError) -> None:
    """Put the reason of an OSError into the text of redis-py's error.

    Raises:
        redis.RedisError: the node's error reply, which for unix sockets is only the cause.
    """
    if isinstance(error.__cause__, redis.RedisError):
        raise error.__cause__ from None
    reason = error.__context__
    if isinstance(reason, OSError) and len(reason.args) > 1:  # redis-py 5: only the number
        text = str(reason.args[1])
        if text not in str(error):
            said = str(error).removesuffix(f" {reason.args[0]}.")
            error.args = (f"{said} {text}.",)


async def connect(node: Node, *, is_tracked: bool = False) -> asyncio.StreamWriter:
    """Return the stream of a new connection to a node, set up by redis-py.

    Args:
        is_tracked: the node should track the keys that are read on it.

    Raises:
        redis.RedisError: it cannot be connected.
    """
    kwargs = tracking_kwargs(node.kwargs) if is_tracked else node.kwargs
    connection: Any = _kind_of(node.info)(follows_redirects=node.follows_redirects, **kwargs)
    try:
        if isinstance(connection, SSLConnection):
            await _give_context(connection, node)
        await connection.connect()
        if is_tracked:
            await connection.send_command(*TRACK_KEYS)
            await connection.read_response()
        writer = take_writer(connection)
        assert writer is not None
    except BaseException:
        await connection.disconnect()
        raise
    return writer


def _kind_of(info: HostInfo) -> type[_Discreet]:
    if info.unix_socket_path is not None:
        return UnixDomainSocketConnection
    return SSLConnection if info.ssl else TCPConnection


def check_options(node: Node) -> None:
    """Raise BadHostSetup for options that redis-py does not support with asyncio."""
    kind: Any = _kind_of(node.info)
    unknown = sorted(node.kwargs.keys() - _options_of(kind))
    if unknown:
        raise BadHostSetup(
            f"redis-py {redis.__version__} does not support the option {unknown[0]!r} for "
            "asyncio connections. Leave it out, or use the synchronous methods."
        )


@cache
def _options_of(kind: type) -> frozenset[str]:
    """Return the names of the arguments that a class of connections takes."""
    return frozenset(
        name
        for base in kind.__mro__
        if "__init__" in vars(base)
        for name in inspect.signature(base).parameters
    )


# Credentials.


class _Credentials(redis.CredentialProvider):
    """Credentials from a provider that was called already; redis-py < 5.3 cannot await it."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def get_credentials(self) -> Any:
        return self._said

    async def get_credentials_async(self) -> Any:
        return self._said


async def _credentials_from(provider: Any) -> Any:
    """Return a provider's credentials, from its asynchronous method if it overrides it."""
    inherited = getattr(redis.CredentialProvider, "get_credentials_async", None)
    own = getattr(type(provider), "get_credentials_async", inherited)
    if own is inherited:
        return provider.get_credentials()
    return await provider.get_credentials_async()


def _awaited(retry: Any) -> Any:
    """Return a Retry for redis.asyncio, made from one of redis-py."""
    if isinstance(retry, redis.asyncio.retry.Retry):
        return retry
    twin = redis.asyncio.retry.Retry.__new__(redis.asyncio.retry.Retry)
    for name, value in vars(retry).items():  # both have the same attributes
        setattr(twin, name, value)
    return twin


# TLS.

_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

# Creating one takes as long as hundreds of commands.
_contexts: weakref.WeakKeyDictionary[Node, tuple[object, ssl.SSLContext]] = (
    weakref.WeakKeyDictionary()
)


async def _give_context(connection: SSLConnection, node: Node) -> None:
    """Set a connection's SSL context to the node's, which is renewed when its files change."""
    stamp = [_changed_at(node.kwargs.get(name)) for name in _TLS_FILES]
    known_stamp, context = _contexts.get(node, (None, None))
    if context is None or stamp != known_stamp:
        context = await _make_context(connection)
        _contexts[node] = stamp, context
    connection.ssl_context.context = context


@hides_locals
async def _make_context(connection: SSLConnection) -> ssl.SSLContext:
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(None, connection.make_context)
    except Exception as error:
        raise redis.ConnectionError(
            f"Connecting failed: {type(error).__name__}: {error}"
        ) from error


def _changed_at(path: object) -> int | None:
    if isinstance(path, str):
        with suppress(OSError):
            return Path(path).stat().st_mtime_ns
    return None
