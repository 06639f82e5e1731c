"""Sentinels and nodes that say what a test tells them to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from django_rb.engine import Cluster
from tests.engine.peer import Peer
from tests.rediscluster.peers import resp


class Liars:
    """Peers in the parts of Sentinels and of nodes.

    Args:
        sentinels, nodes: how many.

    Attributes:
        primaries: what each Sentinel says, as ``{Sentinel: {name: node}}``.
        epochs: how many failovers each Sentinel knows.
        roles: what each node says that it is.
        silent: Sentinels that do not answer.
        before_answer: called before a Sentinel tells where a primary is.
        asked: the Sentinels that were asked for addresses, in order.
        set_on: nodes that were sent SET.
    """

    def __init__(self, sentinels: int = 3, nodes: int = 2) -> None:
        self.primaries: dict[int, dict[str, int]] = {n: {"a": 0} for n in range(sentinels)}
        self.epochs = [1] * sentinels
        self.roles = ["master"] * nodes
        self.silent: set[int] = set()
        self.before_answer: Callable[[], object] = lambda: None
        self.asked: list[int] = []
        self.set_on: list[int] = []
        self._stack = contextlib.ExitStack()
        self.sentinels = [Peer(self._make_sentinel(n)) for n in range(sentinels)]
        self.nodes = [Peer(self._make_node(n)) for n in range(nodes)]

    def __enter__(self) -> Self:
        for peer in (*self.sentinels, *self.nodes):
            self._stack.enter_context(peer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def agree_on(self, node: int, epoch: int) -> None:
        """Let all Sentinels say that a node is the primary of "a"."""
        for number in self.primaries:
            self.primaries[number] = {"a": node}
            self.epochs[number] = epoch

    def make_cluster(self, *names: str, **options: Any) -> Cluster:
        hosts = [{"master_name": name} for name in names or ("a",)]
        sentinels = [peer.host for peer in self.sentinels]
        return Cluster(hosts, topology="sentinel", sentinels=sentinels, **options)

    def _make_sentinel(self, number: int) -> Any:
        def answer(_peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            node = self.primaries[number].get(command[2].decode())
            if command[1] == b"GET-MASTER-ADDR-BY-NAME":
                self.asked.append(number)
                self.before_answer()
                told = None if node is None else ["127.0.0.1", str(self.nodes[node].port)]
                said = b"*-1\r\n" if told is None else resp(told)
            else:
                said = resp(["name", command[2], "config-epoch", str(self.epochs[number])])
            if number not in self.silent:
                connection.sendall(said)

        return answer

    def _make_node(self, number: int) -> Any:
        def answer(_peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            if command[0] == b"ROLE":
                connection.sendall(resp([self.roles[number]]))
                return
            if self.roles[number] != "master":
                connection.sendall(
                    b"-READONLY You can't write against a read only replica.\r\n"
                )
                return
            self.set_on.append(number)
            connection.sendall(b"+OK\r\n")

        return answer
