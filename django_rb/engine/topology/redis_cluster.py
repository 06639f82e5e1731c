"""The topology of a Redis Cluster or Valkey Cluster, as its nodes report it.

It is asked for by exchanges in the batch of a caller that needs it, one node at a time and by
one caller at a time; other callers go on with what is known. MOVED, a failed connection or a
slot without owner causes another look, but not more than one per second, and fewer the longer
nothing changes.

A shard keeps its host id as long as the process runs, whichever of its nodes is the primary.
Servers that own no slots have ids below 0: seeds in HOSTS, replicas that were asked, nodes in
MOVED and ASK replies. Connections belong to a server, and stay open when its role changes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic, time
from typing import TypeVar

from ..errors import BadHostSetup, NodeDown, Redirected, at_node
from ..nodes.failing import DeadlineError
from ..nodes.hosts import HostInfo
from ..nodes.node import DEFAULT_SOCKET_TIMEOUT, Node
from ..protocol.encoding import Args, Key
from ..protocol.exchange import Batch
from ..rounds.port import Rounds
from ..routing.slots import CLUSTER_SLOTS, ClusterRouter
from .look_times import LookTimes
from .looking import Looking
from .questions import Answer, Unusable, address_of, ask, failure_of
from .replicas import ReadFrom, Replicas, infos_at
from .servers import AddressMap, Servers
from .shards import are_kin, ids_of, number_shards
from .slots_replies import Address, Shard

T = TypeVar("T")

# The most nodes that are asked in one look, if the first ones do not answer.
_MOST_ASKED = 3


class RedisClusterTopology(Looking):
    """The shards of one cluster, their primaries, and the router over them.

    Args:
        seeds: some of its nodes, numbered as in HOSTS.
        make_node: creates the node of a server.
        use: called with all servers that may be connected to, by host id.
        address_map: translates the host and port that a node reports.
        read_from: where reads go.

    Attributes:
        hosts: the address and options of each shard's primary, by host id, in order; the
            seeds until something is known.
        nodes: the nodes, by host id.
        router: the router; replaced whenever owners change, except for single slots.
        is_known: a node has reported the shards.
        patience: seconds for which a call without deadline waits for nodes.
        shards: the shards as last reported, by host id.
        uncovered: how many slots have no owner.
        version: another number whenever keys may have moved.
        since: since when, in Unix seconds, this process sees the primary of a shard be it; only
            for shards whose primary has changed since the process knows them.
    """

    version = 0

    def __init__(
        self,
        seeds: Mapping[int, HostInfo],
        make_node: Callable[..., Node],
        use: Callable[[Mapping[int, Node]], None],
        address_map: AddressMap | None = None,
        read_from: ReadFrom | None = None,
    ) -> None:
        for host_id, info in seeds.items():
            if info.unix_socket_path is not None:
                raise BadHostSetup(
                    "The nodes of a Redis Cluster are known by host and port, but this one is "
                    "a unix socket. Give its host and port.",
                    ("HOSTS", host_id),
                )
        super().__init__(LookTimes())
        # Without READONLY, replicas redirect reads to their primaries.
        make_replica = partial(make_node, greetings=((b"READONLY",),))
        self.replicas = Replicas(read_from or ReadFrom(), make_replica)
        self._servers = Servers(
            seeds,
            make_node,
            lambda nodes: use({**nodes, **self.replicas.by_id}),
            address_map,
        )
        self.nodes = dict(self._servers.by_id)
        self.hosts = {host_id: node.info for host_id, node in self.nodes.items()}
        self.router = ClusterRouter(self, [next(iter(self.nodes))] * CLUSTER_SLOTS)
        self.shards: dict[int, Shard] = {}
        self.uncovered = 0
        self.since: dict[int, float] = {}
        timeout = next(iter(self.nodes.values())).socket_timeout
        self.patience = DEFAULT_SOCKET_TIMEOUT if timeout is None else timeout
        self._epoch = 0
        self._next_id = 0
        self._moved: dict[int, tuple[float, Address]] = {}  # by slot: since when, and whose
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: another thread of the parent may hold a lock."""
        self._changing = threading.RLock()  # a signal handler may use the cluster
        self._times.start_over()

    def get_address(self, host_id: int) -> str:
        """Return where a host is, or was."""
        return self.replicas.get_address(host_id) or self._servers.get_address(host_id)

    # What redirects need; see `rounds.port.Layout`.

    def get_slot(self, key: Key) -> int:
        """Return the slot of a key."""
        return self.router.get_slot(key)

    def get_owner(self, slot: int) -> int:
        """Return the id of the host that owns a slot, as far as is known."""
        return self.router.owners[slot]

    def get_node(self, host_id: int) -> Node | None:
        """Return the node that has a host id now."""
        return self._servers.by_id.get(host_id) or self.replicas.by_id.get(host_id)

    def get_shard(self, host_id: int) -> int:
        """Return the id of the shard that a host is part of."""
        return self.replicas.get_shard(host_id)

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them."""
        return self.replicas.get_readers(shard)

    def may_be_elsewhere(self, host_id: int) -> bool:
        """Return True: any slot may be with another node by now."""
        return True

    def note_redirected(self, host_id: int, said: Redirected, question: Args) -> None:
        """Do nothing: such nodes say MOVED, and a look is wanted anyway."""

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Process MOVED: a slot belongs to an address. It takes effect at once."""
        place = self._servers.read(address, said_by)
        if place is None or not 0 <= slot < CLUSTER_SLOTS:
            self.want_look()
            return
        with self._changing:
            node = self._servers.at(place)
            if self.router.owners[slot] == node.host_id and self.is_known:
                return  # old news
            self._moved[slot] = (monotonic(), place)
            self.router.owners[slot] = node.host_id
            self.version += 1
        self.want_look()

    def find(self, address: str, said_by: int) -> int | None:
        """Return the host id of the address in an ASK reply; None if it is unusable."""
        place = self._servers.read(address, said_by)
        if place is None:
            self.want_look()
            return None
        with self._changing:
            return self._servers.at(place).host_id

    @property
    def is_look_due(self) -> bool:
        """Whether it is time for a look; the next caller takes it."""
        return monotonic() >= self._times.look_at or (
            self.replicas.measures_lag and self.replicas.is_look_due
        )

    def look_if_due(self) -> Rounds:
        """Yield the rounds of a look, if it is time and no other caller looks."""
        yield from super().look_if_due()
        yield from self.replicas.look_if_due(self.nodes)

    # Before a batch.

    def _looking_first(self, batch: Batch[T]) -> Batch[T]:
        """See `looking`. If nothing is known and no node answers, all exchanges fail."""
        try:
            failure = yield from self.learn()
            if failure is None:
                return (yield from batch)
            while True:
                for exchange in next(batch):
                    node = self.get_node(exchange.host_id)
                    address = self._servers.likeness.address if node is None else node.address
                    text = at_node(failure, exchange.host_id, address)
                    exchange.fail(type(failure)(text))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()

    # Looking.

    def _look(self) -> Batch[bool]:
        """Ask one node after the other until one answers; apply its answer."""
        began = monotonic()
        reasons: list[Exception] = []
        outdated: list[Answer] = []
        has_changed: bool | None = None
        is_over = False
        try:
            asked = 0
            for node in self._whom_to_ask():
                if asked >= _MOST_ASKED and self.is_known:
                    break
                answer = yield from ask(node)
                asked += not isinstance(answer, NodeDown)
                if isinstance(answer, Exception):
                    if isinstance(answer.__cause__, DeadlineError):
                        is_over = True
                        break
                    reasons.append(answer)
                    continue
                try:
                    has_changed = self._take(answer, node, began)
                except Unusable as error:
                    reasons.append(error)
                if has_changed is not None:
                    break
                outdated.append(answer)
            if has_changed is None and len(outdated) > 1:  # what is known must be wrong
                newest = max(outdated, key=lambda answer: answer.epoch or 0)
                with self._changing:
                    has_changed = self._apply(newest, began)
        finally:
            if has_changed is not None:
                self._failure = None
            elif reasons and not is_over:
                self._failed_looks += 1
                self._failure = failure_of(reasons)
            self._times.plan(
                has_changed,
                is_cut_short=not reasons and has_changed is None,
                is_calm=not (self._moved or self.uncovered)
                and all(node.health.is_well for node in self.nodes.values()),
            )
            if self.uncovered:
                self.want_look()
        return is_over

    def _whom_to_ask(self) -> Iterator[Node]:
        """Yield nodes in the order in which to ask them, each once."""
        seen: set[Node] = set()
        with self._changing:
            primaries = list(self.nodes.values())
            seeds = [self._servers.at(place) for place in self._servers.seeds]
        for nodes in (primaries, seeds):
            random.shuffle(nodes)
            nodes.sort(key=lambda node: not node.health.is_well)
        healthy = [node for node in primaries if node.health.is_well]
        replicas = [m.address for shard in self.shards.values() for m in shard.replicas]
        random.shuffle(replicas)
        # A seed is among the first: if the whole cluster has moved, the others are outdated.
        yield from _each_once([*healthy[: _MOST_ASKED - 1], *seeds[:1], *healthy], seen)
        for place in replicas:
            with self._changing:
                node = self._servers.at(place)
            if node.health.is_well or not self.is_known:
                yield from _each_once([node], seen)
        yield from _each_once([*seeds, *primaries], seen)

    def _take(self, answer: Answer, asked: Node, began: float) -> bool | None:
        """Apply an answer; return whether something has changed.

        Returns None if it is older than what is known: the node was left behind.

        Raises:
            Unusable: it is not about this cluster.
        """
        if not answer.shards:
            text = "It does not belong to a cluster whose nodes own slots"
            raise Unusable(at_node(text, -1, asked.address))
        answer.shards = [*map(self._servers.mapped, answer.shards)]
        with self._changing:
            if self.is_known:
                self._check_kinship(answer.shards, asked)
                is_older = answer.epoch is not None and answer.epoch < self._epoch
                known = ids_of(self.shards.values())
                if is_older and not known.isdisjoint(ids_of(answer.shards)):
                    return None
            self._servers.likeness = asked.info  # its credentials work
            return self._apply(answer, began)

    def _check_kinship(self, shards: Iterable[Shard], asked: Node) -> None:
        if not are_kin(self.shards.values(), shards, address_of(asked.info)):
            text = (
                "It now belongs to another cluster, none of whose nodes is known here. "
                "Correct HOSTS; if the whole cluster was replaced, restart this process"
            )
            raise Unusable(at_node(text, -1, asked.address))

    def _apply(self, answer: Answer, began: float) -> bool:
        """Update everything from an answer; return whether something has changed."""
        shards = sorted(answer.shards, key=lambda shard: min(shard.slots))
        by_id = number_shards(self.shards, shards, self._next_id)
        self._next_id = max(self._next_id, *(host_id + 1 for host_id in by_id))
        primaries = {
            host_id: self._servers.at(shard.primary.address) for host_id, shard in by_id.items()
        }
        # A MOVED that came after the question was sent is newer than the answer.
        self._moved = {s: moved for s, moved in self._moved.items() if moved[0] >= began}
        kept = {*self._servers.seeds, *(place for _, place in self._moved.values())}
        everybody = self._servers.rename(primaries, kept)
        owners = self._owners(by_id)
        for slot, (_, place) in self._moved.items():
            owners[slot] = self._servers.at(place).host_id
        nodes = dict(sorted(primaries.items()))
        has_changed = not self.is_known or nodes != self.nodes or owners != self.router.owners
        self.shards = by_id
        if has_changed:
            if self.is_known:
                self.since.update(
                    (i, time()) for i in nodes.keys() & self.nodes if nodes[i] != self.nodes[i]
                )
            self.nodes = nodes
            self.hosts = {host_id: node.info for host_id, node in nodes.items()}
            self.router = ClusterRouter(self, owners)
            self.version += 1
        self._epoch = answer.epoch or 0
        self.is_known = True
        self.replicas.learn(
            {
                host_id: infos_at(
                    self._servers.likeness, sorted(m.address for m in shard.replicas)
                )
                for host_id, shard in by_id.items()
            }
        )
        self._servers.keep_only(everybody)
        return has_changed

    def _owners(self, by_id: Mapping[int, Shard]) -> list[int]:
        """Return each slot's owner; for one without, a host that will reply CLUSTERDOWN."""
        owners = [_NOBODY] * CLUSTER_SLOTS
        for host_id, shard in by_id.items():
            for first, last in shard.slots:
                owners[first : last + 1] = [host_id] * (last + 1 - first)
        self.uncovered = owners.count(_NOBODY)
        if self.uncovered:
            before, anybody = self.router.owners, next(iter(by_id))
            owners = [
                owner if owner != _NOBODY else old if old in by_id else anybody
                for owner, old in zip(owners, before, strict=True)
            ]
        return owners


_NOBODY = -(2**31)


def _each_once(nodes: Iterable[Node], seen: set[Node]) -> Iterator[Node]:
    for node in nodes:
        if node not in seen:
            seen.add(node)
            yield node
