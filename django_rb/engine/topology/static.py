"""The static topology: the settings name the shards and their addresses.

Hosts can be added and removed while the cluster is in use. The dictionaries are replaced, never
changed: a batch uses those with which it began until its end.

A node that was demoted may report its successor, which replaces it as long as the node in the
settings replies so: it is asked once a second, as part of the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import BadHostSetup, Redirected
from ..nodes.changes import HealthChanges
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..protocol.encoding import Args
from ..protocol.exchange import Batch
from ..routing.routers import BaseRouter
from .look_times import LookTimes
from .questions import address_of
from .replicas import ReadFrom, Replicas
from .sentinel_questions import ask, run
from .slots_replies import Address
from .unslotted import Unslotted

# Seconds between two checks of demoted nodes: at least, if something is wrong; and normally.
LEAST_SECONDS, PERIOD = 0.25, 1.0

# The seconds that such a node may take to connect, and to answer.
_PATIENCE = 0.5

# Host ids of such nodes: this less the host's.
_FIRST_DEMOTED = -3_000_000


@dataclass
class _Demoted:
    """A node of the settings that was replaced by its successor.

    Attributes:
        node: the node for checks.
        question: a command that it answers with REDIRECT while it is a replica.
        names: the address in its last REDIRECT. The node there may redirect to another one.
    """

    node: Node
    question: Args
    names: Address


class StaticTopology(Unslotted):
    """The hosts of one cluster, their nodes, and the router over them.

    Args:
        hosts: by host id.
        make_node: creates the node of a host from what is known of it.
        make_replica: creates the node of a replica.
        use: called with all servers that there may be connections to, by host id.
        read_from: where reads go.
        alias, changes: see `Unslotted`.

    Attributes:
        hosts: the settings of each host, by host id, in the order of the ids.
        nodes: the nodes, by host id; the successor of a demoted one.
        router: decides which host owns a key; replaced whenever a host is added or removed.
        is_quiet: there are no nodes to check.
    """

    router: BaseRouter

    def __init__(
        self,
        hosts: Mapping[int, HostInfo],
        make_node: Callable[[HostInfo], Node],
        make_replica: Callable[[HostInfo], Node],
        use: Callable[[Mapping[int, Node]], None],
        read_from: ReadFrom | None = None,
        alias: str | None = None,
        changes: HealthChanges | None = None,
    ) -> None:
        super().__init__(
            hosts,
            LookTimes(LEAST_SECONDS, PERIOD),
            Replicas(read_from or ReadFrom(), make_replica),
            make_node,
            use,
            alias,
            changes,
        )
        self.is_known = True
        self._demoted: dict[int, _Demoted] = {}
        self._has_moved: set[int] = set()  # hosts that had another primary at some time
        self._know_all()

    def _know_all(self) -> None:
        self.replicas.learn({host_id: info.replicas for host_id, info in self.hosts.items()})
        self.is_quiet = not (self.replicas.measures_lag or self._demoted)
        self._use_all()

    def _use_all(self) -> None:
        asked = {demoted.node.host_id: demoted.node for demoted in self._demoted.values()}
        self._use({**self.nodes, **self.replicas.by_id, **asked})

    def may_be_elsewhere(self, host_id: int) -> bool:
        """Return whether other nodes may have what a host does not return."""
        return (
            host_id in self._has_moved
            or self.replicas.get_shard(host_id) != host_id
            or bool(self.replicas.by_shard.get(host_id))
        )

    # Adding and removing hosts.

    def add(self, info: HostInfo, make_router: Callable[[], BaseRouter]) -> None:
        """Add a host.

        Args:
            make_router: creates the router for the new `hosts`.

        Raises:
            TypeError: there is a host with this id.
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
            self._know_all()
            try:
                self.router = make_router()
            except BadHostSetup:
                self.hosts, self.nodes = hosts, nodes
                self._know_all()
                raise
            self.version += 1

    def remove(self, host_id: int, make_router: Callable[[], BaseRouter]) -> bool:
        """Remove a host; return whether it existed. See `add`.

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
            for known in (self._demoted, self.said_by, self.since, self._trails):
                known.pop(host_id, None)
            self._know_all()
            self.version += 1
            return True

    # Nodes that were demoted.

    def _follow(self, host_id: int, place: Address, said_by: str, question: Args) -> None:
        if host_id not in self._demoted:
            demoted = self._make_demoted(host_id)
            self._addresses[demoted.host_id] = demoted.address
            self._demoted[host_id] = _Demoted(demoted, question, place)
        super()._follow(host_id, place, said_by, question)

    def _make_demoted(self, host_id: int) -> Node:
        """Return a node with short timeouts, for checking whether it is still a replica."""
        info, node = self.hosts[host_id], self.nodes[host_id]
        timeouts = {
            name: min(_PATIENCE, getattr(node, name) or _PATIENCE)
            for name in ("socket_timeout", "socket_connect_timeout")
        }
        extra = _FIRST_DEMOTED - host_id
        return self._make_node(
            replace(info, host_id=extra, options={**info.options, **timeouts})
        )

    def _put(self, host_id: int, node: Node, said_by: str) -> None:
        self._has_moved.add(host_id)
        if node.address == self.hosts[host_id].address:  # it is the address in the settings
            self._demoted.pop(host_id, None)
        super()._put(host_id, node, said_by)
        if host_id not in self._demoted:
            self.said_by.pop(host_id)
        self.is_quiet = not (self.replicas.measures_lag or self._demoted)

    def want_look(self) -> None:
        """Make a check of demoted nodes due soon. There are no other sources to ask."""
        if self._demoted:
            super().want_look()

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to check demoted nodes, or the lag of replicas."""
        return (bool(self._demoted) and self._times.is_due) or self.replicas.is_look_due

    def _look(self) -> Batch[bool]:
        """Ask demoted nodes whether they are still replicas."""
        asked = {
            host_id: (demoted, ask(demoted.node, [demoted.question]))
            for host_id, demoted in self._demoted.items()
        }
        has_changed = False
        is_cut_short = True
        try:
            if asked:
                yield from run([exchange for _, exchange in asked.values()])
            is_cut_short = False
            for host_id, (demoted, exchange) in asked.items():
                for reply in exchange.replies:
                    with self._changing:
                        if self._demoted.get(host_id) is demoted:
                            has_changed |= self._hear(host_id, demoted, reply)
        finally:
            self._times.plan(
                has_changed,
                is_cut_short=is_cut_short,
                is_calm=all(self.nodes[i].health.is_well for i in asked if i in self.nodes),
            )
        return False

    def _hear(self, host_id: int, demoted: _Demoted, reply: object) -> bool:
        """Process the reply of a demoted node; return whether something has changed."""
        here = demoted.node.address.rpartition("/")[0]
        if not isinstance(reply, Exception):  # it is a primary again
            self._put(host_id, self._make_node(self.hosts[host_id]), here)
            return True
        if isinstance(reply, Redirected):
            place = self._read_place(reply, address_of(demoted.node.info))
            if place is not None and place != demoted.names:
                demoted.names = place
                if place != address_of(self.nodes[host_id].info):
                    self._follow(host_id, place, here, demoted.question)
                    return True
        return False
