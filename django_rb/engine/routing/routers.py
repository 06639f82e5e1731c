"""Which node owns a key.

A router looks at keys and host ids only. It has no connections and does not consider the
nodes' health: a key stays on its node when the node is down. Routers are immutable; a
cluster creates a new one when its nodes change.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Mapping
from hashlib import shake_128
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol
from weakref import ref
from zlib import crc32

from ..errors import BadHostSetup, UnroutableCommand
from ..protocol.commands import keys_of
from ..secrecy import revealed
from .hashing import KetamaRing, Key, crc32_signed, encode_key, hash_tag, ketama_point
from .weights import checked_weights, weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..nodes.hosts import HostInfo


__all__ = [
    "SLOTS",
    "BaseRouter",
    "ConsistentHashingRouter",
    "HasHosts",
    "Key",
    "PartitionRouter",
    "SlotRouter",
]

SLOTS = 65536

# Finding the owner of a slot takes 8 bytes of a digest for each host id up to the highest.
MAX_SLOT_ROUTER_HOST_ID = 9999

_MASK = SLOTS - 1
_UNKNOWN = -1
_BRACE = ord("{")  # finding a number in bytes is ten times as fast as finding b"{"

# Never change it: it decides where the keys of every SlotRouter are. Of 2,000 numbers tried,
# this one gives clusters of 2 to 64 equal nodes the flattest tables: with N nodes, no
# node's share is more than 0.79 % * sqrt(N) off 1/N (the median of all numbers tried
# is 1.17 %), which is 2.3 % for up to 8 nodes, 2.8 % to 16, 3.5 % to 32 and 6 % to 64.
_SEED = b"django-rb 509 "


class HasHosts(Protocol):
    """The part of a cluster that a router uses."""

    @property
    def hosts(self) -> Mapping[int, HostInfo]:
        """The nodes by host id."""
        ...


class BaseRouter:
    """The base class of routers, which map keys to host ids.

        class ByLength(BaseRouter):
            def get_host_for_key(self, key):
                return len(encode_key(key)) % len(self.cluster.hosts)

    Args:
        cluster: the cluster whose keys are placed. Further arguments of a subclass are
            the cluster's router options.

    Attributes:
        has_slots: the nodes themselves place keys by slots, and take no command on keys of
            several slots; a `ClusterRouter`.

    Raises:
        BadHostSetup: the cluster has no hosts.
    """

    has_slots = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a class that places a key in its own way place many keys so, too."""
        super().__init_subclass__(**kwargs)
        if "get_host_for_key" in vars(cls) and "get_hosts_for_keys" not in vars(cls):
            cls.get_hosts_for_keys = BaseRouter.get_hosts_for_keys  # type: ignore[method-assign]

    def __init__(self, cluster: HasHosts) -> None:
        if not cluster.hosts:
            raise BadHostSetup("There are no hosts. Name at least one node.", ("HOSTS",))
        # The cluster has a reference to its router. With a strong one back, an unused cluster
        # would keep its connections until the next garbage collection.
        self._cluster = ref(cluster)

    @property
    def cluster(self) -> HasHosts:
        """The cluster this router belongs to.

        Raises:
            RuntimeError: the cluster was garbage-collected; a router does not keep it alive.
        """
        cluster = self._cluster()
        if cluster is None:
            raise RuntimeError(
                f"The cluster of this {type(self).__name__} does not exist any more. "
                "Keep a reference to the cluster for as long as you use its router."
            )
        return cluster

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns `key`; subclasses implement this.

        Raises:
            TypeError: `key` is not bytes, text or a number.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks get_host_for_key().")

    def get_hosts_for_keys(self, keys: Sequence[Key]) -> list[int]:
        """Return the host ids that own `keys`, in their order.

        A subclass need not implement this. As batches call it, a fast one is worthwhile.
        """
        return [self.get_host_for_key(key) for key in keys]

    def get_places(self, keys: Sequence[Key]) -> list[int]:
        """Return for each key its host, or in a Redis Cluster its slot.

        Keys for which it is the same can be arguments of one command.
        """
        return self.get_hosts_for_keys(keys)

    def has_tags(self, keys: Sequence[Key]) -> bool:
        """Return whether some of the keys may have hash tags."""
        return False

    def explain(self, key: Key) -> dict[str, int]:
        """Return the number that decides where `key` is, by name: ``{"slot": 4711}``.

        `rb_route` shows it. A subclass need not implement this, and may return ``{}``.
        """
        return {}

    def get_key(self, command: str, args: Sequence[Key]) -> Key:
        """Return the one key of a command: ``get_key("GET", ["page:1"]) == "page:1"``.

        Raises:
            UnroutableCommand: it has none or several, or the command is unknown.
        """
        keys = keys_of((command, *args))
        if len(keys) > 1:
            raise UnroutableCommand(
                f"{command} has {len(keys)} keys here, not one; "
                "get_host_for_command() finds the host of several."
            )
        return keys[0] if keys else _without_keys(command)

    def get_host_for_command(self, command: str, args: Sequence[Key]) -> int:
        """Return the id of the host that owns all keys of a command.

        Raises:
            UnroutableCommand: it has no keys, or keys on several hosts, or the command is
                unknown.
        """
        keys = keys_of((command, *args)) or [_without_keys(command)]
        if len(keys) == 1:
            return self.get_host_for_key(keys[0])
        places = self.get_places(keys)
        if len(set(places)) > 1:
            pairs = list(zip(keys, places, strict=True))
            preposition = "in" if self.has_slots else "on"
            where = ", ".join(
                f"{reprlib.repr(key)} {preposition} {place}" for key, place in pairs[:8]
            )
            where += ", …" if len(pairs) > 8 else ""
            tagged = "keys with the same hash tag, such as {user:7}:a and {user:7}:b, are "
            if self.has_slots:
                raise UnroutableCommand(
                    f"The keys of {command} are in several slots: {where}. Run it once per "
                    f"slot; {tagged}in one."
                )
            raise UnroutableCommand(
                f"The keys of {command} are on several hosts: {where}. Run it once per host; "
                f"with SlotRouter, {tagged}on one."
            )
        return self.get_host_for_key(keys[0])


def _without_keys(command: str) -> NoReturn:
    raise UnroutableCommand(
        f"{command} has no key that says which host is meant. Choose hosts by "
        "cluster.fanout(), cluster.all() or cluster.get_local_client(host_id)."
    )


class SlotRouter(BaseRouter):
    """Keys hash to 65,536 slots, slots belong to hosts; for new clusters.

    A key's slot is the low 16 bits of the crc32 of its hash tag (see `hash_tag`), so
    ``{user:7}:name`` and ``{user:7}:cart`` are on one node. Each slot belongs to the
    host with the highest score for it (rendezvous hashing: Thaler and Ravishankar, "Using
    name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1),
    1998). A host's scores depend on its id alone: a host that joins takes its share of
    every other's slots, one that leaves gives its own away, and no other slot moves.

    Args:
        weights: ``{host id: weight}``; a host of weight 2 gets twice the keys of one of
            weight 1, which is the weight of hosts not named. A changed weight moves
            keys only to or from its host.

    Raises:
        BadHostSetup: no hosts, a host id above 9999, a weight for an unknown one, a weight
            that is not above 0 or not finite.
    """

    def __init__(self, cluster: HasHosts, weights: Mapping[int, float] | None = None) -> None:
        super().__init__(cluster)
        self._host_ids = sorted(cluster.hosts)
        self._weights = checked_weights(self._host_ids, {} if weights is None else weights)
        if self._host_ids[-1] > MAX_SLOT_ROUTER_HOST_ID:
            raise BadHostSetup(
                f"Host id {self._host_ids[-1]} is too high for SlotRouter, whose work grows "
                f"with the highest id: it takes 0 to {MAX_SLOT_ROUTER_HOST_ID}.",
                ("HOSTS", self._host_ids[-1]),
            )
        self._scores = struct.Struct(f"<{self._host_ids[-1] + 1}Q")
        self._has_no_gaps = len(self._host_ids) == self._host_ids[-1] + 1
        # Computed when needed, so that the first batch of a process does not wait for all
        # slots. If two threads compute the same slot, the result is the same.
        self._owners = [_UNKNOWN] * SLOTS

    def get_slot(self, key: Key) -> int:
        """Return the slot of `key`, from 0 to 65535."""
        return crc32(hash_tag(encode_key(key))) & _MASK

    def explain(self, key: Key) -> dict[str, int]:
        """Return the slot of `key`: ``{"slot": 4711}``."""
        return {"slot": self.get_slot(key)}

    def get_host_for_slot(self, slot: int) -> int:
        """Return the id of the host that owns a slot, from 0 to 65535.

        Raises:
            ValueError: there is no such slot.
        """
        if not 0 <= slot < SLOTS:
            raise ValueError(f"{slot!r} is not a slot. Slots run from 0 to {SLOTS - 1}.")
        owner = self._owners[slot]
        return owner if owner != _UNKNOWN else self._find_owner(slot)

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns `key`."""
        if type(key) is bytes and _BRACE not in key:  # every single-key command of a cache
            owner = self._owners[crc32(key) & _MASK]
            if owner != _UNKNOWN:
                return owner
        return self.get_host_for_slot(self.get_slot(key))

    def get_hosts_for_keys(self, keys: Sequence[Key]) -> list[int]:
        """Return the host ids that own `keys`, in their order."""
        # A hot path: one check of all keys together, instead of one for each, tells whether
        # they are bytes and whether any may have a hash tag.
        try:
            tagged = _BRACE in b"".join(keys)  # type: ignore[arg-type]
        except TypeError:
            return self.get_hosts_for_keys([encode_key(key) for key in keys])
        hashed: Sequence[bytes] = keys  # type: ignore[assignment]
        if tagged:
            hashed = [hash_tag(bytes(key)) for key in hashed]
        owners, mask = self._owners, _MASK
        hosts = [owners[crc32(key) & mask] for key in hashed]
        if _UNKNOWN in hosts:
            slots = [crc32(key) & _MASK for key in hashed]
            hosts = [self.get_host_for_slot(slot) for slot in slots]
        return hosts

    def _find_owner(self, slot: int) -> int:
        # One call of an extendable-output function gives the scores of all hosts. Its
        # output does not depend on how much of it is read, so that a new host's score
        # comes after the others and changes none of them.
        digest = shake_128(_SEED + slot.to_bytes(2, "little")).digest(self._scores.size)
        weights = self._weights
        if weights is None and self._has_no_gaps:
            # One host mostly has the highest byte alone; scores take three times as long.
            highest_bytes = digest[7::8]
            highest = max(highest_bytes)
            if highest_bytes.count(highest) == 1:
                owner = self._owners[slot] = highest_bytes.index(highest)
                return owner
        scores = self._scores.unpack(digest)
        if weights is None:
            owner = max(self._host_ids, key=scores.__getitem__)
        else:
            owner = max(self._host_ids, key=lambda host: weighted(scores[host], weights[host]))
        self._owners[slot] = owner
        return owner


class PartitionRouter(BaseRouter):
    """crc32 modulo number of hosts, exactly as rb places keys; for data written by rb.

    The crc32 is signed, as in Python 2. There are no hash tags. Adding a host moves
    nearly all keys.

    Raises:
        BadHostSetup: no hosts, or host ids other than 0 to N-1.
    """

    def __init__(self, cluster: HasHosts) -> None:
        super().__init__(cluster)
        self._count = len(cluster.hosts)
        for host_id in range(self._count):
            if host_id not in cluster.hosts:
                raise BadHostSetup(
                    f'Expected host with ID "{host_id}" among {sorted(cluster.hosts)}: '
                    f"PartitionRouter numbers {self._count} hosts from 0 to "
                    f"{self._count - 1}, without gaps. Add the host, or use SlotRouter.",
                    ("HOSTS",),
                )

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns `key`."""
        if type(key) is bytes:  # crc32_signed(), without its call
            return ((crc32(key) ^ 0x80000000) - 0x80000000) % self._count
        return crc32_signed(encode_key(key)) % self._count

    def get_hosts_for_keys(self, keys: Sequence[Key]) -> list[int]:
        """Return the host ids that own `keys`, in their order."""
        count = self._count
        try:  # crc32_signed(), without its calls
            return [((crc32(key) ^ 0x80000000) - 0x80000000) % count for key in keys]  # type: ignore[arg-type]
        except TypeError:
            return [crc32_signed(encode_key(key)) % count for key in keys]

    def explain(self, key: Key) -> dict[str, int]:
        """Return the number of which a host id is the remainder: ``{"crc32": -4711}``."""
        return {"crc32": crc32_signed(encode_key(key))}


class ConsistentHashingRouter(BaseRouter):
    """A ketama ring, as in rb; for data written by rb or by its Ketama class.

    Args:
        ring: what the points of the ring are made of. ``"host_ids"``: the host ids, so
            that a node may change its address or password and keep its keys. ``"rb"``:
            all that rb 1.11 knew of a host, as it did; this places every key where rb
            placed it, and a changed address, port, db, password or TLS option moves
            keys, as it did in rb.

    Raises:
        BadHostSetup: no hosts, or an unknown `ring`.
    """

    def __init__(self, cluster: HasHosts, ring: Literal["host_ids", "rb"] = "host_ids") -> None:
        super().__init__(cluster)
        if ring not in _RING_NAMES:
            raise BadHostSetup(
                f"{ring!r} is not a ring. Choose one of {', '.join(map(repr, _RING_NAMES))}.",
                ("ROUTER_OPTIONS", "ring"),
            )
        name = _RING_NAMES[ring]
        self._ring = KetamaRing(
            {host_id: name(host) for host_id, host in cluster.hosts.items()}
        )

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns `key`."""
        return self._ring.owner(encode_key(key))

    def explain(self, key: Key) -> dict[str, int]:
        """Return where on the ring `key` lies: ``{"point": 4711}``."""
        return {"point": ketama_point(encode_key(key))}


def _rb_name(host: HostInfo) -> str:
    """Return the text that rb 1.11 hashes for a host's points. It contains the password."""
    return (
        f"<HostInfo db={host.db!r} host={host.host!r} host_id={host.host_id!r} "
        f"password={revealed(host.password)!r} port={host.port!r} ssl={host.ssl!r} "
        f"ssl_options={revealed(host.ssl_options)!r} "
        f"unix_socket_path={host.unix_socket_path!r}>"
    )


_RING_NAMES = {"host_ids": lambda host: str(host.host_id), "rb": _rb_name}
