"""What a patient expert would write for one call, and no more.

Plain blocking sockets, hiredis to pack and to parse, keys routed by crc32. No timeouts, no
reconnection, no errors: the floor that a library is measured against.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import hiredis


class HandWritten:
    """get, get_many and set_many over nodes, with the key prefix of a Django cache."""

    def __init__(self, hosts: Sequence[Mapping[str, Any]], prefix: str = ":1:") -> None:
        self.prefix = prefix
        self.sockets = []
        for host in hosts:
            sock = socket.create_connection((host["host"], host["port"]))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(sock)
        self.readers = [hiredis.Reader() for _ in hosts]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def get_host(self, name: str) -> int:
        """Return which node owns a key."""
        return crc32(f"{self.prefix}{name}".encode()) % len(self.sockets)

    def get(self, name: str) -> Any:
        key = f"{self.prefix}{name}".encode()
        node = crc32(key) % len(self.sockets)
        sock, reader = self.sockets[node], self.readers[node]
        sock.sendall(hiredis.pack_command((b"GET", key)))  # type: ignore[arg-type]
        while True:
            reader.feed(sock.recv(65536))
            reply = reader.gets()
            if reply is not False:
                return None if reply is None else pickle.loads(reply)

    def set(self, name: str, value: Any, timeout: int = 300) -> None:
        key = f"{self.prefix}{name}".encode()
        node = crc32(key) % len(self.sockets)
        sock, reader = self.sockets[node], self.readers[node]
        sock.sendall(
            hiredis.pack_command((b"SET", key, pickle.dumps(value, 5), b"EX", timeout))  # type: ignore[arg-type]
        )
        while True:
            reader.feed(sock.recv(65536))
            if reader.gets() is not False:
                return

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        count = len(self.sockets)
        prefix = self.prefix
        shares: list[tuple[list[str], list[bytes]]] = [([], [b"MGET"]) for _ in range(count)]
        for name in names:
            key = f"{prefix}{name}".encode()
            mine, keys = shares[crc32(key) % count]
            mine.append(name)
            keys.append(key)
        for sock, (mine, keys) in zip(self.sockets, shares, strict=True):
            if mine:
                sock.sendall(hiredis.pack_command(tuple(keys)))  # type: ignore[arg-type]
        found = {}
        loads = pickle.loads
        for sock, reader, (mine, _) in zip(self.sockets, self.readers, shares, strict=True):
            if not mine:
                continue
            while True:
                reader.feed(sock.recv(65536))
                values = reader.gets()
                if values is not False:
                    break
            for name, value in zip(mine, values, strict=True):
                if value is not None:
                    found[name] = loads(value)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int = 300) -> None:
        count = len(self.sockets)
        prefix, pack, dumps = self.prefix, hiredis.pack_command, pickle.dumps
        shares: list[list[bytes]] = [[] for _ in range(count)]
        for name, value in data.items():
            key = f"{prefix}{name}".encode()
            shares[crc32(key) % count].append(
                pack((b"SET", key, dumps(value, 5), b"EX", timeout))  # type: ignore[arg-type]
            )
        for sock, share in zip(self.sockets, shares, strict=True):
            if share:
                sock.sendall(b"".join(share))
        for sock, reader, share in zip(self.sockets, self.readers, shares, strict=True):
            missing = len(share)
            while missing:
                reader.feed(sock.recv(65536))
                while reader.gets() is not False:
                    missing -= 1
