"""The static topology: the settings name the shards and their addresses.

Hosts can be added and removed while the cluster is in use. The dictionaries are replaced, never
changed: a batch uses those with which it began until its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ..errors import BadHostSetup
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..routing.routers import BaseRouter
from .replicas import ReadFrom, Replicas


class StaticTopology:
    """The hosts of one cluster, their nodes, and the router over them.

    Args:
        hosts: by host id.
        make_node: makes a node of what is known of a host.
        read_from: where reads go.

    Attributes:
        hosts: what is known of each host, by host id, in the order of the ids.
        nodes: the nodes, by host id.
        router: decides who owns a key; a new one whenever a host comes or goes.
        version: another number whenever keys may have moved.
    """

    router: BaseRouter
    version = 0

    def __init__(
        self,
        hosts: Mapping[int, HostInfo],
        make_node: Callable[[HostInfo], Node],
        read_from: ReadFrom | None = None,
    ) -> None:
        self.hosts = dict(hosts)
        self._make_node = make_node
        self.replicas = Replicas(read_from or ReadFrom(), make_node)
        self._know_replicas()
        self.nodes = {host_id: make_node(info) for host_id, info in self.hosts.items()}
        self._addresses = {host_id: node.address for host_id, node in self.nodes.items()}
        self._changing = threading.Lock()

    def get_address(self, host_id: int) -> str:
        """Return where a host is, or was before it was removed."""
        return self.replicas.get_address(host_id) or self._addresses[host_id]

    @property
    def everybody(self) -> dict[int, Node]:
        """All nodes, replicas included, by host id."""
        return {**self.nodes, **self.replicas.by_id}

    def _know_replicas(self) -> None:
        self.replicas.learn({host_id: info.replicas for host_id, info in self.hosts.items()})

    def add(
        self,
        info: HostInfo,
        make_router: Callable[[], BaseRouter],
        use: Callable[[Mapping[int, Node]], None],
    ) -> None:
        """Add a host.

        Args:
            make_router: makes the router over what is in `hosts` by then.
            use: is told the nodes there are from now on.

        Raises:
            TypeError: there is a host of that id.
            BadHostSetup: the router does not accept the host; it is not added.
        """
        host_id = info.host_id
        with self._changing:
            if host_id in self.hosts:
                raise TypeError(f"Two hosts share the same host id ({host_id!r})")
            hosts, nodes = self.hosts, self.nodes
            self._addresses[host_id] = info.address
            # In this order, so that each host id of the router has a node.
            self.nodes = {**nodes, host_id: self._make_node(info)}
            self.hosts = dict(sorted({**hosts, host_id: info}.items()))
            self._know_replicas()
            use(self.everybody)
            try:
                self.router = make_router()
            except BadHostSetup:
                self.hosts, self.nodes = hosts, nodes
                self._know_replicas()
                use(self.everybody)
                raise
            self.version += 1

    def remove(
        self,
        host_id: int,
        make_router: Callable[[], BaseRouter],
        use: Callable[[Mapping[int, Node]], None],
    ) -> bool:
        """Remove a host; return whether it was there. See `add`.

        Raises:
            BadHostSetup: the router needs the host; it is not removed.
        """
        with self._changing:
            if host_id not in self.hosts:
                return False
            hosts = self.hosts
            self.hosts = {other: info for other, info in hosts.items() if other != host_id}
            try:
                self.router = make_router()
            except BadHostSetup:
                self.hosts = hosts
                raise
            self.nodes = {other: node for other, node in self.nodes.items() if other != host_id}
            self._know_replicas()
            use(self.everybody)
            self.version += 1
            return True

    def start_over(self) -> None:
        """In a forked child: another thread of the parent may hold the lock."""
        self._changing = threading.Lock()
