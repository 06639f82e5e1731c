"""Checks of the options of a node: their names and values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from ssl import VerifyMode
from typing import Any

import redis

from ..errors import BadHostSetup
from ..secrecy import hides_locals
from ..wording import about_unknown, masked, number_of

_OWN_READER = "the engine reads replies itself, with hiredis and as bytes"

# Options of redis-py's connections that a node may not set, and why.
REFUSED_OPTIONS = {
    "command_packer": "the engine packs commands itself",
    "legacy_responses": "replies have the same form with every version of redis-py; "
    "'protocol' chooses between RESP2 and RESP3",
    "maint_notifications_config": "the engine does not read maintenance notifications",
    "parser": _OWN_READER,
    "parser_class": _OWN_READER,
    "path": "use 'unix_socket_path' for the path of a socket, as in redis.Redis",
    "redis_connect_func": "the engine logs in itself, with 'username', 'password', "
    "'credential_provider' and 'client_name'",
    "socket_read_size": "the engine reads into buffers of its own",
}

# Arguments that redis-py's objects pass to each other; they are no options.
_INTERNAL_OPTIONS = {
    "self",
    "kwargs",
    "event_dispatcher",
    "himport_registry",
    "orig_host_address",
    "orig_socket_timeout",
    "orig_socket_connect_timeout",
}


@cache
def connection_options() -> frozenset[str]:
    """Return the names of the options that the installed redis-py's connections take."""
    names: set[str] = set()
    for cls in (redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection):
        for base in cls.__mro__:
            made = inspect.unwrap(vars(base).get("__init__", base))
            if inspect.isfunction(made):
                # inspect.signature() would take as long as the rest of a cluster of 30 nodes.
                names.update(inspect.getargs(made.__code__).args)
    return frozenset(
        name
        for name in names - REFUSED_OPTIONS.keys() - _INTERNAL_OPTIONS
        if not name.startswith(("maint", "oss_", "_", "args"))
    )


@cache
def host_options() -> frozenset[str]:
    """Return the names that one host's dictionary may use."""
    return connection_options() | {"unix_socket_path", "ssl", "ssl_options"}


@cache
def _tls_options() -> frozenset[str]:
    """Return the names that ssl_options may use: redis-py's, with and without "ssl_"."""
    names = {name for name in connection_options() if name.startswith("ssl_")}
    return frozenset(names | {name.removeprefix("ssl_") for name in names})


@cache
def pool_options() -> frozenset[str]:
    """Return the names that POOL_OPTIONS may use."""
    return (connection_options() - {"host", "port", "db"}) | {"max_connections"}


_INTEGERS = {"port": (1, 65535), "db": (0, None), "max_connections": (1, None)}
_CERT_REQS = ("required", "optional", "none", None, *VerifyMode)
_SECONDS = ("socket_timeout", "socket_connect_timeout")
_NUMBERS = {*_INTEGERS, *_SECONDS, "health_check_interval", "protocol"}


def with_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with numeric ones as numbers, also if they were given as text."""
    return {n: number_of(v) if n in _NUMBERS else v for n, v in options.items()}


def check_options(
    options: Mapping[str, Any], path: tuple[str | int, ...], known: frozenset[str] | None = None
) -> None:
    """Raise BadHostSetup for the first unknown name or impossible value."""
    _check_names(options, path, host_options() if known is None else known)
    for name, value in options.items():
        where = (*path, name)
        if name in _INTEGERS:
            low, high = _INTEGERS[name]
            if type(value) is not int or value < low or (high and value > high):
                limits = f"from {low} to {high}" if high else f"of {low} or more"
                raise BadHostSetup(f"{masked(value)} is not a whole number {limits}.", where)
        elif name in _SECONDS:
            check_seconds(value, where)
        elif name in {"host", "unix_socket_path"} and (not isinstance(value, str) or not value):
            raise BadHostSetup(f"{masked(value)} is not an address.", where)
        elif name == "host" and any(char in value for char in "@/?#"):
            raise BadHostSetup(
                f"{masked(value)} is not a name or an IP address. Use a URL in place of the "
                "dictionary.",
                where,
            )
        elif name == "unix_socket_path" and "://" in value:
            raise BadHostSetup(
                f"{masked(value)} is not the path of a socket, such as '/run/valkey.sock'. "
                "Use a URL in place of the dictionary.",
                where,
            )
        elif name in {"ssl_cert_reqs", "cert_reqs"} and value not in _CERT_REQS:
            raise BadHostSetup(
                f"{masked(value)} is not 'required', 'optional' or 'none'.", where
            )
        elif name == "ssl" and not isinstance(value, bool):
            raise BadHostSetup(f"{masked(value)} is neither True nor False.", where)
        elif name == "ssl_options" and not isinstance(value, Mapping | None):
            raise BadHostSetup(
                f"A {type(value).__name__} is not a dictionary of ssl_… options.", where
            )
    _check_login(options, path)
    if options.get("ssl_options"):
        check_options(options["ssl_options"], (*path, "ssl_options"), _tls_options())


def _check_names(
    options: Mapping[str, Any], path: tuple[str | int, ...], known: frozenset[str]
) -> None:
    for name in options:
        if name in REFUSED_OPTIONS:
            raise BadHostSetup(
                f"redis-py's option {name!r} cannot be set: {REFUSED_OPTIONS[name]}.",
                (*path, name),
            )
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BadHostSetup(
            about_unknown("option", unknown, known),
            (*path, str(unknown[0])) if len(unknown) == 1 else path,
        )


def _check_login(options: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
    login = {name: options.get(name) for name in ("username", "password")}
    for name, value in login.items():
        if not isinstance(value, str | None):
            raise BadHostSetup(  # without the value, which may be a secret
                f"A {type(value).__name__} is not text.", (*path, name)
            )
    provider = options.get("credential_provider")
    if provider is None:
        return
    path = (*path, "credential_provider")
    if isinstance(provider, type):
        raise BadHostSetup(f"{provider.__name__} is a class. Give an instance of it.", path)
    if not callable(getattr(provider, "get_credentials", None)):
        raise BadHostSetup(
            f"A {type(provider).__name__} has no method get_credentials(). Give an instance "
            "of a subclass of redis.CredentialProvider.",
            path,
        )
    if any(value is not None for value in login.values()):
        raise BadHostSetup(
            "A node has either a credential_provider or a username and password, not both.",
            path,
        )


def check_seconds(value: object, path: tuple[str | int, ...]) -> None:
    """Raise BadHostSetup unless `value` is a time in seconds above 0, or None for no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise BadHostSetup(
            f"{masked(value)} is not a time in seconds above 0. Use None for no limit.",
            path,
        )


@hides_locals
def check_pool_options(options: object) -> Mapping[str, Any]:
    """Return POOL_OPTIONS if every name is known and every value possible.

    Raises:
        BadHostSetup: with the option, its value and what to do.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise BadHostSetup(
            f"{masked(options)} is not a dictionary such as {{'socket_timeout': 2.0}}.",
            ("POOL_OPTIONS",),
        )
    options = with_numbers(options)
    check_options(options, ("POOL_OPTIONS",), pool_options())
    return options
