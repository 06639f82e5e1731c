"""Options of redis-py's connections: merged with defaults, and safe to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from ssl import CERT_NONE
from typing import Any

import redis

from ...version import __version__
from ..protocol.encoding import Args


def check_host_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return TLS options with the check of the host name turned on by default."""
    if options.get("ssl_cert_reqs", "required") in (None, "none", CERT_NONE):
        # the certificate is not checked at all
        return {**options, "ssl_check_hostname": False}
    return {"ssl_check_hostname": True, **options}


def merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults overridden by a node's own options; credentials as a whole."""
    if own.get("credential_provider") is not None:
        losers = {"username", "password"}
    elif own.get("username") is not None or own.get("password") is not None:
        losers = {"credential_provider"}
    else:
        losers = set()
    return {**{name: v for name, v in defaults.items() if name not in losers}, **own}


def introduce(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with which CLIENT LIST shows django-rb, unless they name a client.

    redis-py would read its own version from disk for each connection.
    """
    if not {"driver_info", "lib_name", "lib_version"}.isdisjoint(options):
        return dict(options)
    return {**options, **_introduction()}


@cache
def _introduction() -> dict[str, Any]:
    if hasattr(redis, "DriverInfo"):  # redis-py 7.2
        about = redis.DriverInfo(lib_version=redis.__version__)
        return {"driver_info": about.add_upstream_driver("django-rb", __version__)}
    name = f"redis-py(django-rb_v{__version__})"
    return {"lib_name": name, "lib_version": redis.__version__}


def take_introduction(connection: Any) -> list[Args]:
    """Return the commands with which redis-py introduces itself, and have it send none.

    Args:
        connection: one of redis-py's, before it is connected.
    """
    if (about := getattr(connection, "driver_info", None)) is not None:  # redis-py 7.2
        name, version = about.formatted_name, about.lib_version
        connection.driver_info = None
    else:
        name = getattr(connection, "lib_name", None)
        version = getattr(connection, "lib_version", None)
        connection.lib_name = connection.lib_version = None
    said = {"LIB-NAME": name, "LIB-VER": version}
    return [("CLIENT", "SETINFO", what, value) for what, value in said.items() if value]


def conceal(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a connection that can be printed, as some pools do, without secrets."""
    concealed = dict(options)
    username, password = concealed.pop("username", None), concealed.pop("password", None)
    if username or password:
        concealed["credential_provider"] = redis.UsernamePasswordCredentialProvider(
            username, password
        )
    if isinstance(key_password := concealed.get("ssl_password"), str):
        concealed["ssl_password"] = KeyPassword(key_password)
    return concealed


# Said to primaries: where a node that was demoted is asked for keys, it names its successor
# (REDIRECT; Valkey 8). https://valkey.io/commands/client-capa/
FOLLOW_REDIRECTS = ("CLIENT", "CAPA", "redirect")


def is_introduction(command: Sequence[object]) -> bool:
    """Return whether redis-py says its name, after it has logged in."""
    return command[:2] == ("CLIENT", "SETINFO")


class KeyPassword:
    """A callable that returns the password of a TLS key; its repr() does not show it."""

    def __init__(self, password: str) -> None:
        self._password = password

    def __call__(self) -> str:
        """Return the password."""
        return self._password
