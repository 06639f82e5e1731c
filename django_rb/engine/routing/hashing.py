"""Hashes that place keys: stable between processes, machines and versions.

A key is hashed as the bytes that are sent to the server (`encode_key`).
"""

from __future__ import annotations

from binascii import crc_hqx
from bisect import bisect_right
from hashlib import md5
from typing import TYPE_CHECKING
from zlib import crc32

from ..protocol.encoding import Key, encode_key

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "KetamaRing",
    "Key",
    "crc16",
    "crc32_signed",
    "encode_key",
    "hash_tag",
    "ketama_point",
]


def hash_tag(key: bytes) -> bytes:
    """Return the part of a key that is hashed: its hash tag, or all of it.

    The tag is what stands between the first ``{`` and the first ``}`` after it, if
    that is not empty. Keys with the same tag share a slot: ``{user:7}:a``, ``{user:7}:b``.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
    """
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            return key[start:end]
    return key


def crc32_signed(data: bytes) -> int:
    """Return the crc32 of `data` as Python 2 gave it: from -2**31 to 2**31 - 1."""
    return (crc32(data) ^ 0x80000000) - 0x80000000


def crc16(data: bytes) -> int:
    """Return the CRC-16/XMODEM of `data`, from 0 to 65535; Redis Cluster hashes keys by it.

    A key's slot there is ``crc16(hash_tag(key)) % 16384``.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """
    return crc_hqx(data, 0)


class KetamaRing:
    """A ring of 160 points per node; a key belongs to the first point after its own.

    Args:
        names: what each node is called on the ring, by host id. A name decides where
            the points of its node lie and nothing else, so a node that joins or leaves
            moves only keys of its own.

    The algorithm is that of libketama (https://github.com/RJ/ketama)
    with the point labels of rb and equal weights: each of the 40 MD5 digests of
    ``<name>-<0…39>-salt`` holds four points of 32 bits, little-endian.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        owners: dict[int, int] = {}
        for host_id in sorted(names):  # where two points meet, the higher host id has it
            for n in range(40):
                digest = _md5(f"{names[host_id]}-{n}-salt".encode())
                for i in range(0, 16, 4):
                    owners[int.from_bytes(digest[i : i + 4], "little")] = host_id
        self._points = sorted(owners)
        self._owners = [owners[point] for point in self._points]
        self._owners += self._owners[:1]  # after the last point comes the first

    def owner(self, key: bytes) -> int:
        """Return the host id that owns `key`."""
        return self._owners[bisect_right(self._points, ketama_point(key))]


def ketama_point(key: bytes) -> int:
    """Return where a key lies on a ketama ring, from 0 to 2**32 - 1."""
    return int.from_bytes(_md5(key)[:4], "little")


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()
