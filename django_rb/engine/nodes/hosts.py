"""What a cluster knows of a node before it is connected: address, credentials, options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from ssl import VerifyMode
from typing import Any

import redis
from redis.connection import parse_url

from ..errors import BadHostSetup
from ..secrecy import hides_locals
from ..wording import about_unknown, masked, number_of
from .options import merge

URL_SCHEMES = ("redis://", "rediss://", "unix://")

_OWN_READER = "the engine reads replies itself, with hiredis and as bytes"

# What redis-py's connections take and a node may not set, and why.
REFUSED_OPTIONS = {
    "command_packer": "the engine packs commands itself",
    "legacy_responses": "replies have the same form with every version of redis-py; "
    "'protocol' chooses between RESP2 and RESP3",
    "maint_notifications_config": "the engine reads no notifications of maintenance",
    "parser": _OWN_READER,
    "parser_class": _OWN_READER,
    "path": "the path of a socket is the option 'unix_socket_path', as in redis.Redis",
    "redis_connect_func": "the engine introduces its connections itself; 'username', "
    "'password', 'credential_provider' and 'client_name' say as whom",
    "socket_read_size": "the engine reads into buffers of its own",
}

# What Cluster.add_host() of rb takes by position, after the host id.
_RB_ARGUMENTS = ("host", "port", "unix_socket_path", "db", "password", "ssl", "ssl_options")

# What redis-py's objects tell each other.
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
            if "__init__" in vars(base):
                names.update(inspect.signature(base).parameters)
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
    """Return the names that POOL_OPTIONS may use: what holds for all nodes alike."""
    return (connection_options() - {"host", "port", "db"}) | {"max_connections"}


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
        hosts: ``{0: node, 1: node, …}``, with gaps or without, or ``[node, node, …]``
            (numbered from 0), a node being a dictionary of options or a URL (redis://,
            rediss://, unix://).
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
    _check_options(with_numbers(defaults), ("HOST_DEFAULTS",))
    nodes = number_hosts(hosts)
    return {
        host_id: _parse_host(host_id, nodes[host_id], defaults) for host_id in sorted(nodes)
    }


@hides_locals
def parse_host(
    host_id: int, node: object, defaults: Mapping[str, Any] | None = None
) -> HostInfo:
    """Return one node; see `parse_hosts`."""
    return _parse_host(host_id, node, defaults or {})


def node_of_arguments(arguments: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node that arguments of `Cluster.add_host` after the host id describe.

    Args:
        arguments: by position: a dictionary or a URL; or as in rb, None being what is not
            given, and a path taking the place of host and port.
        options: by name.

    Raises:
        TypeError: they are too many, or do not go together.
    """
    given, more = dict(options), arguments
    if arguments and (isinstance(arguments[0], Mapping) or "://" in str(arguments[0])):
        node, more = _as_options(arguments[0], ()), arguments[1:]
    else:
        named = zip(_RB_ARGUMENTS, arguments, strict=False)
        node = {name: value for name, value in named if value is not None}
        more = arguments[len(_RB_ARGUMENTS) :]
        if "unix_socket_path" in node:
            node = {name: v for name, v in node.items() if name not in {"host", "port"}}
        if given.get("unix_socket_path", "") is None:
            del given["unix_socket_path"]
    if more:
        raise TypeError(
            "add_host() takes after the host id a dictionary or a URL alone; or "
            f"{', '.join(_RB_ARGUMENTS)} in this order, and further options by name."
        )
    if twice := node.keys() & given.keys():
        raise TypeError(f"add_host() got several values for {', '.join(sorted(twice))}.")
    return {**node, **given}


def with_database(hosts: object, db: int) -> dict[int, dict[str, Any]]:
    """Return the nodes of `parse_hosts`, each on the database number `db` of its server."""
    return {
        host_id: {**_as_options(node, ("HOSTS", host_id)), "db": db}
        for host_id, node in number_hosts(hosts).items()
    }


def number_hosts(hosts: object) -> Mapping[int, object]:
    """Return the nodes of `parse_hosts` as they are, by host id. The ids may have gaps."""
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
    node = with_numbers(_as_options(node, path))
    _check_options(node, path)
    options = merge(with_numbers(defaults), node)
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
    if misread := _misread(url):
        raise BadHostSetup(
            f"{masked(url)} cannot be read: {misread}. In a user, password, path or value, "
            "percent-encode characters such as / ? # @ [ as %2F %3F %23 %40 %5B.",
            path,
        )
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


def _misread(url: str) -> str:
    """Return what redis-py drops of a URL or takes for something else: it may be a password."""
    query = url.partition("?")[2]
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    if "#" in url:
        return "a '#' and what follows it mean nothing there"
    if url.count("@") > 1:
        return "it has more than one '@'"
    if not all(name and value for name, _, value in pairs):
        return "what follows the '?' is not name=value"
    if "@" in query and not {name for name, _, _ in pairs} <= host_options():
        return "an '@' after the '?' belongs to no option"
    if any(char in url for char in "\t\r\n"):
        return "it has a line break or a tab"
    return ""


_INTEGERS = {"port": (1, 65535), "db": (0, None), "max_connections": (1, None)}
_CERT_REQS = ("required", "optional", "none", None, *VerifyMode)
_SECONDS = ("socket_timeout", "socket_connect_timeout")
_NUMBERS = {*_INTEGERS, *_SECONDS, "health_check_interval", "protocol"}


def with_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those that are numbers as numbers, also where they are digits."""
    return {n: number_of(v) if n in _NUMBERS else v for n, v in options.items()}


def _check_options(
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
            raise BadHostSetup(f"{masked(value)} is not the text of an address.", where)
        elif name == "host" and any(char in value for char in "@/?#"):
            raise BadHostSetup(
                f"{masked(value)} is not a name or an IP address. "
                "A URL goes in the place of the dictionary.",
                where,
            )
        elif name == "unix_socket_path" and "://" in value:
            raise BadHostSetup(
                f"{masked(value)} is not the path of a socket, such as '/run/valkey.sock'. "
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
    options = with_numbers(options)
    _check_options(options, ("POOL_OPTIONS",), pool_options())
    return options
