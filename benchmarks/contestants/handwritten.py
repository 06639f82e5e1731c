"""What a patient expert would write for one call, and no more.

Plain blocking sockets, hiredis to pack and to parse, keys routed by crc32. No timeouts, no
reconnection, no errors: the floor that a library is measured against.
"""

from __future__ import annotations

import pickle
import socket
from binascii import crc_hqx
from collections.abc import Iterator, Mapping, Sequence
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


class HandWrittenCluster(HandWritten):
    """The same on a Redis Cluster: one GET for each key, and no redirects."""

    def __init__(self, hosts: Sequence[tuple[str, int]], prefix: str) -> None:
        super().__init__(hosts, prefix)
        ports = [port for _, port in hosts]
        self.owners = [0] * 16384
        self.sockets[0].sendall(pack((b"CLUSTER", b"SLOTS")))
        while (told := self.readers[0].gets()) is False:
            self.readers[0].feed(self.sockets[0].recv(RECEIVE))
        for first, last, (_, port, *_), *_ in told:
            self.owners[first : last + 1] = [ports.index(port)] * (last + 1 - first)

    def get(self, name: str) -> Any:
        return self.get_many([name]).get(name)

    def set(self, name: str, value: Any, timeout: int = 300) -> None:
        self.set_many({name: value}, timeout)

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, owners, loads = self.prefix, self.owners, pickle.loads
        shares: list[tuple[list[str], list[bytes]]] = [([], []) for _ in self.sockets]
        for name in names:
            key = f"{prefix}{name}".encode()
            mine, commands = shares[owners[crc_hqx(key, 0) & 16383]]
            mine.append(name)
            commands.append(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        found = {}
        for mine, values in self._exchange(shares):
            for name, value in zip(mine, values, strict=True):
                if value is not None:
                    found[name] = loads(value)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int = 300) -> None:
        prefix, owners, dumps = self.prefix, self.owners, pickle.dumps
        shares: list[tuple[list[str], list[bytes]]] = [([], []) for _ in self.sockets]
        for name, value in data.items():
            key = f"{prefix}{name}".encode()
            mine, commands = shares[owners[crc_hqx(key, 0) & 16383]]
            mine.append(name)
            commands.append(pack((b"SET", key, dumps(value, 5), b"EX", timeout)))
        for _ in self._exchange(shares):
            pass

    def _exchange(
        self, shares: Sequence[tuple[list[str], list[bytes]]]
    ) -> Iterator[tuple[list[str], list[Any]]]:
        """Yield the names of each share, and the replies to its commands."""
        for sock, (_, commands) in zip(self.sockets, shares, strict=True):
            if commands:
                sock.sendall(b"".join(commands))
        for sock, reader, (mine, _) in zip(self.sockets, self.readers, shares, strict=True):
            replies: list[Any] = []
            while len(replies) < len(mine):
                reader.feed(sock.recv(RECEIVE))
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
            yield mine, replies
