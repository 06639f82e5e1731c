"""The topology of a Redis Cluster or Valkey Cluster: the nodes say what there is.

What is known is asked for by exchanges of a batch that needs it, one node at a time and by one
caller at a time; the others go on with what is known. Whoever meets something that does not
fit (MOVED, a connection that failed, a slot without owner) has it asked for again, but not more
often than once in a second, and less often the longer nothing changes.

A shard keeps its host id while the process lives, whichever of its nodes is its primary.
Servers that own no slots have ids below 0: seeds of HOSTS, replicas that were asked, nodes that
MOVED and ASK name. Connections belong to a server, and stay when its part changes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar, cast

import redis
from redis.exceptions import NoPermissionError, ResponseError

from ..errors import BadHostSetup, at_node
from ..nodes.failing import DeadlineError
from ..nodes.hosts import HostInfo
from ..nodes.node import DEFAULT_SOCKET_TIMEOUT, Node
from ..protocol.encoding import Args, Key
from ..protocol.exchange import Batch, Exchange, Pause, PipelineExchange
from ..rounds.port import Rounds
from ..routing.slots import CLUSTER_SLOTS, ClusterRouter
from ..wording import clause
from .slots_replies import (
    Address,
    Shard,
    read_address,
    read_epoch,
    read_shards,
    read_slots,
)

T = TypeVar("T")

AddressMap = Callable[[str, int], tuple[str, int]]

# Seconds between two looks: at least, where something does not fit; and where all is well.
LEAST_SECONDS, PERIOD = 1.0, 60.0

# While nothing changes, a look comes after this part of the time that the trouble has lasted.
TROUBLE_PART = 1 / 30

# Waiting for nodes that say that they cannot answer yet is of no use after so many seconds.
_HOPE_SECONDS = 10.0

# Seconds after which nobody believes any more that somebody is looking.
_LONGEST_LOOK = 15.0

# So many nodes are asked in one look, if the first ones do not answer.
_MOST_ASKED = 3

_WAIT_SECONDS = 0.005  # between two looks at whether another caller has learned something
_TRIES_OF_QUESTION = 2  # the second on a new connection

_SHARDS: Args = (b"CLUSTER", b"SHARDS")
_SLOTS: Args = (b"CLUSTER", b"SLOTS")
_INFO: Args = (b"CLUSTER", b"INFO")


class RedisClusterTopology:
    """The shards of one cluster, their primaries, and the router over them.

    Args:
        seeds: some of its nodes, numbered as in HOSTS.
        make_node: makes a node of what is known of a server.
        use: is told all servers that there may be connections to, by host id.
        address_map: where a node is that says that it is at a host and port.

    Attributes:
        hosts: what is known of each shard's primary, by host id, in the order of the ids; the
            seeds until something is known.
        nodes: the nodes, by host id.
        router: decides who owns a key; a new one whenever that changes, but for single slots.
        is_known: some node has said what there is.
        patience: seconds for which a call without deadline waits for nodes.
        shards: what the nodes said last, by host id.
        uncovered: how many slots have no owner.
    """

    def __init__(
        self,
        seeds: Mapping[int, HostInfo],
        make_node: Callable[[HostInfo], Node],
        use: Callable[[Mapping[int, Node]], None],
        address_map: AddressMap | None = None,
    ) -> None:
        for host_id, info in seeds.items():
            if info.unix_socket_path is not None:
                raise BadHostSetup(
                    "The nodes of a Redis Cluster tell each other's hosts and ports, and this "
                    "one is a unix socket. Give its host and port.",
                    ("HOSTS", host_id),
                )
        self._make_node = make_node
        self._use = use
        self._map = address_map
        self._likeness = next(iter(seeds.values()))  # how to speak to those that are told of
        self._seeds = {_address_of(info): info for info in seeds.values()}
        self.nodes = {host_id: make_node(info) for host_id, info in seeds.items()}
        self.hosts = {host_id: node.info for host_id, node in self.nodes.items()}
        self._servers = {_address_of(node.info): node for node in self.nodes.values()}
        self._all = dict(self.nodes)
        self._addresses = {host_id: node.address for host_id, node in self.nodes.items()}
        self.router = ClusterRouter(self, [next(iter(self.nodes))] * CLUSTER_SLOTS)
        self.is_known = False
        self.shards: dict[int, Shard] = {}
        self.uncovered = 0
        timeout = next(iter(self.nodes.values())).socket_timeout
        self.patience = DEFAULT_SOCKET_TIMEOUT if timeout is None else timeout
        self._epoch = 0
        self._next_id = 0
        self._next_extra = -1
        self._moved: dict[int, tuple[float, Address]] = {}  # by slot: since when, and whose
        self.start_over()
        # When somebody looks next, and not before when; as monotonic().
        self._look_at = self._not_before = float("-inf")
        self._trouble_since: float | None = None
        self._refused_since = self._refused_at = float("-inf")
        self._failed_looks = 0
        self._failure: Exception | None = None
        use(self._all)

    def start_over(self) -> None:
        """In a forked child: another thread of the parent may hold a lock."""
        self._changing = threading.RLock()  # a signal handler may use the cluster
        self._looking_since = float("-inf")

    def get_address(self, host_id: int) -> str:
        """Return where a host is, or was."""
        return self._addresses[host_id]

    # What redirects need; see `rounds.port.Layout`.

    def get_slot(self, key: Key) -> int:
        """Return the slot of a key."""
        return self.router.get_slot(key)

    def get_owner(self, slot: int) -> int:
        """Return the id of the host that owns a slot, as far as is known."""
        return self.router.owners[slot]

    def get_node(self, host_id: int) -> Node | None:
        """Return the node that has a host id now."""
        return self._all.get(host_id)

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Take note of MOVED: a slot belongs to an address. It counts at once."""
        place = self._read(address, said_by)
        if place is None or not 0 <= slot < CLUSTER_SLOTS:
            self.want_look()
            return
        with self._changing:
            node = self._server_at(place)
            if self.router.owners[slot] == node.host_id and self.is_known:
                return  # old news
            self._moved[slot] = (monotonic(), place)
            self.router.owners[slot] = node.host_id
        self.want_look()

    def find(self, address: str, said_by: int) -> int | None:
        """Return the host id of an address that ASK names; None if it is not to be told."""
        place = self._read(address, said_by)
        if place is None:
            self.want_look()
            return None
        with self._changing:
            return self._server_at(place).host_id

    def may_wait(self) -> bool:
        """Return whether waiting for nodes that cannot answer yet has been of any use.

        It has not where they have been saying so for long.
        """
        now = monotonic()
        if now - self._refused_at > _HOPE_SECONDS:
            self._refused_since = now
        self._refused_at = now
        return now - self._refused_since < _HOPE_SECONDS

    def want_look(self) -> None:
        """Have the layout looked at soon."""
        now = monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        self._look_at = min(self._look_at, max(now, self._not_before))

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to look, for whoever comes first."""
        return monotonic() >= self._look_at

    def look_if_due(self) -> Rounds:
        """Yield the rounds that ask for the layout, if it is time and nobody else does."""
        if self.is_look_due and self._begin_look():
            try:
                if self.is_look_due:
                    yield from self._look()
            finally:
                self._end_look()

    # Before a batch.

    def looking(self, batch: Batch[T]) -> Batch[T]:
        """Return a batch that asks for the layout first.

        If nothing is known and nobody tells, all of its exchanges have failed.
        """
        looked = self._looking_first(batch)
        name: str = cast(Any, batch).__name__
        cast(Any, looked).__name__ = name  # observers are told what was called
        return looked

    def _looking_first(self, batch: Batch[T]) -> Batch[T]:
        try:
            failure = yield from self.learn()
            if failure is None:
                return (yield from batch)
            while True:
                for exchange in next(batch):
                    node = self.get_node(exchange.host_id)
                    address = self._likeness.address if node is None else node.address
                    text = at_node(failure, exchange.host_id, address)
                    exchange.fail(type(failure)(text))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            batch.close()

    def learn(self) -> Batch[Exception | None]:
        """Ask for the layout if it is time; return why nothing is known, if it is so."""
        failed_before = self._failed_looks
        while not self.is_known:
            failure = self._failure
            if failure is not None and (
                self._failed_looks != failed_before or monotonic() < self._not_before
            ):
                return failure
            is_over = False
            if self._begin_look():
                try:
                    if not self.is_known:
                        is_over = yield from self._look()
                finally:
                    self._end_look()
            else:  # another caller is about to know
                pause = Pause(_WAIT_SECONDS)
                yield pause
                is_over = pause.is_over
            if is_over and not self.is_known:
                return redis.TimeoutError("Deadline exceeded")
        yield from self.look_if_due()
        return None

    # Looking.

    def _begin_look(self) -> bool:
        """Return whether to look now: nobody else does.

        Who looks and was interrupted before it could say so has looked in vain after a while.
        """
        with self._changing:
            now = monotonic()
            if now - self._looking_since < _LONGEST_LOOK:
                return False
            self._looking_since = now
            return True

    def _end_look(self) -> None:
        self._looking_since = float("-inf")

    def _look(self) -> Batch[bool]:
        """Ask one node after the other until one answers; take note of what it says.

        Returns whether the time of the call was over before.
        """
        began = monotonic()
        self._look_at = began + PERIOD  # whoever wants a look from now on wants another one
        reasons: list[Exception] = []
        outdated: list[_Answer] = []
        has_changed: bool | None = None
        is_over = False
        try:
            for asked, node in enumerate(self._whom_to_ask()):
                if asked >= _MOST_ASKED and self.is_known:
                    break
                answer = yield from _ask(node)
                if isinstance(answer, Exception):
                    if isinstance(answer.__cause__, DeadlineError):
                        is_over = True
                        break
                    reasons.append(answer)
                    continue
                try:
                    has_changed = self._take(answer, node, began)
                except _Unusable as error:
                    reasons.append(error)
                if has_changed is not None:
                    break
                outdated.append(answer)
            if has_changed is None and len(outdated) > 1:  # it is what is known that is wrong
                newest = max(outdated, key=lambda answer: answer.epoch or 0)
                with self._changing:
                    has_changed = self._apply(newest, began)
        finally:
            if has_changed is not None:
                self._failure = None
            elif reasons and not is_over:
                self._failed_looks += 1
                self._failure = _failure_of(reasons)
            self._plan(has_changed, is_cut_short=not reasons and has_changed is None)
        return is_over

    def _plan(self, has_changed: bool | None, *, is_cut_short: bool) -> None:
        """Plan the next look.

        Args:
            has_changed: whether what was said was new; None if nobody said anything.
        """
        now = monotonic()
        if is_cut_short:  # by an interrupt or a deadline: the next caller tries
            self._look_at = now
            return
        wanted_again = self._look_at < now  # while this one was under way
        pause = LEAST_SECONDS
        if has_changed or self._trouble_since is None:
            self._trouble_since = None
        else:
            lasted = now - self._trouble_since
            pause = min(PERIOD, max(LEAST_SECONDS, lasted * TROUBLE_PART))
        self._not_before = now + pause * random.uniform(1, 1.2)
        self._look_at = now + PERIOD * random.uniform(0.9, 1)
        if wanted_again or has_changed is None or self.uncovered:
            self.want_look()
        elif not has_changed and self._is_calm():
            self._trouble_since = None

    def _is_calm(self) -> bool:
        return not self._moved and all(node.health.is_well for node in self.nodes.values())

    def _whom_to_ask(self) -> Iterator[Node]:
        """Yield nodes in the order in which they are to be asked, each once."""
        seen: set[Node] = set()
        with self._changing:
            primaries = list(self.nodes.values())
        random.shuffle(primaries)
        primaries.sort(key=lambda node: not node.health.is_well)
        healthy = [node for node in primaries if node.health.is_well]
        replicas = [m.address for shard in self.shards.values() for m in shard.replicas]
        seeds = list(self._seeds)
        random.shuffle(replicas)
        random.shuffle(seeds)
        yield from _each_once(healthy, seen)
        for place in (*replicas, *seeds):
            with self._changing:
                node = self._server_at(place)
            if node.health.is_well or not self.is_known:
                yield from _each_once([node], seen)
        yield from _each_once(primaries, seen)

    def _take(self, answer: _Answer, asked: Node, began: float) -> bool | None:
        """Take note of an answer; return whether something has changed.

        Returns None if it is older than what is known: the node was left behind.

        Raises:
            _Unusable: it is none of this cluster's.
        """
        if not answer.shards:
            text = "It belongs to no cluster whose nodes own slots"
            raise _Unusable(at_node(text, -1, asked.address))
        answer.shards = [self._mapped(shard) for shard in answer.shards]
        with self._changing:
            if self.is_known:
                self._check_kinship(answer.shards, asked)
                ids, _ = self._members()
                told = {m.node_id for shard in answer.shards for m in shard.members}
                is_older = answer.epoch is not None and answer.epoch < self._epoch
                if is_older and not told.isdisjoint(ids):
                    return None
            self._likeness = asked.info  # its password is the right one
            return self._apply(answer, began)

    def _mapped(self, shard: Shard) -> Shard:
        if self._map is None:
            return shard

        def at(member: Any) -> Any:
            return replace(member, address=self._to_ours(member.address))

        return Shard(at(shard.primary), [at(m) for m in shard.replicas], shard.slots)

    def _to_ours(self, address: Address) -> Address:
        if self._map is None:
            return address
        host, port = self._map(*address)
        return host.lower(), int(port)

    def _read(self, said: str, said_by: int) -> Address | None:
        node = self._all.get(said_by)
        asked = ("", 0) if node is None else _address_of(node.info)
        address = read_address(said, asked)
        if address is None or not address[0]:
            return None
        return address if said.startswith(":") else self._to_ours(address)

    def _members(self) -> tuple[dict[str, Address], set[Address]]:
        members = [m for shard in self.shards.values() for m in shard.members]
        return {m.node_id: m.address for m in members}, {m.address for m in members}

    def _is_kin(self, shards: Iterable[Shard], place: Address) -> bool:
        """Return whether an answer knows nodes that are known here, beside the one asked.

        By id, or by address: a cluster may have been made anew where it was.
        """
        ids, addresses = self._members()
        told = [m for shard in shards for m in shard.members]
        if len(told) == 1 or len(ids) == 1:
            return any(m.node_id in ids or m.address in addresses for m in told)
        return any(
            (m.node_id in ids and ids[m.node_id] != place)
            or (m.address in addresses and m.address != place)
            for m in told
            if m.address != place
        )

    def _check_kinship(self, shards: Iterable[Shard], asked: Node) -> None:
        if not self._is_kin(shards, _address_of(asked.info)):
            text = (
                "It belongs to another cluster by now: none of its nodes is one of those known "
                "here. Correct HOSTS; if the cluster was replaced as a whole, restart this "
                "process"
            )
            raise _Unusable(at_node(text, -1, asked.address))

    def _apply(self, answer: _Answer, began: float) -> bool:
        """Be as an answer says; return whether something has changed."""
        shards = sorted(answer.shards, key=lambda shard: min(shard.slots))
        by_id = self._numbered(shards)
        primaries = {
            host_id: self._server_at(shard.primary.address) for host_id, shard in by_id.items()
        }
        # A MOVED that came after the question was sent is newer than the answer.
        self._moved = {s: moved for s, moved in self._moved.items() if moved[0] >= began}
        kept = {*self._seeds, *(place for _, place in self._moved.values())}
        names = {node: host_id for host_id, node in primaries.items()}
        for place in kept:
            node = self._server_at(place)
            if node not in names:
                names[node] = node.host_id if node.host_id < 0 else self._new_extra()
        servers = {_address_of(node.info): node for node in names}
        everybody = {host_id: node for node, host_id in names.items()}
        # In this order: whoever learns of a host id from a router finds its node.
        self._use({**self._all, **everybody})
        for node, host_id in names.items():
            self._addresses[host_id] = node.address
            if node.host_id != host_id:
                node.rename(host_id)
        owners = self._owners(by_id)
        for slot, (_, place) in self._moved.items():
            owners[slot] = self._servers[place].host_id
        nodes = dict(sorted(primaries.items()))
        has_changed = not self.is_known or nodes != self.nodes or owners != self.router.owners
        self.shards, self._servers, self._all = by_id, servers, everybody
        if has_changed:
            self.nodes = nodes
            self.hosts = {host_id: node.info for host_id, node in nodes.items()}
            self.router = ClusterRouter(self, owners)
        self._epoch = answer.epoch or 0
        self.is_known = True
        self._use(everybody)
        return has_changed

    def _owners(self, by_id: Mapping[int, Shard]) -> list[int]:
        """Return the host id of each slot's owner; of one without, that of whoever says so."""
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

    def _numbered(self, shards: list[Shard]) -> dict[int, Shard]:
        """Give shards their host ids: those that they had, or new ones."""
        numbered: dict[int, Shard] = {}
        left = dict(self.shards)
        rest = shards
        for is_same in (_has_same_primary, _has_same_address, _shares_members):
            unknown: list[Shard] = []
            for shard in rest:
                host_id = next((i for i, old in left.items() if is_same(old, shard)), None)
                if host_id is None:
                    unknown.append(shard)
                else:
                    del left[host_id]
                    numbered[host_id] = shard
            rest = unknown
        for shard in rest:
            numbered[self._next_id] = shard
            self._next_id += 1
        return dict(sorted(numbered.items()))

    # Servers.

    def _server_at(self, place: Address) -> Node:
        """Return the node at an address; a new one has an id below 0 at first."""
        node = self._servers.get(place)
        if node is None:
            info = self._seeds.get(place, self._likeness)
            host_id = self._new_extra()
            info = replace(info, host_id=host_id, host=place[0], port=place[1])
            node = self._servers[place] = self._make_node(info)
            self._addresses[host_id] = node.address
            self._all = {**self._all, host_id: node}
            self._use(self._all)
        return node

    def _new_extra(self) -> int:
        self._next_extra -= 1
        return self._next_extra


_NOBODY = -(2**31)


class _Unusable(Exception):
    """An answer that tells nothing of this cluster."""


class _Answer:
    """What a node said.

    Attributes:
        shards: those that own slots.
        epoch: how much it knows of changes; None if it does not say.
    """

    def __init__(self, shards: list[Shard], epoch: int | None) -> None:
        self.shards = shards
        self.epoch = epoch


def _ask(node: Node) -> Batch[_Answer | Exception]:
    """Ask a node for the layout."""
    asked = _address_of(node.info)
    for question in (_SHARDS, _SLOTS):
        exchange = PipelineExchange(node.host_id, (question, _INFO))
        exchange.is_question = True
        exchange.bound = range(2)
        yield from _run(exchange)
        if exchange.error is not None:
            return exchange.error
        reply, info = exchange.replies
        if isinstance(reply, ResponseError):
            if "cluster support disabled" in str(reply):
                text = "It is no node of a cluster (cluster-enabled no)"
                return _Unusable(at_node(text, -1, node.address))
            if question is _SHARDS:
                continue
            if isinstance(reply, NoPermissionError):
                reply.args = (f"{reply} Allow the user +cluster|shards and +cluster|info.",)
            reply.args = (at_node(reply, -1, node.address),)
            return reply
        try:
            if question is _SHARDS:
                shards = read_shards(reply, asked, is_tls=node.info.ssl)
            else:
                shards = read_slots(reply, asked)
        except ValueError as error:
            return _Unusable(at_node(error, -1, node.address))
        return _Answer(shards, read_epoch(info))
    raise AssertionError  # the second question has an answer


def _run(exchange: Exchange) -> Rounds:
    for _ in range(_TRIES_OF_QUESTION):
        yield (exchange,)
        if not exchange.is_stale:
            return
        exchange.start_over()


def _address_of(info: HostInfo) -> Address:
    return info.host.lower(), info.port


def _each_once(nodes: Iterable[Node], seen: set[Node]) -> Iterator[Node]:
    for node in nodes:
        if node not in seen:
            seen.add(node)
            yield node


def _failure_of(reasons: list[Exception]) -> Exception:
    """Return why nobody told of the cluster."""
    are_late = all(isinstance(reason, redis.TimeoutError) for reason in reasons)
    kind: type[Exception] = redis.TimeoutError if are_late else redis.ConnectionError
    said = "; ".join(dict.fromkeys(map(clause, reasons)))
    return kind(f"No node tells of the Redis Cluster. {said}")


def _has_same_primary(old: Shard, new: Shard) -> bool:
    return old.primary.node_id == new.primary.node_id


def _has_same_address(old: Shard, new: Shard) -> bool:
    return old.primary.address == new.primary.address


def _shares_members(old: Shard, new: Shard) -> bool:
    ids = {member.node_id for member in old.members}
    addresses = {member.address for member in old.members}
    return any(m.node_id in ids or m.address in addresses for m in new.members)
