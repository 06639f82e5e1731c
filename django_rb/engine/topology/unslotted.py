"""Shards of topologies without slots: each host id of the settings is a shard.

A primary that was demoted may reply with its successor (REDIRECT; Valkey 8). That takes effect
at once: a new `Node` gets the host id, and nothing is sent to the old one any more.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, time

from ..errors import Redirected
from ..nodes.changes import HealthChanges, PrimaryChange
from ..nodes.hosts import HostInfo
from ..nodes.node import DEFAULT_SOCKET_TIMEOUT, Node
from ..protocol.encoding import Args, Key
from ..rounds.port import Rounds
from .look_times import LookTimes
from .looking import Looking
from .questions import address_of
from .replicas import Replicas
from .slots_replies import Address, read_address

# The seconds after which a redirect back to an earlier address of the primary is followed. The
# pause doubles each time; addresses are forgotten after the longest pause.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 30.0


@dataclass
class _Trail:
    """The earlier addresses of a shard's primary, and the pause before one is used again."""

    places: set[Address] = field(default_factory=set)
    since: float = float("-inf")
    pause: float = _FIRST_PAUSE

    def may_lead_to(self, here: Address, place: Address) -> bool:
        """Return whether to follow a redirect; if so, the primary is there from now on."""
        waited = monotonic() - self.since
        if waited > 2 * _LAST_PAUSE:
            self.places, self.pause = set(), _FIRST_PAUSE
        if place in self.places:
            if waited < self.pause:
                return False
            self.pause = min(2 * self.pause, _LAST_PAUSE)
        self.places.add(here)
        self.since = monotonic()
        return True


class Unslotted(Looking):
    """See `rounds.port.Layout`.

    Args:
        hosts: what is known of each shard's primary, by host id.
        times: when looks are due.
        replicas: the replicas of the shards.
        make_node: creates the node of a primary from what is known of it.
        use: called with all servers that there may be connections to, by host id.
        alias: the alias of the cluster, for the log.
        changes: collects the changes of primaries.

    Attributes:
        nodes: the primaries, by host id.
        version: changes whenever keys may have moved, or a shard has another primary.
        said_by: the source that reported each primary, by host id; missing for those in the
            settings.
        since: Unix time since which each primary is known to this process, by host id; only
            for shards whose primary has changed since the process knows them.
    """

    version = 0

    def __init__(
        self,
        hosts: Mapping[int, HostInfo],
        times: LookTimes,
        replicas: Replicas,
        make_node: Callable[[HostInfo], Node],
        use: Callable[[Mapping[int, Node]], None],
        alias: str | None = None,
        changes: HealthChanges | None = None,
    ) -> None:
        super().__init__(times)
        self.hosts = dict(hosts)
        self.replicas = replicas
        self._make_node = make_node
        self._use = use
        self._alias = alias
        self._changes = changes
        self.nodes = {host_id: make_node(info) for host_id, info in self.hosts.items()}
        self._addresses = {host_id: node.address for host_id, node in self.nodes.items()}
        timeout = next(iter(self.nodes.values())).socket_timeout
        self.patience = DEFAULT_SOCKET_TIMEOUT if timeout is None else timeout
        self.said_by: dict[int, str] = {}
        self.since: dict[int, float] = {}
        self._trails: dict[int, _Trail] = {}
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: another thread of the parent may hold a lock."""
        self._changing = threading.RLock()  # a signal handler may use the cluster
        self._times.start_over()

    @abstractmethod
    def _use_all(self) -> None:
        """Report which servers there may be connections to."""

    def get_address(self, host_id: int) -> str:
        """Return the last known address of a host."""
        return self.replicas.get_address(host_id) or self._addresses[host_id]

    def get_slot(self, key: Key) -> None:
        """Return None: there are no slots."""

    def get_owner(self, slot: int) -> int:
        """Raise LookupError: there are no slots."""
        raise LookupError(slot)

    def get_node(self, host_id: int) -> Node | None:
        """Return the current node of a host id."""
        return self.nodes.get(host_id) or self.replicas.by_id.get(host_id)

    def get_shard(self, host_id: int) -> int:
        """Return the id of the shard that a host belongs to."""
        return self.replicas.get_shard(host_id)

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them."""
        return self.replicas.get_readers(shard)

    def may_be_elsewhere(self, host_id: int) -> bool:
        """Return whether other nodes may have what a host does not return."""
        return True

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Do nothing: such nodes do not reply MOVED."""

    def find(self, address: str, said_by: int) -> None:
        """Return None: such nodes do not reply ASK."""

    # Redirects.

    def note_redirected(self, host_id: int, said: Redirected, question: Args) -> None:
        """Process REDIRECT: a shard has another primary. It takes effect at once.

        It is ignored if it is outdated, or if the primary was at the new address just before:
        two nodes may redirect to each other until one of them is a primary.

        Args:
            host_id: the shard that was asked.
            question: a command that a node answers with REDIRECT while it is a replica.
        """
        with self._changing:
            node = self.nodes.get(host_id)
            if node is None or getattr(said, "said_by", node.address) != node.address:
                return
            here = address_of(node.info)
            place = self._read_place(said, here)
            trail = self._trails.setdefault(host_id, _Trail())
            if place is None or place == here or not trail.may_lead_to(here, place):
                node.health.complained(said)
                return
            self._follow(host_id, place, node.address.rpartition("/")[0], question)

    def _read_place(self, said: Redirected, here: Address) -> Address | None:
        """Return the address in a REDIRECT reply, None if it is invalid."""
        return read_address(said.place, here)

    def _follow(self, host_id: int, place: Address, said_by: str, question: Args) -> None:
        """Set a shard's primary to the address in a REDIRECT reply."""
        host, port = place
        named = self.hosts[host_id]
        # Its own login, if the settings have one for it.
        known = (one for one in named.replicas if address_of(one) == place)
        info = replace(
            next(known, named), host_id=host_id, host=host, port=port, unix_socket_path=None
        )
        self._put(host_id, self._make_node(info), said_by)

    def _put(self, host_id: int, node: Node, said_by: str) -> None:
        """Make a node the primary of a shard, and close all connections to the old one."""
        with self._changing:
            old = self.nodes[host_id]
            self._addresses[host_id] = node.address
            self.nodes = {**self.nodes, host_id: node}
            self._use_all()
            self.said_by[host_id] = said_by
            if old.info.is_placed:
                self.since[host_id] = time()
            self.version += 1
            self.is_known = True
        node.health.succeed(old.health)
        # Callers that are about to use the old node get an error, and try the new one.
        old.health.bar(f"The primary is now {node.address}")
        if old.info.is_placed and self._changes is not None:
            self._changes.waiting.append(
                PrimaryChange(host_id, node.address, old.address, said_by, self._alias)
            )

    # Looks.

    @property
    def is_look_due(self) -> bool:
        """Whether it is time for a look; the next caller takes it."""
        # Each call checks this. While nothing is known, callers wait for the first one's look.
        return (
            monotonic() >= self._times.look_at
            or not self.is_known
            or (self.replicas.measures_lag and self.replicas.is_look_due)
        )

    def look_if_due(self) -> Rounds:
        """Yield the rounds of a look, if it is time and no other caller looks."""
        yield from super().look_if_due()
        yield from self.replicas.look_if_due(self.nodes)
