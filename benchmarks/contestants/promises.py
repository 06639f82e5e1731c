"""The hand-written loop once more, with what django-rb promises, each call in one function.

It shows how much of the distance between the two is what the promises cost, and how much the
engine's being made of parts. Where something is not as it mostly is, it gives up: there
django-rb begins.
"""

from __future__ import annotations

import pickle
import select
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from benchmarks.contestants.handwritten import RECEIVE, HandWritten, pack

SLOTS = 65536
MASK = SLOTS - 1
BRACE = ord("{")
PICKLED = 0x80
LONGEST = 250
NOT_PORTABLE = bytes(range(0x21)) + b"\x7f"
HEADERS = [b"\r\n$%d\r\n" % size for size in range(LONGEST + 1)]


class Unusual(Exception):
    """What the short way does not know."""


class Promises(HandWritten):
    """A hand-written loop that, as django-rb,

    - sees what Django warns about in keys, and hash tags; 65,536 slots say who owns a key;
    - takes connections from lists, as threads share them, and puts them back;
    - looks whether a connection has something to say before it is used, and after;
    - stores integers as their digits, and tells None from nothing stored;
    - returns values in the order of their keys.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], prefix: str) -> None:
        super().__init__(hosts, prefix)
        self.owners = [slot % len(hosts) for slot in range(SLOTS)]
        self.idle = []
        for sock, reader in zip(self.sockets, self.readers, strict=True):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self.idle.append([(sock, reader, poller)])

    def get(self, name: str) -> Any:
        text = f"{self.prefix}{name!s}"
        if not text.isprintable() or " " in text or len(text) > LONGEST:
            raise Unusual
        key = text.encode()
        if BRACE in key:
            raise Unusual
        idle = self.idle[self.owners[crc32(key) & MASK]]
        sock, reader, poller = connection = idle.pop()
        command = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
        if poller.poll(0) or sock.send(command) != len(command):
            raise Unusual
        while data := sock.recv(RECEIVE):
            reader.feed(data)
            reply = reader.gets()
            if reply is not False:
                break
        else:
            raise Unusual
        if isinstance(reply, Exception) or reader.has_data():
            raise Unusual
        idle.append(connection)
        if reply is None:
            return None
        return pickle.loads(reply) if reply and reply[0] == PICKLED else int(reply)

    def set(self, name: str, value: Any, timeout: int = 300) -> None:
        text = f"{self.prefix}{name!s}"
        if not text.isprintable() or " " in text or len(text) > LONGEST or timeout <= 0:
            raise Unusual
        key = text.encode()
        if BRACE in key:
            raise Unusual
        idle = self.idle[self.owners[crc32(key) & MASK]]
        sock, reader, poller = connection = idle.pop()
        value = b"%d" % value if type(value) is int else pickle.dumps(value, 5)
        command = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$3\r\n%d\r\n" % (
            len(key), key, len(value), value, timeout,
        )  # fmt: skip
        if poller.poll(0) or sock.send(command) != len(command):
            raise Unusual
        while data := sock.recv(RECEIVE):
            reader.feed(data)
            reply = reader.gets()
            if reply is not False:
                break
        else:
            raise Unusual
        if isinstance(reply, Exception) or reader.has_data():
            raise Unusual
        idle.append(connection)

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(names)
        keys = self._make_keys(names)
        owners = self.owners
        shares: dict[int, tuple[list[str], list[bytes]]] = {}
        for name, key in zip(names, keys, strict=True):
            owner = owners[crc32(key) & MASK]
            if owner not in shares:
                shares[owner] = ([], [])
            mine, theirs = shares[owner]
            mine.append(name)
            theirs.append(key)
        connections = self._take(shares)
        for (sock, _, _), (_, theirs) in zip(connections, shares.values(), strict=True):
            sock.sendall(_encode_mget(theirs))
        for connection, (owner, (mine, _)) in zip(connections, shares.items(), strict=True):
            sock, reader, _ = connection
            while data := sock.recv(RECEIVE):
                reader.feed(data)
                values = reader.gets()
                if values is not False:
                    break
            else:
                raise Unusual
            if isinstance(values, Exception) or reader.has_data():
                raise Unusual
            self.idle[owner].append(connection)
            for name, value in zip(mine, values, strict=True):
                if value and value[0] == PICKLED:
                    found[name] = pickle.loads(value)
                elif value is None:
                    del found[name]
                else:
                    found[name] = int(value)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int = 300) -> None:
        if timeout <= 0:
            raise Unusual
        owners = self.owners
        command = (
            b"*5\r\n$3\r\nSET\r\n$%%d\r\n%%b\r\n$%%d\r\n%%b\r\n$2\r\nEX\r\n$3\r\n%d\r\n"
            % timeout
        )
        shares: dict[int, list[bytes]] = {}
        for value, key in zip(data.values(), self._make_keys(data), strict=True):
            owner = owners[crc32(key) & MASK]
            if owner not in shares:
                shares[owner] = []
            stored = b"%d" % value if type(value) is int else pickle.dumps(value, 5)
            shares[owner].append(command % (len(key), key, len(stored), stored))
        connections = self._take(shares)
        for (sock, _, _), share in zip(connections, shares.values(), strict=True):
            sock.sendall(b"".join(share))
        for connection, (owner, share) in zip(connections, shares.items(), strict=True):
            sock, reader, _ = connection
            missing = len(share)
            while missing:
                reader.feed(sock.recv(RECEIVE))
                while missing and (reply := reader.gets()) is not False:
                    if reply != b"OK":
                        raise Unusual
                    missing -= 1
            if reader.has_data():
                raise Unusual
            self.idle[owner].append(connection)

    def _make_keys(self, names: Sequence[str] | Mapping[str, Any]) -> list[bytes]:
        if set(map(type, names)) != {str}:
            raise Unusual
        joined = (self.prefix + f"\n{self.prefix}".join(names)).encode()
        if len(joined) - len(joined.translate(None, NOT_PORTABLE)) != len(names) - 1:
            raise Unusual
        keys = joined.split(b"\n")
        if BRACE in joined or max(map(len, keys)) > LONGEST:
            raise Unusual
        return keys

    def _take(self, owners: Mapping[int, Any]) -> list[Any]:
        connections = [self.idle[owner].pop() for owner in owners]
        poller = select.poll()
        for sock, _, _ in connections:
            poller.register(sock, select.POLLIN)
        if poller.poll(0):
            raise Unusual
        return connections


def _encode_mget(keys: list[bytes]) -> bytes:
    if len(keys) < 16:
        return pack((b"MGET", *keys))  # type: ignore[no-any-return]
    pieces = [b""] * (2 * len(keys))
    pieces[0::2] = map(HEADERS.__getitem__, map(len, keys))
    pieces[1::2] = keys
    return b"*%d\r\n$4\r\nMGET%b\r\n" % (len(keys) + 1, b"".join(pieces))
