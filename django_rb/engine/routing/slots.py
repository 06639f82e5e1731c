"""The router for a Redis Cluster, whose nodes own 16,384 slots.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence

from ..protocol.encoding import Key, encode_key
from .hashing import hash_tag
from .routers import BaseRouter, HasHosts

CLUSTER_SLOTS = 16384

_MASK = CLUSTER_SLOTS - 1
_BRACE = ord("{")


class ClusterRouter(BaseRouter):
    """Keys hash to 16,384 slots, and the nodes report which of them owns a slot.

    A key's slot is the crc16 of its hash tag (see `hash_tag`). Nodes refuse commands on keys
    of several slots, even if one node owns all of them.

    Args:
        owners: the host id of the owner of each slot. Changes to the list take effect at once.
    """

    has_slots = True

    def __init__(self, cluster: HasHosts, owners: list[int]) -> None:
        super().__init__(cluster)
        self.owners = owners

    def get_slot(self, key: Key) -> int:
        """Return the slot of `key`, from 0 to 16383."""
        return crc_hqx(hash_tag(encode_key(key)), 0) & _MASK

    def explain(self, key: Key) -> dict[str, int]:
        """Return the slot of `key`: ``{"slot": 4711}``."""
        return {"slot": self.get_slot(key)}

    def get_host_for_key(self, key: Key) -> int:
        """Return the id of the host that owns `key`."""
        if type(key) is bytes and _BRACE not in key:  # every single-key command of a cache
            return self.owners[crc_hqx(key, 0) & _MASK]
        return self.owners[self.get_slot(key)]

    def get_hosts_for_keys(self, keys: Sequence[Key]) -> list[int]:
        """Return the host ids that own `keys`, in their order."""
        owners = self.owners
        if self.has_tags(keys):
            return [owners[slot] for slot in self.get_places(keys)]
        try:
            return [owners[crc_hqx(key, 0) & _MASK] for key in keys]  # type: ignore[arg-type]
        except TypeError:
            return [owners[slot] for slot in self.get_places(keys)]

    def get_places(self, keys: Sequence[Key]) -> list[int]:
        """Return the slots of `keys`, in their order."""
        return [crc_hqx(hash_tag(encode_key(key)), 0) & _MASK for key in keys]

    def has_tags(self, keys: Sequence[Key]) -> bool:
        """Return whether some keys, if they are bytes, may have hash tags."""
        try:
            return _BRACE in b"".join(keys)  # type: ignore[arg-type]
        except TypeError:
            return True
