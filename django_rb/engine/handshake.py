"""redis-py's classes of connections, as the engine and its local clients open them.

They differ from redis-py's own in three ways. An error on the way to a connection shows no
credentials in the variables of its frames. A credential provider that fails is a node that
cannot be connected to, whatever it raises. And the host name in a node's certificate is
checked unless the settings say otherwise: redis-py does so by itself only since 6.0.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import redis

from . import guarding
from .secrecy import hides_locals


class _Discreet(redis.connection.AbstractConnection):
    @hides_locals
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @hides_locals
    def connect(self) -> None:
        """Connect, if it is not connected.

        Raises:
            redis.RedisError: it cannot be connected.
        """
        guarding.check(self)
        try:
            super().connect()  # type: ignore[no-untyped-call]
        except redis.RedisError:
            raise
        except Exception as error:
            # redis-py does so only after errors of its own
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError(
                f"Connecting failed: {type(error).__name__}: {error}"
            ) from error

    @hides_locals
    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Do what newer redis-py does where it connects anew before it sends."""
        guarding.check(self)
        super().connect_check_health(*args, **kwargs)


class Connection(_Discreet, redis.Connection):
    """A connection over TCP."""


class UnixDomainSocketConnection(_Discreet, redis.UnixDomainSocketConnection):
    """A connection through a unix socket."""


class SSLConnection(_Discreet, redis.SSLConnection):
    """A connection over TCP with TLS."""

    @hides_locals
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**check_host_name(kwargs))


def check_host_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of TLS by which the host name is checked unless they say otherwise."""
    if options.get("ssl_cert_reqs", "required") in (None, "none", ssl.CERT_NONE):
        # there is no certificate to look at
        return {**options, "ssl_check_hostname": False}
    return {"ssl_check_hostname": True, **options}


def merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return options where a node's own win over defaults, its way to log in included."""
    if own.get("credential_provider") is not None:
        losers = {"username", "password"}
    elif own.get("username") is not None or own.get("password") is not None:
        losers = {"credential_provider"}
    else:
        losers = set()
    return {**{name: v for name, v in defaults.items() if name not in losers}, **own}


def conceal(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a connection so that printing them, as some pools do, tells nothing."""
    concealed = dict(options)
    username, password = concealed.pop("username", None), concealed.pop("password", None)
    if username or password:
        concealed["credential_provider"] = redis.UsernamePasswordCredentialProvider(
            username, password
        )
    if isinstance(key_password := concealed.get("ssl_password"), str):
        concealed["ssl_password"] = KeyPassword(key_password)
    return concealed


class KeyPassword:
    """The password of a key, told to ssl, which calls it, and to nobody who prints it."""

    def __init__(self, password: str) -> None:
        self._password = password

    def __call__(self) -> str:
        """Return the password."""
        return self._password
