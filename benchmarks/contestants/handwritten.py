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

RECEIVE = 65536  # bytes
pack: Any = hiredis.pack_command  # its stub knows tuples of one


class HandWritten:
    """Django's cache operations; not for use by two threads at a time."""

    def __init__(self, hosts: Sequence[tuple[str, int]], prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        self.sockets = [socket.create_connection(host) for host in hosts]
        for sock in self.sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.readers = [hiredis.Reader() for _ in hosts]

    def get(self, name: str) -> Any:
        key = f"{self.prefix}{name}".encode()
        node = crc32(key) % len(self.sockets)
        sock, reader = self.sockets[node], self.readers[node]
        sock.sendall(pack((b"GET", key)))
        while True:
            reader.feed(sock.recv(RECEIVE))
            reply = reader.gets()
            if reply is not False:
                return None if reply is None else pickle.loads(reply)

    def set(self, name: str, value: Any, timeout: int = 300) -> None:
        key = f"{self.prefix}{name}".encode()
        node = crc32(key) % len(self.sockets)
        sock, reader = self.sockets[node], self.readers[node]
        data = pickle.dumps(value, 5)
        sock.sendall(pack((b"SET", key, data, b"EX", timeout)))
        while True:
            reader.feed(sock.recv(RECEIVE))
            if reader.gets() is not False:
                return

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        count = len(self.sockets)
        prefix = self.prefix
        shares: list[tuple[list[str], list[bytes]]] = [([], [b"MGET"]) for _ in range(count)]
        for name in names:
            key = f"{prefix}{name}".encode()
            mine, command = shares[crc32(key) % count]
            mine.append(name)
            command.append(key)
        for sock, (mine, command) in zip(self.sockets, shares, strict=True):
            if mine:
                sock.sendall(pack(tuple(command)))
        found = {}
        loads = pickle.loads
        for sock, reader, (mine, _) in zip(self.sockets, self.readers, shares, strict=True):
            if not mine:
                continue
            while True:
                reader.feed(sock.recv(RECEIVE))
                values = reader.gets()
                if values is not False:
                    break
            for name, value in zip(mine, values, strict=True):
                if value is not None:
                    found[name] = loads(value)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int = 300) -> None:
        count = len(self.sockets)
        prefix, dumps = self.prefix, pickle.dumps
        shares: list[list[bytes]] = [[] for _ in range(count)]
        for name, value in data.items():
            key = f"{prefix}{name}".encode()
            shares[crc32(key) % count].append(
                pack((b"SET", key, dumps(value, 5), b"EX", timeout))
            )
        for sock, share in zip(self.sockets, shares, strict=True):
            if share:
                sock.sendall(b"".join(share))
        for sock, reader, share in zip(self.sockets, self.readers, shares, strict=True):
            missing = len(share)
            while missing:
                reader.feed(sock.recv(RECEIVE))
                while reader.gets() is not False:
                    missing -= 1
