"""The addresses of servers, compared by what they refer to, not as text.

One server has many names: ``localhost``, ``127.1``, ``::ffff:127.0.0.1``, the machine's own
name, one with a trailing dot, a path with a symbolic link. So names and paths are resolved; and
servers can be identified by their `run_id`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from .. import conf
from ..engine import BadHostSetup
from ..engine.nodes.hosts import HostInfo

ASK_SECONDS = 1.0  # for each step of asking a server for its run_id
_ASKED_AT_ONCE = 32

# Set while a server is asked for its run_id: that connection may be to the site's own nodes.
is_comparing: ContextVar[bool] = ContextVar("is_comparing", default=False)


class Place(NamedTuple):
    """A database of a server: at a host and port, or at the path of a unix socket."""

    host: str
    port: int
    path: str | None
    db: int

    @classmethod
    def of(cls, there: Any) -> Place:
        """Return the place of a node, or of a connection of redis-py."""
        path = getattr(there, "unix_socket_path", None) or getattr(there, "path", None)
        if path is not None:
            return cls("", 0, str(path), there.db)
        if not there.host:  # its address is only known to Sentinels
            return cls(there.address, 0, None, there.db)
        return cls(there.host.lower().rstrip("."), int(there.port), None, there.db)

    @property
    def url(self) -> str:
        """Its URL, as in settings."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}/{self.db}"

    @property
    def doors(self) -> frozenset[object]:
        """The real places of its server's socket: each address with the port, or the file."""
        if self.path is None:
            return frozenset((address, self.port) for address in _resolve(self.host))
        with suppress(OSError, ValueError):  # it may not exist, or be an abstract socket
            file = Path(self.path).stat()
            return frozenset([(file.st_dev, file.st_ino)])
        with suppress(OSError, ValueError):
            return frozenset([os.path.realpath(self.path)])
        return frozenset([self.path])

    def leads_to(self, other: Place) -> bool:
        """Whether a connection to this place always reaches the other's server."""
        return self[:3] == other[:3] or self.doors <= other.doors

    def may_lead_to(self, other: Place) -> bool:
        """Whether a connection to this place may reach the other's server."""
        return self[:3] == other[:3] or not self.doors.isdisjoint(other.doors)

    def may_be(self, other: Place) -> bool:
        """Whether both are on this machine at the same port, by any of its addresses."""
        return self.port == other.port and self._is_here() and other._is_here()

    def _is_here(self) -> bool:
        return self.path is None and any(map(_is_here, _resolve(self.host)))


@lru_cache(maxsize=1024)
def _resolve(host: str) -> frozenset[str]:
    """Return the addresses of a host in canonical form; the name if there are none."""
    found: set[str] = set()
    with suppress(OSError, UnicodeError):
        for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            ip = ip_address(str(address[0]).partition("%")[0])
            if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
                ip = ip.ipv4_mapped
            if ip.is_unspecified:  # connections to it reach this machine
                ip = ip_address("127.0.0.1" if ip.version == 4 else "::1")
            found.add(str(ip))
    return frozenset(found or {host})


def _is_here(address: str) -> bool:
    """Whether an address belongs to this machine: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class ConfiguredNode(NamedTuple):
    """A node in the settings of a cluster."""

    alias: str
    config: Mapping[str, Any]
    info: HostInfo

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place.of(self.info)

    def __str__(self) -> str:
        return f"node {self.info.host_id} of the cluster {self.alias!r} ({self.info.address})"

    def fetch_run_id(self) -> str | None:
        """Return its server's run_id, None if it cannot be asked."""
        is_comparing.set(True)  # only in the context of this thread: see _fetch_run_ids()
        connection: Any = None
        try:
            cluster = conf.build_cluster(self.alias, self.config)
            if not self.info.is_placed:
                cluster.learn(ASK_SECONDS)
            pool = cluster.get_pool_for_host(self.info.host_id)
            options: dict[str, Any] = {
                **pool.connection_kwargs,
                "socket_timeout": ASK_SECONDS,
                "socket_connect_timeout": ASK_SECONDS,
                "retry": None,
            }
            connection = pool.connection_class(**options)
            connection.connect()
            connection.send_command("INFO", "server")
            said = re.search(r"run_id:(\w+)", str(connection.read_response()))
            return said and said[1]
        except Exception:  # noqa: BLE001 (whatever it is: it cannot be asked)
            return None
        finally:
            is_comparing.set(False)
            if connection is not None:
                connection.disconnect()


def nodes_of(alias: str, config: Mapping[str, Any]) -> list[ConfiguredNode]:
    """Return the nodes of a cluster whose settings are valid."""
    return [ConfiguredNode(alias, config, info) for info in conf.read_nodes(config).values()]


def nodes_of_site() -> list[ConfiguredNode]:
    """Return the nodes of all clusters whose settings are valid."""
    nodes: list[ConfiguredNode] = []
    for alias, config in conf.get_site_configs():
        with suppress(BadHostSetup, KeyError, TypeError, AttributeError):
            nodes += nodes_of(alias, config)
    return nodes


def find_shared(
    declared: Sequence[ConfiguredNode], site: Sequence[ConfiguredNode]
) -> tuple[ConfiguredNode, ConfiguredNode] | None:
    """Return a node and a node of the site that are the same database, None if there are none.

    If addresses are not sufficient, servers are asked for their run_id. If one cannot be
    asked, nodes at the same port of this machine count as the same.
    """
    pairs = [(one, own) for one in declared for own in site if one.place.db == own.place.db]
    for one, own in pairs:
        if one.place.may_lead_to(own.place):
            return one, own
    run_ids = _fetch_run_ids([node for pair in pairs for node in pair])
    for one, own in pairs:
        said = run_ids[one.place], run_ids[own.place]
        if said[0] == said[1] if None not in said else one.place.may_be(own.place):
            return one, own
    return None


def _fetch_run_ids(nodes: Sequence[ConfiguredNode]) -> dict[Place, str | None]:
    by_place = {node.place: node for node in nodes}
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:  # each has its own context
        return dict(
            zip(
                by_place,
                threads.map(ConfiguredNode.fetch_run_id, by_place.values()),
                strict=True,
            )
        )
