"""A cluster of peers that say what a test tells them to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, cast

from django_rb.engine import Cluster
from tests.engine.peer import Peer
from tests.helpers import wait_until
from tests.rediscluster.admin import slot_of

Reply = bytes | None


def resp(value: Any) -> bytes:
    """Return a value as RESP2."""
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n%b" % (len(value), b"".join(map(resp, value)))
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Liars:
    """Peers that speak of a cluster.

    Args:
        count: how many.

    Attributes:
        slots: what each says of the slots, as `{peer: [(first, last, owner), …]}`.
        ids: what they call each other.
        epochs: how much each knows.
        answer: what a peer says to a command with a key: bytes in RESP, or None for a
            reply that names the peer.
        asked: which peers were asked for the layout.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.agree_on(
            [(n * 16384 // count, (n + 1) * 16384 // count - 1, n) for n in range(count)]
        )
        self.ids = [f"{n:040d}" for n in range(count)]
        self.epochs = [1] * count
        self.answer: Callable[[int, Sequence[bytes]], Reply] = lambda _peer, _command: None
        self.asked: list[int] = []
        self.knows_shards = True
        self._stack = contextlib.ExitStack()
        self.peers: list[Peer] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            self.peers.append(self._stack.enter_context(Peer(self._make_answer(number))))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def agree_on(self, slots: list[tuple[int, int, int]]) -> None:
        """Let all say the same."""
        self.slots = dict.fromkeys(range(self._count), slots)

    def host(self, number: int) -> dict[str, Any]:
        return self.peers[number].host

    def moved(self, slot: int, number: int, host: str = "127.0.0.1") -> bytes:
        return b"-MOVED %d %b:%d\r\n" % (slot, host.encode(), self.peers[number].port)

    def _make_answer(self, number: int) -> Callable[[Peer, socket.socket, list[bytes]], None]:
        def answer(_peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            words = [word.upper() for word in command[:2]]
            if words == [b"CLUSTER", b"SHARDS"] and not self.knows_shards:
                said = b"-ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.\r\n"
            elif words == [b"CLUSTER", b"SHARDS"]:
                self.asked.append(number)
                said = resp(list(self._shards(number)))
            elif words == [b"CLUSTER", b"SLOTS"]:
                self.asked.append(number)
                said = resp(list(self._slots(number)))
            elif words == [b"CLUSTER", b"INFO"]:
                said = resp(f"cluster_current_epoch:{self.epochs[number]}\r\n")
            else:
                said = self.answer(number, command) or resp(f"peer {number}")
            connection.sendall(said)

        return answer

    def _shards(self, number: int) -> Iterator[list[Any]]:
        ranges: dict[int, list[int]] = {}
        for first, last, owner in self.slots[number]:
            ranges.setdefault(owner, []).extend((first, last))
        for owner, slots in ranges.items():
            node = [
                *("id", self.ids[owner], "port", self.peers[owner].port),
                *("ip", "127.0.0.1", "endpoint", "127.0.0.1"),
                *("role", "master", "replication-offset", 0, "health", "online"),
            ]
            yield ["slots", slots, "nodes", [node]]

    def _slots(self, number: int) -> Iterator[list[Any]]:
        for first, last, owner in self.slots[number]:
            yield [first, last, ["", self.peers[owner].port, self.ids[owner], []]]


KEY = "key"
SLOT = slot_of(KEY)
OWNER = SLOT * 4 // 16384


def get(cluster: Cluster) -> bytes:
    return cast(bytes, cluster.get_routing_client().get(KEY))


def look_again(cluster: Cluster, liars: Liars) -> None:
    """Have the layout asked for once more."""
    layout = cluster.layout
    assert layout is not None
    before = len(liars.asked)
    layout.want_look()
    wait_until(lambda: get(cluster) and len(liars.asked) > before)
