"""What happens to the nodes of a soak, at random and by a seed."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from collections import Counter
from typing import Any

import redis

from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.rediscluster.admin import Admin
from tests.soak.names import AWAY, HOME, Names

CALM_SECONDS = (0.1, 0.8)  # between two events
SLOW_SECONDS = (0.05, 0.7)  # below and above what a worker waits for
SLOW_NAME_SECONDS = (0.2, 3.0)
WHOLE_SECONDS = 30.0
MOST_SLOTS = 20
LOST_NAME_ERRORS = (socket.EAI_AGAIN, socket.EAI_NONAME)


class Chaos(threading.Thread):
    """Kills, stops, restarts and slows nodes and their names, and mends them.

    One node is always left alone.

    Attributes:
        done: how often it did what.
        states: what is wrong with each node now.
    """

    def __init__(self, nodes: LocalNodes, names: Names, seed: int) -> None:
        super().__init__(name="chaos")
        self.done: Counter[str] = Counter()
        self.states: dict[int, str] = dict.fromkeys(nodes.hosts, "up")
        self.error: BaseException | None = None
        self._nodes = nodes
        self._names = names
        self._addresses: dict[int, str] = {}
        for host_id in nodes.hosts:
            self._live_at(host_id, HOME)
        self._disturbances = [self._kill, self._pause, self._restart, self._slow]
        self._disturbances.append(self._slow_name)
        if sys.platform == "linux":
            self._disturbances.append(self._move)
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        """Go on until `stop`."""
        try:
            while not self._over.wait(self._rng.uniform(*CALM_SECONDS)):
                self._act()
        except BaseException as error:  # noqa: BLE001 (it is raised by stop)
            self.error = error

    def stop(self) -> None:
        """End, and have all nodes alive."""
        self._over.set()
        if self.ident is not None:
            self.join()
        if self.error is not None:
            raise self.error
        for host_id in self._nodes.hosts:
            self._mend(host_id)

    def _act(self) -> None:
        host_id = self._rng.choice(list(self.states))
        if self.states[host_id] != "up":
            self._mend(host_id)
        elif sum(state == "up" for state in self.states.values()) > 1:
            disturb = self._rng.choice(self._disturbances)
            self.done[disturb.__name__.strip("_")] += 1
            disturb(host_id)

    def _mend(self, host_id: int) -> None:
        state = self.states[host_id]
        if state == "paused" and self._rng.random() < 0.8:
            self._nodes.resume(host_id)
            self.done["resume"] += 1
        elif state in {"slow name", "moving"}:
            self._live_at(host_id, self._addresses[host_id])
        elif state != "up":
            self._restart(host_id)
            self.done["restart"] += 1
        self.states[host_id] = "up"

    def _kill(self, host_id: int) -> None:
        self._nodes.kill(host_id)
        self.states[host_id] = "dead"

    def _pause(self, host_id: int) -> None:
        self._nodes.pause(host_id)
        self.states[host_id] = "paused"

    def _restart(self, host_id: int) -> None:
        self._nodes.restart(host_id)
        self._live_at(host_id, HOME)

    def _slow(self, host_id: int) -> None:
        """Let a node take its time for whatever it is asked."""
        milliseconds = round(self._rng.uniform(*SLOW_SECONDS) * 1000)
        self._tell(host_id, ("CLIENT PAUSE", milliseconds))

    def _slow_name(self, host_id: int) -> None:
        """Have a node connected to anew while its name resolves slowly."""
        self.states[host_id] = "slow name"
        seconds = self._rng.uniform(*SLOW_NAME_SECONDS)
        self._names.say(host_id, self._addresses[host_id], seconds)
        self._tell(host_id, ("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes"))

    def _move(self, host_id: int) -> None:
        """Let a node's name stop resolving while the node moves to another address."""
        self.states[host_id] = "moving"
        before = self._addresses[host_id]
        after = self._addresses[host_id] = AWAY if before == HOME else HOME
        self._names.say(host_id, before, error=self._rng.choice(LOST_NAME_ERRORS))
        self._tell(
            host_id,
            ("CONFIG SET", "bind", after),
            ("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes"),
            address=before,
        )

    def _live_at(self, host_id: int, address: str) -> None:
        self._addresses[host_id] = address
        self._names.say(host_id, address)

    def _tell(
        self, host_id: int, *commands: tuple[Any, ...], address: str | None = None
    ) -> None:
        host = {**self._nodes.hosts[host_id], "host": address or self._addresses[host_id]}
        with (
            redis.Redis(**host, socket_timeout=2) as client,
            contextlib.suppress(redis.RedisError),
        ):
            for command in commands:
                client.execute_command(*command)


class ClusterChaos(Chaos):
    """Does so to a Redis Cluster: primaries fail or change places, and slots move.

    One node at a time, and the next when the cluster is whole again.
    """

    def __init__(self, nodes: LocalNodes, names: Names, seed: int) -> None:
        super().__init__(nodes, names, seed)
        self.states = dict.fromkeys(nodes.states(), "up")
        self._disturbances = [self._kill, self._pause, self._restart, self._slow]
        self._disturbances += [self._swap, self._move_slots]
        self._admin = Admin(nodes)

    def stop(self) -> None:
        super().stop()
        for host_id in self.states:
            self._mend(host_id)
        wait_until(self._is_whole, WHOLE_SECONDS)
        self._admin.close()

    def _act(self) -> None:
        broken = [host_id for host_id, state in self.states.items() if state != "up"]
        if broken:
            self._mend(broken[0])
        elif self._is_whole():
            super()._act()

    def _is_whole(self) -> bool:
        everybody = range(len(self.states))
        return all(self._admin.is_ok(n) and self._admin.is_in_place(n) for n in everybody)

    def _restart(self, host_id: int) -> None:
        self._nodes.restart(host_id)

    def _swap(self, host_id: int) -> None:
        """Let a replica take the place of its primary."""
        if self._admin.is_replica(host_id):
            self._admin.ask(host_id, "CLUSTER", "FAILOVER")

    def _move_slots(self, host_id: int) -> None:
        """Move some slots from a primary to another one."""
        owned = self._admin.ranges_of(host_id)
        others = [n for n in self.states if n != host_id and self._admin.ranges_of(n)]
        if owned and others:
            first, last = self._rng.choice(owned)
            target = self._rng.choice(others)
            for slot in range(first, min(first + MOST_SLOTS, last) + 1):
                self._admin.move(slot, host_id, target)

    def _tell(
        self, host_id: int, *commands: tuple[Any, ...], address: str | None = None
    ) -> None:
        for command in commands:
            self._admin.ask(host_id, *command)
