"""Keys that are kept beside a key: on the same node, in the same slot of a Redis Cluster."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

from ..engine.routing.hashing import crc16, hash_tag
from .keys import LEASE, SEAL

_SLOTS = 16384


def lease_of(key: bytes) -> bytes:
    """Return the key of the lease of a key; see `leases`."""
    return _companion_of(key, LEASE)


def seal_of(key: bytes) -> bytes:
    """Return the key of the seal of a key; see `warming.fills`."""
    return _companion_of(key, SEAL)


def _companion_of(key: bytes, mark: bytes) -> bytes:
    if b"{" not in key and b"}" not in key:
        return b"%b%b{%b}" % (key, mark, key)
    if hash_tag(key) is not key:
        return key + mark
    return _companion_of_odd(key, mark)


@lru_cache(maxsize=1024)
def _companion_of_odd(key: bytes, mark: bytes) -> bytes:
    """Return that of a key whose braces are no hash tag, and leave no room for one."""
    slot = crc16(key) % _SLOTS
    companions = (b"%b%b%d" % (key, mark, number) for number in count())
    return next(made for made in companions if crc16(made) % _SLOTS == slot)
