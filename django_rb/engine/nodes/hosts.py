"""Reading HOSTS: the address, credentials and options of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.connection import parse_url

from ..errors import BadHostSetup
from ..secrecy import HiddenText, hidden, hides_locals
from ..wording import masked, number_of
from .option_checks import check_options, host_options, with_numbers
from .options import merge

URL_SCHEMES = ("redis://", "rediss://", "unix://")

# The options for the address of a node.
_ADDRESS = ("host", "port", "unix_socket_path")

# The positional arguments of rb's Cluster.add_host(), after the host id.
_RB_ARGUMENTS = ("host", "port", "unix_socket_path", "db", "password", "ssl", "ssl_options")


@dataclass(frozen=True, repr=False)
class HostInfo:
    """One node: one address, one database number.

    Attributes:
        host_id: the integer that names the node inside its cluster.
        host, port: TCP address; unused if `unix_socket_path` is set.
        db: database number.
        ssl: TLS is used.
        options: every further option of redis-py's connection classes.
        master_name: the name that Sentinels have for the shard whose primary this is. Until
            they have given its address, `host` is "".
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
    master_name: str | None = None
    replicas: tuple[HostInfo, ...] = ()

    def __post_init__(self) -> None:
        # Passwords are hidden in place, as asdict() and vars() show every attribute. This is
        # the way to set attributes of a frozen dataclass.
        if self.password is not None:
            object.__setattr__(self, "password", HiddenText(self.password))
        if self.ssl_options is not None:
            object.__setattr__(self, "ssl_options", hidden(self.ssl_options))
        object.__setattr__(self, "options", hidden(self.options))

    @property
    def is_placed(self) -> bool:
        """Whether the node's address is known."""
        return bool(self.host or self.unix_socket_path)

    @property
    def address(self) -> str:
        """The address as text, without secrets: ``10.0.0.1:6379/0``."""
        if self.unix_socket_path is not None:
            return f"unix:{self.unix_socket_path}/{self.db}"
        if not self.is_placed:
            return f"primary of {self.master_name}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"<HostInfo {self.host_id}: {self.address}>"

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """The arguments for redis-py's connections to this node, secrets included."""
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
        BadHostSetup: with the host id, the key, the value and what to do.
    """
    if defaults is None:
        defaults = {}
    elif not isinstance(defaults, Mapping):
        raise BadHostSetup(
            f"{masked(defaults)} is not a dictionary of options such as {{'db': 0}}.",
            ("HOST_DEFAULTS",),
        )
    check_options(with_numbers(defaults), ("HOST_DEFAULTS",))
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
        node, more = as_options(arguments[0], ()), arguments[1:]
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
            "After the host id, add_host() accepts one dictionary or URL; or "
            f"{', '.join(_RB_ARGUMENTS)} in this order, and further options by name."
        )
    if twice := node.keys() & given.keys():
        raise TypeError(f"add_host() got several values for {', '.join(sorted(twice))}.")
    return {**node, **given}


def with_database(hosts: object, db: int) -> dict[int, dict[str, Any]]:
    """Return the nodes of `parse_hosts`, each on the database number `db` of its server."""
    return {
        host_id: {**as_options(node, ("HOSTS", host_id)), "db": db}
        for host_id, node in number_hosts(hosts).items()
    }


def number_hosts(hosts: object) -> Mapping[int, object]:
    """Return the nodes of `parse_hosts` as they are, by host id. The ids may have gaps."""
    if isinstance(hosts, Mapping):
        numbered: dict[int, object] = {}
        for given, node in hosts.items():
            host_id = number_of(given)  # keys in JSON are text
            path = ("HOSTS", given if isinstance(given, int) else str(given))
            if type(host_id) is not int or host_id < 0:
                raise BadHostSetup(
                    f"Host id {masked(given)} is not an integer of 0 or more. "
                    "Number the nodes 0, 1, 2 …, or give a list.",
                    path,
                )
            if host_id in numbered:
                raise BadHostSetup(f"Two hosts share the host id {host_id}.", path)
            numbered[host_id] = node
    elif isinstance(hosts, Sequence) and not isinstance(hosts, str | bytes):
        numbered = _numbered_by_themselves(hosts) or dict(enumerate(hosts))
    else:
        raise BadHostSetup(
            f"{masked(hosts)} is neither a dictionary {{0: node, 1: node}} nor a list of "
            "nodes. Put a single node into a list.",
            ("HOSTS",),
        )
    if not numbered:
        raise BadHostSetup("There are no hosts. List at least one node.", ("HOSTS",))
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
        host_id, path = number_of(node["host_id"]), ("HOSTS", position, "host_id")
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
    node = dict(with_numbers(as_options(node, path)))
    replicas = _parse_replicas(host_id, node.pop("replicas", ()), node, defaults)
    check_options(node, path)
    options = merge(with_numbers(defaults), node)
    if "unix_socket_path" in node:  # a node's own address overrides a default one
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
        # TLS options in the defaults may be meant for other nodes, so only own ones count.
        misplaced = [k for k in node if k.startswith("ssl_") and options[k] is not None]
        if misplaced:
            raise BadHostSetup(
                f"{misplaced[0]!r} is set but the node does not use TLS. "
                "Set 'ssl': True, or use a rediss:// URL.",
                (*path, misplaced[0]),
            )
        options = {k: v for k, v in options.items() if not k.startswith("ssl_")}
    elif "unix_socket_path" in options:
        raise BadHostSetup("TLS cannot be used with a unix socket.", (*path, "ssl"))
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
        replicas=replicas,
        **own,
    )


def _parse_replicas(
    host_id: int, replicas: object, node: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[HostInfo, ...]:
    """Return the replicas of a node; options that they do not set are the node's."""
    path = ("HOSTS", host_id, "replicas")
    if isinstance(replicas, str | bytes) or not isinstance(replicas, Sequence):
        raise BadHostSetup(
            f"{masked(replicas)} is not a list of nodes such as [{{'host': '10.0.1.1'}}].", path
        )
    likeness = {name: v for name, v in node.items() if name not in _ADDRESS}
    infos = []
    for position, replica in enumerate(replicas):
        try:
            described = as_options(replica, ("HOSTS", host_id))
            if "replicas" in described:
                raise BadHostSetup("Replicas of replicas are not supported. Leave it out.")
            infos.append(_parse_host(host_id, described, merge(defaults, likeness)))
        except BadHostSetup as error:
            raise BadHostSetup(str(error), (*path, position, *error.path[2:])) from None
    return tuple(infos)


def as_options(node: object, path: tuple[str | int, ...]) -> Mapping[str, Any]:
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
        # redis-py silently ignores a database that is not a whole number.
        if not is_unix and database and not database.strip("/").isdecimal():
            raise ValueError(f"{database!r} is not a database number")
    except ValueError as error:
        # The part that cannot be read may be a password with unescaped characters.
        problem = (
            "check port and database number, and write characters such as / ? # @ [ in a "
            "user or password as %2F %3F %23 %40 %5B"
            if "@" in url
            else str(error)
        )
    if problem:  # raised here, so that the other error and its frames are not attached
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
                f"{masked(url)} contains no path of a socket. A URL of a unix socket looks "
                "like unix:///run/valkey.sock?db=0.",
                path,
            )
        options["unix_socket_path"] = options.pop("path")
    return options


def _misread(url: str) -> str:
    """Return which part of a URL redis-py would ignore or misread; it may be a password."""
    query = url.partition("?")[2]
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    if "#" in url:
        return "a '#' has no meaning in it"
    if url.count("@") > 1:
        return "it has more than one '@'"
    if not all(name and value for name, _, value in pairs):
        return "the part after the '?' is not name=value"
    if "@" in query and not {name for name, _, _ in pairs} <= host_options():
        return "an '@' after the '?' is not part of an option"
    if any(char in url for char in "\t\r\n"):
        return "it has a line break or a tab"
    return ""
