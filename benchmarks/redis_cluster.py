"""A Redis Cluster on this machine: primaries only, the slots shared out evenly.

with LocalCluster(8) as cluster:
    cluster.hosts    # [("127.0.0.1", 40001), …]

The servers are children of a process between (this file, run as a program), which kills them
when its input ends: whatever ends the one that uses them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from django_rb.testing import find_server
from django_rb.testing.supervising.servers import die_with_parent, reserve_port

SLOTS = 16384
SECONDS = 60.0
# cluster-node-timeout in ms: how often nodes talk follows from it. They are quick to tell
# what is new, and else as quiet as by default.
HURRIED, CALM = 1000, 15000

Host = tuple[str, int]


class LocalCluster:
    """A cluster that is there inside a `with` block."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.hosts: list[Host] = []
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.redis_cluster", find_server(), str(self._count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the parent
        )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        if not line:
            self._keeper.wait()
            raise RuntimeError("The Redis Cluster did not come up; see what it said above.")
        for host, port, pid in json.loads(line):
            self.hosts.append((host, port))
            self.pids.append(pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._keeper.communicate("")


def wait_until(come_true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not come_true():
        if time.monotonic() > end:
            raise RuntimeError(f"The Redis Cluster is not as it should be after {SECONDS} s.")
        time.sleep(0.05)


class Server:
    """One node's process."""

    def __init__(self, program: str, folder: Path) -> None:
        held, held_bus = reserve_port(), reserve_port()
        self.port, self.bus_port = held.getsockname()[1], held_bus.getsockname()[1]
        folder.mkdir()
        if sys.platform != "linux":  # where the bound sockets are in the servers' way
            held.close()
            held_bus.close()
        self.held = (held, held_bus)
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(program, "--dir", folder, "--bind", "127.0.0.1"),
                    *("--port", str(self.port), "--cluster-port", str(self.bus_port)),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(HURRIED)),
                    *("--save", "", "--appendonly", "no"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 (one thread only)
            )
        self.client: Any = redis.Redis(host="127.0.0.1", port=self.port)

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"A node ended with status {self.process.returncode}.")
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False


def join(servers: Sequence[Server]) -> None:
    """Make a cluster of servers."""
    count = len(servers)
    for number, server in enumerate(servers):
        wait_until(server.answers)
        server.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        first, last = number * SLOTS // count, (number + 1) * SLOTS // count - 1
        server.client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
    # Each meets the first, and the next: gossip does the rest, the quicker for the second.
    for number, server in enumerate(servers):
        for other in {0, (number + 1) % count} - {number}:
            there = servers[other]
            server.client.execute_command(
                "CLUSTER MEET", "127.0.0.1", there.port, there.bus_port
            )
    for server in servers:
        wait_until(partial(_is_whole, server.client, count))
    for server in servers:
        server.client.config_set("cluster-node-timeout", CALM)


def _is_whole(client: Any, count: int) -> bool:
    told = client.execute_command("CLUSTER INFO")
    return (
        told["cluster_state"] == "ok"
        and int(told["cluster_known_nodes"]) == count
        and int(told["cluster_size"]) == count
    )


def main() -> None:
    """Keep a cluster until standard input ends."""
    program, count = sys.argv[1], int(sys.argv[2])
    folder = Path(tempfile.mkdtemp(prefix="django-rb-cluster-"))
    servers: list[Server] = []
    try:
        for number in range(count):
            servers.append(Server(program, folder / str(number)))  # noqa: PERF401 (see finally)
        join(servers)
        nodes = [("127.0.0.1", server.port, server.process.pid) for server in servers]
        with contextlib.suppress(BrokenPipeError):  # whoever wanted them is gone
            print(json.dumps(nodes), flush=True)
            sys.stdin.read()
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
