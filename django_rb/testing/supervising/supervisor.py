"""The process between a LocalNodes and its servers: when it ends, they end.

It runs as ``python -I -S supervising PARENT_PID DIRECTORY``, uses only the standard
library, and answers one line of JSON with one line of JSON: ``{"do": …}`` on its
standard input with ``{"ok": …}`` or ``{"error": …}`` on its standard output. Other processes
of the same user connect to the unix socket CONTROL in the directory, one line per connection.

It ends, with all servers and the directory, when its input ends or when it has another parent.
The second is for parents that die while another process has a copy of the pipe. If it is
killed itself, Linux kills the servers at once.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .members import CLUSTER_OPTIONS, introduce, knows_shard_ids
from .sentinels import REPLICATION_OPTIONS, SENTINELS, WATCHES, Sentinel, replicate, watch
from .servers import ACCEPTS, Failure, Server, reserve_port

POLL_SECONDS = 0.002
PARENT_POLL_SECONDS = 0.25

# In the directory of the nodes; not longer than the name of a node's own socket.
CONTROL = "ask.sock"
CONTROL_SECONDS = 1.0
FOR_OTHERS = ("kill", "restart")


class Supervisor:
    """Handles the parent's requests, one at a time."""

    def __init__(self, parent: int, directory: Path) -> None:
        self.parent = parent
        self.directory = directory
        self.servers: list[Server] = []
        self.start_seconds = 0.0  # how long a server may take; set by the request to start
        self.control = listen_at(directory / CONTROL)
        self.kept: Any = None  # a lock on the directory in which data is kept

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the parent's requests, until it has ended."""
        pending = b""
        while not self.orphaned():
            lines: list[Any] = [0, self.control] if self.control else [0]
            asking = select.select(lines, [], [], PARENT_POLL_SECONDS)[0]
            if self.control in asking:
                self.answer_another()
            if 0 not in asking:
                continue
            received = os.read(0, 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            yield from map(json.loads, lines)

    def answer_another(self) -> None:
        """Handle the request of another process, one line of JSON; give up on slow ones."""
        assert self.control
        with contextlib.suppress(OSError, ValueError):
            asking, _ = self.control.accept()
            with asking, asking.makefile("rb") as lines:
                asking.settimeout(CONTROL_SECONDS)
                request = json.loads(lines.readline(1000))
                if request["do"] in FOR_OTHERS and 0 <= request["node"] < len(self.servers):
                    answer = self.answer(request)
                else:
                    answer = {"error": f"There is no node {request['node']}."}
                asking.sendall(json.dumps(answer).encode())

    def orphaned(self) -> bool:
        """Whether the parent has ended."""
        return os.getppid() != self.parent

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle a request, and return the response, which may be an error."""
        try:
            return {"ok": self.fulfil(**request)}
        except (Failure, OSError) as error:
            return {"error": str(error)}

    def fulfil(self, do: str, node: int = 0, **details: Any) -> Any:
        """Handle a request, and return the result."""
        if do == "start":
            return self.start(**details)
        if do == "states":
            return [server.state() for server in self.servers]
        server = self.servers[node]
        if do == "restart":
            server.kill()
            server.may_move = False
            server.awaited = [WATCHES if isinstance(server, Sentinel) else ACCEPTS]
            server.spawn()
            self.wait_for([server])
        else:
            {"kill": server.kill, "pause": server.pause, "resume": server.resume}[do]()
        return server.process and server.process.pid

    def start(
        self,
        program: str,
        count: int,
        options: list[list[str]],
        start_seconds: float,
        *,
        unix_sockets: bool,
        first_port: int,
        keep: str | None,
        topology: str,
        replicas: int,
        password: str | None,
        failover_seconds: float,
    ) -> dict[str, Any]:
        """Start all servers in parallel and wait until each accepts connections.

        Args:
            topology: "static", "sentinel" or "redis-cluster".
            replicas: how many each of `count` primaries has.
            password: of the default user, for Sentinels.
            failover_seconds: after which a server that does not answer is down for Sentinels.
        """
        self.start_seconds = start_seconds
        name, version = identify(program, start_seconds)
        # The last value of an option is used.
        own = [["save", ""], ["appendonly", "yes" if keep else "no"], ["loglevel", "notice"]]
        if keep:
            self.kept = lock_directory(Path(keep))
        is_cluster = topology == "redis-cluster"
        own += CLUSTER_OPTIONS if is_cluster else REPLICATION_OPTIONS if replicas else []
        config = b"".join(map(config_line, [*own, *options]))
        for node in range(count * (1 + replicas)):
            server = Server(
                f"Node {node}",
                program,
                config,
                self.directory / str(node),
                unix_socket=unix_sockets,
                port=first_port + node if first_port else 0,
                kept=Path(keep, str(node)) if keep else None,
                bus_port=reserve_port() if is_cluster else None,
            )
            self.servers.append(server)
        if is_cluster:
            introduce(self.servers, count, has_shard_ids=knows_shard_ids(name, version))
        elif topology == "sentinel" or replicas:
            replicate(self.servers, count)
        if topology == "sentinel":
            self.servers += self.make_sentinels(
                program,
                count,
                first_port=first_port,
                password=password,
                milliseconds=round(failover_seconds * 1000),
            )
        for server in self.servers:
            server.spawn()
        self.wait_for(self.servers)
        return {
            "server": f"{name} {version}",
            "addresses": [server.address for server in self.servers],
            "pids": [server.process and server.process.pid for server in self.servers],
        }

    def make_sentinels(
        self,
        program: str,
        count: int,
        *,
        first_port: int,
        password: str | None,
        milliseconds: int,
    ) -> list[Sentinel]:
        """Return the Sentinels that monitor the servers; see `sentinels.watch`."""
        total = len(self.servers)
        sentinels = [
            Sentinel(
                f"Sentinel {number}",
                program,
                self.directory / str(number),
                port=first_port + number if first_port else 0,
            )
            for number in range(total, total + SENTINELS)
        ]
        watch(sentinels, self.servers, count, password=password, milliseconds=milliseconds)
        return sentinels

    def wait_for(self, servers: Sequence[Server]) -> None:
        """Wait at most `start_seconds` until all `servers` are ready."""
        deadline = time.monotonic() + self.start_seconds
        while waiting := [server for server in servers if not server.ready()]:
            if time.monotonic() > deadline:
                late = waiting[0]
                raise Failure(
                    f"{late.name} was not ready within {self.start_seconds:g} "
                    f"s{late.log_tail()}"
                )
            if self.orphaned():
                sys.exit()
            time.sleep(POLL_SECONDS)
            servers = waiting

    def stop(self) -> None:
        """Kill all servers and remove everything they wrote."""
        for server in self.servers:
            server.kill()
            server.release_port()
        shutil.rmtree(self.directory, ignore_errors=True)


def listen_at(path: Path) -> socket.socket | None:
    """Listen on a unix socket; return None if impossible, as when its path is too long."""
    listener = None
    with contextlib.suppress(AttributeError, OSError):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        return listener
    if listener is not None:
        listener.close()
    return None


def lock_directory(path: Path) -> Any:
    """Create a directory if necessary, and lock it against other nodes.

    Returns an object that holds the lock while it exists.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / "lock").open("w")
    try:
        import fcntl  # noqa: PLC0415 (not on Windows)

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Failure(f"Other running nodes keep their data in {path}.") from None
    except ImportError:
        pass
    return lock


def config_line(words: Sequence[str]) -> bytes:
    """Return a line of a server's configuration: the name of an option, and its values."""
    quoted = [re.sub(rb"[^ !#-\[\]-~]", _escaped, word.encode()) for word in words]
    return b'"' + b'" "'.join(quoted) + b'"\n'


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % ord(found[0])


def identify(program: str, seconds: float) -> tuple[str, str]:
    """Return the name and version of a server program, as in ("valkey", "8.1.8")."""
    try:
        asked = subprocess.run(  # noqa: S603 (the program the user chose)
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{program} --version did not finish within {seconds:g} s.") from None
    said = asked.stdout + asked.stderr
    if found := re.match(r"(\w+) server v=(\d[\w.]*)", said):
        return found[1].lower(), found[2]
    raise Failure(
        f"{program} is not a Valkey or Redis server. Its output for --version was: {said!r}"
    )


def main() -> None:
    """Serve the parent until it ends."""
    supervisor = Supervisor(int(sys.argv[1]), Path(sys.argv[2]))
    # Ctrl-C is for the parent. Other signals end this process, after its servers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    try:
        with contextlib.suppress(BrokenPipeError):
            for request in supervisor.requests():
                os.write(1, json.dumps(supervisor.answer(request)).encode() + b"\n")
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop()
    # Nothing is left to clean up, and the end of the interpreter takes several milliseconds.
    os._exit(0)
