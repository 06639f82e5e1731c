"""Where servers are: compared by what they are, and not by how they are written.

One server has many names: ``localhost``, ``127.1``, ``::ffff:127.0.0.1``, the machine's own,
one with a dot at its end, a path with a link in it. So names are resolved and paths made real;
and a server can say itself who it is, by its `run_id`.
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

ASK_SECONDS = 1.0  # for each step of asking a server who it is
_ASKED_AT_ONCE = 32

# Set where a server is asked who it is: that connection may lead to the site's own nodes.
is_comparing: ContextVar[bool] = ContextVar("is_comparing", default=False)


class Place(NamedTuple):
    """A database of a server: at a host and port, or at the path of a unix socket."""

    host: str
    port: int
    path: str | None
    db: int

    @classmethod
    def of(cls, there: Any) -> Place:
        """Return where a node, or a connection of redis-py's, is."""
        path = getattr(there, "unix_socket_path", None) or getattr(there, "path", None)
        if path is not None:
            return cls("", 0, str(path), there.db)
        if not there.host:  # only Sentinels know
            return cls(there.address, 0, None, there.db)
        return cls(there.host.lower().rstrip("."), int(there.port), None, there.db)

    @property
    def url(self) -> str:
        """How settings name it."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}/{self.db}"

    @property
    def doors(self) -> frozenset[object]:
        """Where its server's socket really is: each address with the port, or the file."""
        if self.path is None:
            return frozenset((address, self.port) for address in _resolve(self.host))
        with suppress(OSError, ValueError):  # it need not be there, or is an abstract one
            file = Path(self.path).stat()
            return frozenset([(file.st_dev, file.st_ino)])
        with suppress(OSError, ValueError):
            return frozenset([os.path.realpath(self.path)])
        return frozenset([self.path])

    def leads_to(self, other: Place) -> bool:
        """Whether a connection that is opened here reaches the other's server, and no other."""
        return self[:3] == other[:3] or self.doors <= other.doors

    def may_lead_to(self, other: Place) -> bool:
        """Whether a connection that is opened here reaches the other's server, or may do so."""
        return self[:3] == other[:3] or not self.doors.isdisjoint(other.doors)

    def may_be(self, other: Place) -> bool:
        """Whether both are on this machine at the same port, by whichever of its addresses."""
        return self.port == other.port and self._is_here() and other._is_here()

    def _is_here(self) -> bool:
        return self.path is None and any(map(_is_here, _resolve(self.host)))


@lru_cache(maxsize=1024)
def _resolve(host: str) -> frozenset[str]:
    """Return the addresses of a host, each in its one form; the name if there are none."""
    found: set[str] = set()
    with suppress(OSError, UnicodeError):
        for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            ip = ip_address(str(address[0]).partition("%")[0])
            if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
                ip = ip.ipv4_mapped
            if ip.is_unspecified:  # whoever connects to it comes to this machine
                ip = ip_address("127.0.0.1" if ip.version == 4 else "::1")
            found.add(str(ip))
    return frozenset(found or {host})


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine: then, and only then, it can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class ConfiguredNode(NamedTuple):
    """A node of a cluster, by the settings of that."""

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
        """Return who its server says it is, None if it cannot be asked."""
        is_comparing.set(True)  # in the context of this thread alone: see _fetch_run_ids()
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
    """Return the nodes of a cluster whose settings have no mistake."""
    return [ConfiguredNode(alias, config, info) for info in conf.read_nodes(config).values()]


def nodes_of_site() -> list[ConfiguredNode]:
    """Return the nodes of all clusters of the settings that can be read."""
    nodes: list[ConfiguredNode] = []
    for alias, config in conf.get_site_configs():
        with suppress(BadHostSetup, KeyError, TypeError, AttributeError):
            nodes += nodes_of(alias, config)
    return nodes


def find_shared(
    declared: Sequence[ConfiguredNode], site: Sequence[ConfiguredNode]
) -> tuple[ConfiguredNode, ConfiguredNode] | None:
    """Return a node and a node of the site that are the same database, None if none are.

    Servers are asked who they are where their addresses do not tell. Where one cannot be
    asked, both being on this machine at the same port is enough.
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
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:  # each has a context of its own
        return dict(
            zip(
                by_place,
                threads.map(ConfiguredNode.fetch_run_id, by_place.values()),
                strict=True,
            )
        )
