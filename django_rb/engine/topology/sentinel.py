"""The topology of shards that Sentinels monitor, which report the primary of each.

Sentinels are asked by exchanges in a caller's batch, by one caller at a time; other callers go
on with what is known. Normally, the Sentinel that answered last is asked twice per second. A
failed connection or READONLY causes another look, but not more than four per second. Then all
Sentinels are asked in parallel, and the first one with news counts.

A new address is accepted if the node there replies that it is a primary, and if no newer
failover of the shard is known (its config-epoch). Then a new `Node` replaces the old one, to
which nothing is sent any more. If it is not accepted, the other Sentinels are asked; if none
of them has a better one, the last known address stays. The successor in a demoted primary's
reply (REDIRECT) is used until Sentinels report another node that is a primary.

https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar, cast

from redis.sentinel import MasterNotFoundError

from ..errors import LostRace, Redirected, at_node
from ..nodes.changes import HealthChanges, RecentlyLogged
from ..nodes.failing import DeadlineError
from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from ..protocol.encoding import Args
from ..protocol.exchange import Batch, Exchange
from ..rounds.port import Rounds
from ..routing.routers import BaseRouter
from ..wording import clause, get_logger
from .look_times import LookTimes
from .questions import address_of
from .replicas import ReadFrom, Replicas, infos_at
from .sentinel_questions import Claim, ask, error_in, find_newer, race, run, tells_all
from .sentinel_replies import read_address, read_epoch, read_replicas
from .sentinel_settings import Watched
from .slots_replies import Address
from .unslotted import Unslotted

T = TypeVar("T")

AddressMap = Callable[[str, int], tuple[str, int]]

logger = get_logger("django_rb.topology")

# Seconds between two looks: at least, after an unexpected reply or failure; and normally.
LEAST_SECONDS, PERIOD = 0.25, 0.5

# After this many looks, another Sentinel is asked than the one that answered last, which may be
# cut off from the others without noticing.
_LOOKS_OF_ONE = 10

# Host ids of nodes that are asked whether they are primaries: this less the shard's.
_FIRST_CANDIDATE = -1_000_000

_NOT_ASKED = "Its Sentinels have not been queried yet"


class SentinelTopology(Unslotted):
    """The shards of one cluster, the addresses of their primaries, and the router over them.

    Args:
        watched: how to connect to the nodes of each shard, and the addresses of Sentinels.
        make_node: creates the node of a primary from what is known of it.
        make_replica, make_sentinel: create those of a replica and of a Sentinel.
        use: called with all servers that there may be connections to, by host id.
        address_map: the addresses to use instead of those that Sentinels report.
        alias: the alias of the cluster, for the log.
        read_from: where reads go.
        changes: collects the changes of primaries.

    Attributes:
        hosts: what is known of each shard's primary, by host id.
        nodes: the primaries, by host id. Calls to an unknown one fail.
        sentinels: the Sentinels; their host ids are below 0.
        router: decides which host owns a key; it is never replaced.
        is_known: the primary of at least one shard is known.
    """

    router: BaseRouter

    def __init__(
        self,
        watched: Watched,
        make_node: Callable[[HostInfo], Node],
        make_replica: Callable[[HostInfo], Node],
        make_sentinel: Callable[[HostInfo], Node],
        use: Callable[[Mapping[int, Node]], None],
        address_map: AddressMap | None = None,
        alias: str | None = None,
        read_from: ReadFrom | None = None,
        changes: HealthChanges | None = None,
    ) -> None:
        shards = watched.shards
        super().__init__(
            shards,
            LookTimes(LEAST_SECONDS, PERIOD),
            Replicas(read_from or ReadFrom(), make_replica),
            make_node,
            use,
            alias,
            changes,
        )
        self._map = address_map
        for node in self.nodes.values():
            node.health.bar(_NOT_ASKED)
        self.sentinels = [make_sentinel(info) for info in watched.sentinels]
        self._addresses.update((node.host_id, node.address) for node in self.sentinels)
        # By Sentinel and name of the shard, as last reported.
        self._told_replicas: dict[Node, dict[str, list[Address]]] = {}
        self._candidates: dict[int, Node] = {}  # possible new primaries, by separate ids
        self._names = {host_id: cast(str, info.master_name) for host_id, info in shards.items()}
        self._epochs = dict.fromkeys(shards, 0)
        self._favourite: Node | None = None  # the Sentinel that answered last
        self._looks = 0
        self._recently_logged = RecentlyLogged()
        self._use_all()

    # Looking.

    def _look(self) -> Batch[bool]:
        """Ask Sentinels until there is an acceptable answer about each shard."""
        unsettled = set(self._names)
        reasons: dict[Node, Exception] = {}
        refused: dict[int, list[Claim]] = defaultdict(list)
        replicas: dict[int, list[Address]] = {}
        left = list(self.sentinels)
        has_changed = is_heard = False
        is_cut_short = True
        try:
            while unsettled and left:
                answers = yield from self._hear(left, reasons)
                if any(isinstance(r.__cause__, DeadlineError) for r in reasons.values()):
                    return True
                left = [node for node in left if node not in answers and node not in reasons]
                for sentinel, addresses in answers.items():
                    is_heard = True
                    claims = {
                        host_id: Claim(sentinel, addresses[self._names[host_id]])
                        for host_id in sorted(unsettled)
                        if self._names[host_id] in addresses
                    }
                    yield from self._judge(claims)
                    for host_id, claim in claims.items():
                        if claim.refusal is None:
                            unsettled.discard(host_id)
                            has_changed = self._apply(host_id, claim) or has_changed
                            replicas[host_id] = self._told_replicas[sentinel].get(
                                self._names[host_id], []
                            )
                        else:
                            refused[host_id].append(claim)
            for host_id in unsettled.copy():
                newer = find_newer(refused[host_id], len(self.sentinels))
                if newer is not None:
                    unsettled.discard(host_id)
                    has_changed = self._apply(host_id, newer) or has_changed
            self._know_replicas(replicas)
            is_cut_short = False
        finally:
            if self._candidates:
                self._candidates = {}
                self._use_all()
            if not is_cut_short:
                self._conclude(unsettled, reasons, refused, is_heard=is_heard)
            self._times.plan(
                has_changed if is_heard else None,
                is_cut_short=is_cut_short,
                is_calm=all(node.health.is_well for node in self.nodes.values()),
            )
            if unsettled and is_heard:
                self.want_look()
        return False

    def _know_replicas(self, told: Mapping[int, Sequence[Address]]) -> None:
        """Set the replicas of some shards as Sentinels have reported them."""
        infos: dict[int, list[HostInfo]] = {
            shard: [node.info for node in nodes]
            for shard, nodes in self.replicas.by_shard.items()
        }
        for host_id, places in told.items():
            primary = self.hosts[host_id]
            mapped = map(self.to_ours, places)
            others = [place for place in mapped if place != address_of(primary)]
            if others or self.nodes[host_id].health.is_well:  # now replicas are needed
                infos[host_id] = infos_at(primary, others)
        with self._changing:
            if self.replicas.learn(infos):
                self._use_all()

    def _hear(
        self, sentinels: Sequence[Node], reasons: dict[Node, Exception]
    ) -> Batch[dict[Node, dict[str, Address]]]:
        """Ask Sentinels for the addresses of all primaries, by name; new ones come first.

        Normally, only one that has answered before is asked. Otherwise all are asked in
        parallel, until one has a new address, or has all of them if none was known.
        The errors of the others are added to `reasons`.
        """
        self._looks += 1
        is_troubled = self.is_known and self._times.is_wanted
        first = None if is_troubled else self._first_to_ask(sentinels)
        names = list(dict.fromkeys(self._names.values()))
        questions = [b"GET-MASTER-ADDR-BY-NAME"]
        if self.replicas.read_from.reads_replicas:
            questions.append(b"REPLICAS")
        exchanges = {
            node: ask(
                node, [(b"SENTINEL", *question) for question in product(questions, names)]
            )
            for node in ([first] if first else sentinels)
        }
        answers: dict[Node, dict[str, Address]] = {}

        def read(exchange: Exchange) -> dict[str, Address]:
            told = zip(names, map(read_address, exchange.replies), strict=False)
            return {name: self.to_ours(place) for name, place in told if place}

        def tells_news(exchange: Exchange) -> bool:
            return tells_all(exchange, len(names)) and self._has_news(read(exchange))

        def tells_enough(exchange: Exchange) -> bool:
            return tells_all(exchange, len(names))

        yield from race(list(exchanges.values()), tells_news if is_troubled else tells_enough)
        for node, exchange in exchanges.items():
            error = error_in(node, exchange)
            if error is None:
                answers[node] = read(exchange)
                self._told_replicas[node] = dict(
                    zip(names, map(read_replicas, exchange.replies[len(names) :]), strict=False)
                )
            elif not isinstance(error, LostRace):
                reasons[node] = error
        if answers:
            self._favourite = max(answers, key=lambda node: len(answers[node]))
        return dict(sorted(answers.items(), key=lambda answer: not self._has_news(answer[1])))

    def _has_news(self, addresses: Mapping[str, Address]) -> bool:
        """Return whether the reported address of some primary is new."""
        return any(
            name in addresses and addresses[name] != address_of(self.hosts[host_id])
            for host_id, name in self._names.items()
        )

    def _first_to_ask(self, sentinels: Sequence[Node]) -> Node | None:
        """Return the Sentinel that is asked alone; None to ask all of them."""
        well = [node for node in sentinels if node.health.is_well]
        if len(sentinels) != len(self.sentinels) or self._favourite not in well:
            return None
        if self._looks % _LOOKS_OF_ONE == 0:
            return well[self._looks // _LOOKS_OF_ONE % len(well)]
        return self._favourite

    def _judge(self, claims: Mapping[int, Claim]) -> Rounds:
        """Ask new nodes whether they are primaries, and Sentinels since when."""
        new = {
            host_id: claim
            for host_id, claim in claims.items()
            if claim.address != address_of(self.hosts[host_id])
        }
        if not new:
            return
        for host_id, claim in new.items():
            claim.node = self._node_for(host_id, claim.address)
        self._use_all()
        roles = {i: ask(cast(Node, claim.node), [(b"ROLE",)]) for i, claim in new.items()}
        epochs = {
            host_id: ask(claim.sentinel, [(b"SENTINEL", b"MASTER", self._names[host_id])])
            for host_id, claim in new.items()
        }
        yield from run([*roles.values(), *epochs.values()])
        for host_id, claim in new.items():
            if not epochs[host_id].has_errors and epochs[host_id].replies:
                claim.epoch = read_epoch(epochs[host_id].replies[0])
            claim.judge(roles[host_id], self._epochs[host_id])

    def _node_for(self, host_id: int, address: Address) -> Node:
        """Return a node at an address that may be a shard's new primary."""
        host, port = address
        extra = _FIRST_CANDIDATE - host_id
        info = replace(self.hosts[host_id], host_id=extra, host=host, port=port)
        node = self._candidates[extra] = self._make_node(info)
        self._addresses[extra] = node.address
        return node

    def _conclude(
        self,
        unsettled: set[int],
        reasons: Mapping[Node, Exception],
        refused: Mapping[int, Sequence[Claim]],
        *,
        is_heard: bool,
    ) -> None:
        """Report what is unknown, in the log and in the errors of nodes without an address."""
        said = "; ".join(dict.fromkeys(map(clause, reasons.values())))
        if not is_heard:
            self._failed_looks += 1
            text = f"No Sentinel answers. {said}"
            self._failure = MasterNotFoundError(text)
            self._log("dead", f"{text}. The last known addresses are still used")
        for host_id in unsettled:
            name = self._names[host_id]
            if claims := refused.get(host_id):
                why = "; ".join(dict.fromkeys(str(claim.refusal) for claim in claims))
                text = f"No primary of {name!r} was found. {why}"
            elif is_heard:
                text = f"No Sentinel that answers knows {name!r}" + (
                    f". {said}" if said else ""
                )
            if is_heard:
                self._log((host_id, text), at_node(text, host_id, self.get_address(host_id)))
                if not self.is_known:
                    self._failure = MasterNotFoundError(text)
                    self._failed_looks += 1
            node = self.nodes[host_id]
            if not node.info.is_placed:
                node.health.bar(text)
        if is_heard and self.is_known:
            self._failure = None

    def _log(self, what: object, text: str) -> None:
        if self._recently_logged.is_new(cast(Any, what)):
            cluster = f" [cluster {self._alias}]" if self._alias else ""
            logger.warning("%s%s", text, cluster)

    def _apply(self, host_id: int, claim: Claim) -> bool:
        """Set a shard's primary as a Sentinel reports it; return whether it is new."""
        node = claim.node
        if node is None:  # it is already the primary
            return False
        with self._changing:
            node.rename(host_id)
            self._epochs[host_id] = claim.epoch
            self._candidates.pop(_FIRST_CANDIDATE - host_id, None)
            sentinel = claim.sentinel.address.removesuffix("/0")
            self._put(host_id, node, f"Sentinel {sentinel}")
        return True

    def _put(self, host_id: int, node: Node, said_by: str) -> None:
        with self._changing:
            self.hosts = {**self.hosts, host_id: node.info}
            super()._put(host_id, node, said_by)

    def note_redirected(self, host_id: int, said: Redirected, question: Args) -> None:
        """Follow REDIRECT until Sentinels are asked, which happens soon."""
        super().note_redirected(host_id, said, question)
        self.want_look()

    def _read_place(self, said: Redirected, here: Address) -> Address | None:
        place = super()._read_place(said, here)
        return None if place is None else self.to_ours(place)

    def _use_all(self) -> None:
        with self._changing:
            sentinels = {node.host_id: node for node in self.sentinels}
            extra = {**sentinels, **self._candidates, **self.replicas.by_id}
            self._use({**self.nodes, **extra})

    def to_ours(self, address: Address) -> Address:
        """Return the address to use for one that Sentinels report; see ADDRESS_MAP."""
        if self._map is None:
            return address
        host, port = self._map(*address)
        return host.lower(), int(port)
