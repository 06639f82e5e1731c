"""What a cluster knows of a node before it is connected: address, credentials, options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from ssl import VerifyMode
from typing import Any

import redis
from redis.connection import parse_url

from ..errors import BadHostSetup
from ..secrecy import hides_locals
from .options import merge

URL_SCHEMES = ("redis://", "rediss://", "unix://")

# What redis-py's constructors take and a node may not set: the engine speaks the
# protocol itself, on bytes.
_NOT_FOR_HOSTS = frozenset(
    {
        "self",
        "kwargs",
        "path",  # unix_socket_path, as in redis.Redis
        "parser",
        "parser_class",
        "command_packer",
        "redis_connect_func",
        "socket_read_size",
        "event_dispatcher",
        "legacy_responses",
        "orig_host_address",
        "orig_socket_timeout",
        "orig_socket_connect_timeout",
        "himport_registry",
    }
)


@cache
def connection_options() -> frozenset[str]:
    """Return the names of the options that the installed redis-py's connections take."""
    names: set[str] = set()
    for cls in (redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection):
        for base in cls.__mro__:
            if "__init__" in vars(base):
                names.update(inspect.signature(base).parameters)
    return frozenset(
        name
        for name in names - _NOT_FOR_HOSTS
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
    """Return the names that POOL_OPTIONS may use: what holds for all nodes alike."""
    return (connection_options() - {"host", "port", "db"}) | {"max_connections"}


def did_you_mean(name: object, known: Sequence[str] | frozenset[str]) -> str:
    """Return what an error says about an unknown name: the nearest known one, or all."""
    by_lower = {str(k).lower(): k for k in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1)
    if near:
        return f"Did you mean {by_lower[near[0]]!r}?"
    return f"Known are: {', '.join(sorted(map(str, known)))}."


@dataclass(frozen=True, repr=False)
class HostInfo:
    """One node: one address, one database number.

    Attributes:
        host_id: the integer that names the node inside its cluster.
        host, port: TCP address; unused where `unix_socket_path` is set.
        db: database number.
        ssl: TLS is used.
        options: every further option of redis-py's connection classes.
    """

    host_id: int
    host: str = "localhost"
    port: int = 6379
    unix_socket_path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    ssl: bool = False
    ssl_options: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the node is, in words that hold no secret: ``10.0.0.1:6379/0``."""
        if self.unix_socket_path is not None:
            return f"unix:{self.unix_socket_path}/{self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"<HostInfo {self.host_id}: {self.address}>"

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """The arguments of redis-py's connections to this node. They hold its secrets."""
        kwargs: dict[str, Any] = {"db": self.db, **self.options}
        if self.unix_socket_path is not None:
            kwargs["path"] = self.unix_socket_path
        else:
            kwargs.update(host=self.host, port=self.port)
        if self.username is not None:
            kwargs["username"] = self.username
        if self.password is not None:
            kwargs["password"] = self.password
        if self.ssl_options:
            kwargs.update(_prefixed(self.ssl_options))
        return kwargs


@hides_locals
def parse_hosts(
    hosts: object, defaults: Mapping[str, Any] | None = None
) -> dict[int, HostInfo]:
    """Return the nodes of a cluster by host id.

    Args:
        hosts: ``{0: node, 1: node, …}`` or ``[node, node, …]`` (numbered from 0), a node
            being a dictionary of options or a URL (redis://, rediss://, unix://).
        defaults: options for every node that does not set them itself.

    Raises:
        BadHostSetup: naming the host id, the key, the value and the way out.
    """
    if defaults is None:
        defaults = {}
    elif not isinstance(defaults, Mapping):
        raise BadHostSetup(
            f"{masked(defaults)} is not a dictionary of options such as {{'db': 0}}.",
            ("HOST_DEFAULTS",),
        )
    _check_options(defaults, ("HOST_DEFAULTS",))
    nodes = _numbered(hosts)
    return {
        host_id: _parse_host(host_id, nodes[host_id], defaults) for host_id in sorted(nodes)
    }


@hides_locals
def parse_host(
    host_id: int, node: object, defaults: Mapping[str, Any] | None = None
) -> HostInfo:
    """Return one node; see `parse_hosts`."""
    return _parse_host(host_id, node, defaults or {})


def with_database(hosts: object, db: int) -> dict[int, dict[str, Any]]:
    """Return the nodes of `parse_hosts`, each on the database number `db` of its server."""
    return {
        host_id: {**_as_options(node, ("HOSTS", host_id)), "db": db}
        for host_id, node in _numbered(hosts).items()
    }


def _numbered(hosts: object) -> Mapping[int, object]:
    if isinstance(hosts, Mapping):
        for host_id in hosts:
            if type(host_id) is not int or host_id < 0:
                raise BadHostSetup(
                    f"Host id {masked(host_id)} is not an integer of 0 or more. "
                    "Number the nodes 0, 1, 2 …, or give a list.",
                    ("HOSTS", host_id if isinstance(host_id, int) else str(host_id)),
                )
        numbered: Mapping[int, object] = hosts
    elif isinstance(hosts, Sequence) and not isinstance(hosts, str | bytes):
        numbered = _numbered_by_themselves(hosts) or dict(enumerate(hosts))
    else:
        raise BadHostSetup(
            f"{masked(hosts)} is neither a dictionary {{0: node, 1: node}} nor a list of "
            "nodes. A single node goes into a list.",
            ("HOSTS",),
        )
    if not numbered:
        raise BadHostSetup("There are no hosts. Name at least one node.", ("HOSTS",))
    missing = sorted(set(range(max(numbered) + 1)) - set(numbered))
    if missing:
        raise BadHostSetup(
            f"Host ids must run from 0 without gaps: {', '.join(map(str, missing[:5]))} "
            f"{'is' if len(missing) == 1 else 'are'} missing below {max(numbered)}. "
            "Renumber the nodes (this moves keys), or name the missing ones.",
            ("HOSTS",),
        )
    return numbered


def _numbered_by_themselves(hosts: Sequence[object]) -> dict[int, object]:
    """Return the nodes of a list in which each says its "host_id", as in rb."""
    named = [isinstance(node, Mapping) and "host_id" in node for node in hosts]
    if not any(named):
        return {}
    if not all(named):
        raise BadHostSetup(
            "In a list, either every node is a dictionary with a 'host_id', or none has one.",
            ("HOSTS", named.index(False)),
        )
    numbered: dict[int, object] = {}
    for position, node in enumerate(hosts):
        assert isinstance(node, Mapping)
        host_id, path = node["host_id"], ("HOSTS", position, "host_id")
        if type(host_id) is not int or host_id < 0:
            raise BadHostSetup(
                f"Host id {masked(host_id)} is not an integer of 0 or more.", path
            )
        if host_id in numbered:
            raise BadHostSetup(f"Two hosts share the host id {host_id}.", path)
        numbered[host_id] = {name: v for name, v in node.items() if name != "host_id"}
    return numbered


def _prefixed(ssl_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return TLS options by redis-py's names; rb's have no "ssl_": ``{"ca_certs": …}``."""
    return {
        name if name.startswith("ssl_") else f"ssl_{name}": value
        for name, value in ssl_options.items()
    }


def _parse_host(host_id: int, node: object, defaults: Mapping[str, Any]) -> HostInfo:
    path = ("HOSTS", host_id)
    node = _as_options(node, path)
    _check_options(node, path)
    options = merge(defaults, node)
    if "unix_socket_path" in node:  # a node's own address wins over a default one
        for name in {"host", "port"} - node.keys():
            options.pop(name, None)
    elif "host" in node or "port" in node:
        options.pop("unix_socket_path", None)
    if "unix_socket_path" in options and ("host" in options or "port" in options):
        raise BadHostSetup(
            "A node has either a host and a port or a unix_socket_path, not both.", path
        )
    ssl = bool(options.pop("ssl", False))
    if not ssl:
        # Options for TLS in the defaults are for those nodes that use it.
        misplaced = [k for k in node if k.startswith("ssl_") and options[k] is not None]
        if misplaced:
            raise BadHostSetup(
                f"{misplaced[0]!r} is set but the node does not use TLS. "
                "Set 'ssl': True, or use a rediss:// URL.",
                (*path, misplaced[0]),
            )
        options = {k: v for k, v in options.items() if not k.startswith("ssl_")}
    elif "unix_socket_path" in options:
        raise BadHostSetup("TLS and a unix socket do not go together.", (*path, "ssl"))
    own = {
        name: options.pop(name)
        for name in ("host", "unix_socket_path", "username", "password", "ssl_options")
        if name in options
    }
    return HostInfo(
        host_id,
        port=options.pop("port", 6379),
        db=options.pop("db", 0),
        ssl=ssl,
        options=options,
        **own,
    )


def _as_options(node: object, path: tuple[str | int, ...]) -> Mapping[str, Any]:
    """Return the options of a node that is a dictionary or a URL."""
    if isinstance(node, str):
        return _parse_url(node, path)
    if not isinstance(node, Mapping):
        raise BadHostSetup(
            f"{masked(node)} is neither a dictionary such as {{'host': '10.0.0.1', "
            "'port': 6379} nor a URL such as 'redis://10.0.0.1:6379/0'.",
            path,
        )
    return node


def _parse_url(url: str, path: tuple[str | int, ...]) -> dict[str, Any]:
    if not url.startswith(URL_SCHEMES):
        raise BadHostSetup(
            f"{masked(url)} is not a URL of a node. URLs begin with {', '.join(URL_SCHEMES)}.",
            path,
        )
    is_unix = url.startswith("unix://")
    server, _, database = url.partition("://")[2].partition("?")[0].partition("/")
    options: dict[str, Any] = {}
    problem = ""
    try:
        options.update(parse_url(url))  # type: ignore[no-untyped-call]
        # redis-py reads only a whole number there and passes over anything else.
        if not is_unix and database and not database.strip("/").isdecimal():
            raise ValueError(f"{database!r} is not a database number")
    except ValueError as error:
        # What cannot be read may be a password with characters of its own meaning.
        problem = (
            "check port and database number, and write characters such as / ? # @ [ in a "
            "user or password as %2F %3F %23 %40 %5B"
            if "@" in url
            else str(error)
        )
    if problem:  # raised here, to leave the other error and what its frames know behind
        raise BadHostSetup(
            f"{masked(url)} cannot be read: {problem}. "
            "A URL looks like redis://user:password@10.0.0.1:6379/0.",
            path,
        )
    if options.pop("connection_class", None) is redis.SSLConnection:
        options["ssl"] = True
    if is_unix:
        if "path" not in options or server.rpartition("@")[2]:
            raise BadHostSetup(
                f"{masked(url)} names no socket. "
                "A URL of a unix socket looks like unix:///run/valkey.sock?db=0.",
                path,
            )
        options["unix_socket_path"] = options.pop("path")
    return options


_INTEGERS = {"port": (1, 65535), "db": (0, None), "max_connections": (1, None)}
_CERT_REQS = ("required", "optional", "none", None, *VerifyMode)
_SECONDS = ("socket_timeout", "socket_connect_timeout")


def _check_options(
    options: Mapping[str, Any], path: tuple[str | int, ...], known: frozenset[str] | None = None
) -> None:
    """Raise BadHostSetup for the first unknown name or impossible value."""
    names = host_options() if known is None else known
    for name, value in options.items():
        where = (*path, str(name))
        if name not in names:
            raise BadHostSetup(
                f"Unknown option {masked(name)}. {did_you_mean(name, names)}", where
            )
        if name in _INTEGERS:
            low, high = _INTEGERS[name]
            if type(value) is not int or value < low or (high and value > high):
                limits = f"from {low} to {high}" if high else f"of {low} or more"
                raise BadHostSetup(f"{masked(value)} is not a whole number {limits}.", where)
        elif name in _SECONDS:
            check_seconds(value, where)
        elif name in {"host", "unix_socket_path"} and (not isinstance(value, str) or not value):
            raise BadHostSetup(f"{masked(value)} is not the text of an address.", where)
        elif name == "host" and ("@" in value or "/" in value):
            raise BadHostSetup(
                f"{masked(value)} is not a name or an IP address. "
                "A URL goes in the place of the dictionary.",
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
        _check_options(options["ssl_options"], (*path, "ssl_options"), _tls_options())


def _check_login(options: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
    login = {name: options.get(name) for name in ("username", "password")}
    for name, value in login.items():
        if not isinstance(value, str | None):
            raise BadHostSetup(  # the value stays out of the message: it may be the secret
                f"A {type(value).__name__} is not text.", (*path, name)
            )
    provider = options.get("credential_provider")
    if provider is None:
        return
    path = (*path, "credential_provider")
    if isinstance(provider, type):
        raise BadHostSetup(f"{provider.__name__} is a class. Give an object made of it.", path)
    if not callable(getattr(provider, "get_credentials", None)):
        raise BadHostSetup(
            f"A {type(provider).__name__} has no method get_credentials(). Give an object of "
            "a class that inherits from redis.CredentialProvider.",
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
            f"{masked(value)} is not a time in seconds above 0. None waits without limit.",
            path,
        )


@hides_locals
def check_pool_options(options: object) -> Mapping[str, Any]:
    """Return POOL_OPTIONS if every name is known and every value possible.

    Raises:
        BadHostSetup: naming the option, its value and the way out.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise BadHostSetup(
            f"{masked(options)} is not a dictionary such as {{'socket_timeout': 2.0}}.",
            ("POOL_OPTIONS",),
        )
    _check_options(options, ("POOL_OPTIONS",), pool_options())
    return options


def masked(value: object) -> str:
    """Return a value as an error may show it: without what could be a password."""
    if isinstance(value, str):
        return _masked_text(value)
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"A {type(value).__name__}"


def _masked_text(text: str) -> str:
    """Return a URL without user, password and query, any other text as it is."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return "A text with '@'" if "@" in text else repr(text)
    user, at, where = rest.rpartition("@")
    if "?" in user:  # it may be part of a password, and so may what follows the "@"
        return repr(f"{scheme}://***")
    return repr(f"{scheme}://{'***@' if at else ''}{where.partition('?')[0]}")
