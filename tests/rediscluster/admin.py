"""What an operator does to a Redis Cluster: moves slots, swaps parts, asks nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

import redis

from django_rb.engine.rounds.observing import ExchangeEvent, Observer
from django_rb.engine.routing.hashing import crc16, hash_tag
from tests.helpers import wait_until


def slot_of(key: str) -> int:
    return crc16(hash_tag(key.encode())) % 16384


AT_ONCE = 50  # slots that are under way when many move


class Members(Protocol):
    """The servers of a cluster: a LocalNodes, or what is like one."""

    @property
    def count(self) -> int: ...
    @property
    def replicas(self) -> int: ...
    def address(self, number: int, /) -> Mapping[str, Any]: ...


class Admin:
    """Asks the nodes of a cluster directly, by their numbers in a LocalNodes."""

    def __init__(self, nodes: Members) -> None:
        self.nodes: Any = nodes
        total = nodes.count * (1 + nodes.replicas)
        self.clients: list[Any] = [redis.Redis(**nodes.address(n)) for n in range(total)]
        self.ids = [self.ask(n, "CLUSTER", "MYID").decode() for n in range(total)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def ask(self, node: int, *command: Any) -> Any:
        return self.clients[node].execute_command(*command)

    def address(self, node: int) -> str:
        address = self.nodes.address(node)
        return f"{address['host']}:{address['port']}"

    def owner(self, slot: int, asked: int = 0) -> int:
        """Return the number of the node that owns a slot, as another one says."""
        for first, last, primary, *_ in self.ask(asked, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.ids.index(_text(primary[2]))
        raise LookupError(slot)

    def covers(self, slot: int, asked: int = 0) -> bool:
        """Return whether a slot has an owner, as a node says."""
        with suppress(LookupError):
            return self.owner(slot, asked) >= 0
        return False

    def range_of(self, node: int) -> tuple[int, int]:
        """Return the first and the last slot of a node that has one range of them."""
        ((first, last),) = self.ranges_of(node)
        return first, last

    def ranges_of(self, node: int) -> list[tuple[int, int]]:
        """Return the first and the last of each range of slots of a node."""
        return [
            (first, last)
            for first, last, primary, *_ in self.ask(0, "CLUSTER", "SLOTS")
            if _text(primary[2]) == self.ids[node]
        ]

    def begin_move(self, slot: int, source: int, target: int) -> None:
        """Announce that a slot is about to move: from now on there is ASK and TRYAGAIN."""
        self._wait_for_epochs()
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])

    def move_keys(self, keys: Iterable[Any], source: int, target: int) -> None:
        keys = list(keys)
        if not keys:
            return
        there = self.nodes.address(target)
        auth = ["AUTH", there["password"]] if "password" in there else []
        host, port = there["host"], there["port"]
        for is_last in (False, True):
            try:
                self.ask(source, "MIGRATE", host, port, "", 0, 5000, *auth, "KEYS", *keys)
            except redis.ResponseError as error:
                if is_last or "IOERR" not in str(error):  # its connection lay idle for too long
                    raise
            else:
                return

    def end_move(self, slot: int, source: int, target: int) -> None:
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(keys, source, target)
        for node in (target, source, *self._other_primaries(source, target)):
            self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def _other_primaries(self, *but: int) -> list[int]:
        others = [n for n in range(len(self.clients)) if n not in but]
        return [n for n in others if _text(self.ask(n, "ROLE")[0]) == "master"]

    def epoch(self, node: int) -> str:
        """Return how new the newest claim of a slot is that a node has heard of."""
        _, _, after = _text(self.ask(node, "CLUSTER", "INFO")).partition(
            "cluster_current_epoch:"
        )
        return after.partition("\r")[0]

    def move(self, slot: int, source: int, target: int) -> None:
        self.begin_move(slot, source, target)
        self.end_move(slot, source, target)

    def meet(self, newcomer: int, member: int) -> None:
        """Let a server join the cluster, and all know each other."""
        (line,) = (
            line
            for line in _text(self.ask(member, "CLUSTER", "NODES")).splitlines()
            if "myself" in line
        )
        host, port, bus_port = re.split("[:@,]", line.split()[1])[:3]
        self.ids[newcomer] = _text(self.ask(newcomer, "CLUSTER", "MYID"))
        self.ask(newcomer, "CLUSTER", "MEET", host, port, bus_port)
        everybody = range(len(self.clients))
        wait_until(lambda: all(self._knows_all(n) for n in everybody))

    def _knows_all(self, node: int) -> bool:
        lines = _text(self.ask(node, "CLUSTER", "NODES")).splitlines()
        told = {line.split()[0] for line in lines if line.split()[7] == "connected"}
        return told >= {*self.ids} and self.is_ok(node)

    def move_many(self, slots: Sequence[int], source: int, target: int) -> None:
        """Move slots, so many of them at the same time."""
        for start in range(0, len(slots), AT_ONCE):
            share = slots[start : start + AT_ONCE]
            self._wait_for_epochs()
            self._set_slots(target, share, "IMPORTING", self.ids[source])
            self._set_slots(source, share, "MIGRATING", self.ids[target])
            with self.clients[source].pipeline(transaction=False) as pipe:
                for slot in share:
                    pipe.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
                found = pipe.execute()
            for keys in found:
                self.move_keys(keys, source, target)
            for node in (target, source, *self._other_primaries(source, target)):
                self._set_slots(node, share, "NODE", self.ids[target])

    def _set_slots(self, node: int, slots: Sequence[int], *what: str) -> None:
        with self.clients[node].pipeline(transaction=False) as pipe:
            for slot in slots:
                pipe.execute_command("CLUSTER", "SETSLOT", slot, *what)
            pipe.execute()

    def _wait_for_epochs(self) -> None:
        # Who takes a slot makes its claim newer than any it has heard of. A node that has not
        # heard of the last move makes one that is no newer, and owners that disagree for good.
        wait_until(lambda: len({self.epoch(n) for n in range(len(self.clients))}) == 1)

    def agree(self, slot: int, owner: int) -> None:
        """Wait until all nodes say who owns a slot."""
        everybody = range(len(self.clients))
        wait_until(lambda: {self.owner(slot, n) for n in everybody} == {owner})

    def is_ok(self, node: int = 0) -> bool:
        """Return whether a node takes the cluster for whole."""
        return "cluster_state:ok" in _text(self.ask(node, "CLUSTER", "INFO"))

    def is_in_place(self, node: int) -> bool:
        """Return whether a node follows its primary, or has all replicas following."""
        role, *rest = self.ask(node, "ROLE")
        if _text(role) == "slave":
            return _text(rest[2]) == "connected"
        return bool(len(rest[1]) == self.nodes.replicas)

    def is_replica(self, node: int) -> bool:
        """Return whether a node is a replica that has its copy."""
        role, *rest = self.ask(node, "ROLE")
        return _text(role) == "slave" and _text(rest[2]) == "connected"


class Questions(Observer):
    """Counts what was asked for the sake of the layout, and what was redirected."""

    def __init__(self) -> None:
        self.count = 0
        self.redirects = 0
        self.sent: list[tuple[int, tuple[str, ...]]] = []

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        if exchange.is_question:
            self.count += 1
            return
        self.redirects += exchange.redirects
        names = [str(command[0]) for command in exchange.commands()]
        self.sent.append((exchange.host_id, tuple(names)))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
