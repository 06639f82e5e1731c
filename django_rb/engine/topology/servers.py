"""The servers of a Redis Cluster by address, each with its `Node`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ..nodes.hosts import HostInfo
from ..nodes.node import Node
from .questions import address_of
from .slots_replies import Address, Member, Shard, read_address

AddressMap = Callable[[str, int], tuple[str, int]]


class Servers:
    """All known servers, whatever their role. Callers must not change it concurrently.

    Args:
        seeds: some of them, numbered as in HOSTS.
        make_node: makes a node of what is known of a server.
        use: called with all servers that there may be connections to, by host id.
        address_map: where a node is that says that it is at a host and port.

    Attributes:
        seeds: those of HOSTS, by address.
        by_id: the node of each server, by host id; those that own no slots have ids below 0.
        likeness: the node whose options are used for servers that nodes report.
    """

    def __init__(
        self,
        seeds: Mapping[int, HostInfo],
        make_node: Callable[[HostInfo], Node],
        use: Callable[[Mapping[int, Node]], None],
        address_map: AddressMap | None,
    ) -> None:
        self._make_node = make_node
        self._use = use
        self._map = address_map
        self.likeness = next(iter(seeds.values()))
        self.seeds = {address_of(info): info for info in seeds.values()}
        self.by_id = {host_id: make_node(info) for host_id, info in seeds.items()}
        self._by_address = {address_of(node.info): node for node in self.by_id.values()}
        self._addresses = {host_id: node.address for host_id, node in self.by_id.items()}
        self._next_extra = -1
        use(self.by_id)

    def get_address(self, host_id: int) -> str:
        """Return where a host is, or was."""
        return self._addresses[host_id]

    def at(self, place: Address) -> Node:
        """Return the node at an address; a new one has an id below 0 at first."""
        node = self._by_address.get(place)
        if node is None:
            info = self.seeds.get(place, self.likeness)
            host_id = self._new_extra()
            info = replace(info, host_id=host_id, host=place[0], port=place[1])
            node = self._by_address[place] = self._make_node(info)
            self._addresses[host_id] = node.address
            self.by_id = {**self.by_id, host_id: node}
            self._use(self.by_id)
        return node

    def _new_extra(self) -> int:
        self._next_extra -= 1
        return self._next_extra

    def rename(self, primaries: Mapping[int, Node], kept: Iterable[Address]) -> dict[int, Node]:
        """Give primaries their host ids, and others that are kept ids below 0.

        Returns them all by id. `keep_only` forgets the rest.
        """
        names = {node: host_id for host_id, node in primaries.items()}
        for place in kept:
            node = self.at(place)
            if node not in names:
                names[node] = node.host_id if node.host_id < 0 else self._new_extra()
        everybody = {host_id: node for node, host_id in names.items()}
        # In this order, so that each host id of a router has a node.
        self._use({**self.by_id, **everybody})
        for node, host_id in names.items():
            self._addresses[host_id] = node.address
            if node.host_id != host_id:
                node.rename(host_id)
        return everybody

    def keep_only(self, everybody: dict[int, Node]) -> None:
        """Forget the other servers; their connections are closed."""
        self._by_address = {address_of(node.info): node for node in everybody.values()}
        self.by_id = everybody
        self._use(everybody)

    # Addresses as nodes report them.

    def read(self, said: str, said_by: int) -> Address | None:
        """Return the address in a MOVED or ASK reply of a host; None if it is unusable."""
        node = self.by_id.get(said_by)
        asked = ("", 0) if node is None else address_of(node.info)
        address = read_address(said, asked)
        if address is None or not address[0]:
            return None
        return address if said.startswith(":") else self._to_ours(address)

    def mapped(self, shard: Shard) -> Shard:
        """Return a shard with the addresses of its nodes translated by the address map."""
        if self._map is None:
            return shard

        def at(member: Member) -> Member:
            return replace(member, address=self._to_ours(member.address))

        return Shard(at(shard.primary), [at(m) for m in shard.replicas], shard.slots)

    def _to_ours(self, address: Address) -> Address:
        if self._map is None:
            return address
        host, port = self._map(*address)
        return host.lower(), int(port)
