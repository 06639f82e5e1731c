"""The process between a LocalNodes and its servers: when it ends, they end.

It runs as ``python -I -S supervisor.py PARENT_PID DIRECTORY``, knows only the standard
library, and answers one line of JSON with one line of JSON: ``{"do": …}`` on its
standard input with ``{"ok": …}`` or ``{"error": …}`` on its standard output. Other processes
of the same user ask at the unix socket CONTROL in the directory, one line for a connection.

It ends, with all servers and the directory, when its input does or when its parent is
no longer its parent. The second is for parents that die while another process holds a
copy of the pipe. Should it be killed itself, Linux kills the servers at once.
"""

import contextlib
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.002
PARENT_POLL_SECONDS = 0.25
LOG_LINES = 20
PR_SET_PDEATHSIG = 1
SLOTS = 16384
CLUSTER_CONFIG = "nodes.conf"

# What tells in its log that a server is ready for its part.
ACCEPTS = b"eady to accept connections"
IN_CLUSTER = b"Cluster state changed: ok"
HAS_COPY = b"sync: Finished with success"

# In the directory of the nodes; no longer than the name of a node's own socket.
CONTROL = "ask.sock"
CONTROL_SECONDS = 1.0
FOR_OTHERS = ("kill", "restart")


class Failure(Exception):
    """A request that could not be fulfilled; its text goes to the parent."""


def reserve_port(port: int = 0) -> socket.socket:
    """Bind a socket to a port of 127.0.0.1, without listening; 0 is any that is free."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        held.close()
        raise Failure(f"Port {port} cannot be used: {error}.") from error
    return held


def die_with_parent(
    parent: int | None = None, number: int = signal.SIGKILL
) -> Callable[[], None] | None:
    """Return what a child calls to get a signal when its parent ends; None if it cannot.

    Args:
        parent: the parent's process id, by default that of this process.
        number: the signal.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415 (some builds of Python do without)
    except ImportError:
        return None
    prctl = ctypes.CDLL(None).prctl
    expected = parent or os.getpid()

    def end_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != expected:  # it died before we asked
            os._exit(1)

    return end_with_parent


class Server:
    """One server process: its address stays, its process may come and go."""

    def __init__(
        self,
        name: str,
        program: str,
        config: bytes,
        directory: Path,
        *,
        unix_socket: bool,
        port: int,
        kept: Path | None,
        bus_port: socket.socket | None = None,
    ) -> None:
        self.name = name
        self.program = program
        self.config = config
        self.directory = directory
        self.kept = kept
        self.log = directory.with_suffix(".log")
        self.address: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False
        self.before_exec = die_with_parent()
        self.held: socket.socket | None = None
        self.bus_port = bus_port  # of a member of a Redis Cluster
        self.bus_number = 0 if bus_port is None else bus_port.getsockname()[1]
        self.cluster_config = ""  # whom it knows there
        self.awaited = [ACCEPTS]  # lines of its log
        self.may_move = not unix_socket and not port and bus_port is None
        if unix_socket:
            self.address = {"unix_socket_path": str(directory.with_suffix(".sock"))}
        else:
            self.move(port)

    def move(self, port: int = 0) -> None:
        """Take a port, by default another one that is free."""
        self.release_port()
        self.held = reserve_port(port)
        self.address = {"host": "127.0.0.1", "port": self.held.getsockname()[1]}

    def release_port(self) -> None:
        """Let others have the port."""
        if self.held is not None:
            self.held.close()
            self.held = None
            if self.bus_port is not None:
                self.bus_port.close()

    @property
    def cluster_address(self) -> str:
        """Where other members of a Redis Cluster find it."""
        return f"127.0.0.1:{self.address['port']}@{self.bus_number}"

    def spawn(self) -> None:
        """Start a server, without data but what is kept; ready() tells when it is there."""
        if sys.platform != "linux":
            # Elsewhere the bound socket would keep the server from its port. On Linux it
            # does not, and keeps everybody else from it, also while the server is dead.
            self.release_port()
        data = self.kept or self.directory
        if self.kept is None:
            self.empty_directory()
        else:
            data.mkdir(parents=True, exist_ok=True)
        if path := self.address.get("unix_socket_path"):
            place = ["--port", "0", "--unixsocket", path]
        else:
            place = ["--port", str(self.address["port"]), "--bind", "127.0.0.1"]
        if self.bus_port is not None:
            place += ["--cluster-port", str(self.bus_number)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 (the program the user chose)
                [self.program, "-", "--dir", str(data), *place],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self.before_exec,  # noqa: PLW1509 (one thread only)
            )
        self.paused = False
        # Not as arguments: every user of the machine can read those of all processes.
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(self.config)

    def empty_directory(self) -> None:
        """Leave nothing of an earlier process but whom it knew in its cluster."""
        known = self.directory / CLUSTER_CONFIG
        with contextlib.suppress(FileNotFoundError):
            self.cluster_config = known.read_text()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        if self.cluster_config:
            known.write_text(self.cluster_config)

    def ready(self) -> bool:
        """Whether the server takes connections; moves it when its port is taken.

        Its own log says so, and says it after bind() and listen(): nobody else can be
        the one who answers there, and a password is no obstacle.
        """
        alive = self.alive()  # before the log is read: nothing is written after the end
        log = self.log.read_bytes()
        if alive:
            return all(line in log for line in self.awaited)
        if self.may_move and b"Address already in use" in log:
            self.move()
            self.spawn()
            return False
        status = self.process and self.process.returncode
        raise Failure(f"{self.name} ended with status {status}{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the log, as the end of an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return ". Its log ends:\n" + "\n".join(lines) if lines else ", its log is empty."

    def alive(self) -> bool:
        """Whether the process is there, paused or not."""
        return self.process is not None and self.process.poll() is None

    def state(self) -> str:
        """Return "running", "paused" or "dead"."""
        if not self.alive():
            return "dead"
        return "paused" if self.paused else "running"

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Stop the process and wait until it stands still."""
        process = self.living()
        if self.paused:
            return
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            raise Failure(f"{self.name} ended before it could be paused{self.log_tail()}")
        self.paused = True

    def resume(self) -> None:
        """Let the process go on."""
        self.living().send_signal(signal.SIGCONT)
        self.paused = False

    def living(self) -> subprocess.Popen[bytes]:
        """Return the process, or raise Failure when it is not there."""
        if self.process is None or not self.alive():
            raise Failure(f"{self.name} is dead; restart it first.")
        return self.process


class Supervisor:
    """Fulfils the parent's requests, one at a time."""

    def __init__(self, parent: int, directory: Path) -> None:
        self.parent = parent
        self.directory = directory
        self.servers: list[Server] = []
        self.start_seconds = 0.0  # how long a server may take; the request to start says it
        self.control = listen_at(directory / CONTROL)
        self.kept: Any = None  # a lock on the directory in which data is kept

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield what the parent asks, until nobody is left to ask."""
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
        """Do what another process asks for, one line of JSON; whoever is slow is left."""
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
        """Whether the parent is gone."""
        return os.getppid() != self.parent

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do as asked; what went wrong becomes part of the answer."""
        try:
            return {"ok": self.fulfil(**request)}
        except (Failure, OSError) as error:
            return {"error": str(error)}

    def fulfil(self, do: str, node: int = 0, **details: Any) -> Any:
        """Do as asked and return the answer."""
        if do == "start":
            return self.start(**details)
        if do == "states":
            return [server.state() for server in self.servers]
        server = self.servers[node]
        if do == "restart":
            server.kill()
            server.may_move = False
            server.awaited = [ACCEPTS]
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
        replicas: int | None = None,
    ) -> dict[str, Any]:
        """Start all servers side by side and wait until each takes connections.

        Args:
            replicas: how many each of `count` primaries of a Redis Cluster has; None for
                servers that stand alone.
        """
        self.start_seconds = start_seconds
        name, version = identify(program, start_seconds)
        # What comes later wins.
        own = [["save", ""], ["appendonly", "yes" if keep else "no"], ["loglevel", "notice"]]
        if keep:
            self.kept = lock_directory(Path(keep))
        if replicas is not None:
            own += CLUSTER_OPTIONS
        config = b"".join(map(config_line, [*own, *options]))
        for node in range(count * (1 + (replicas or 0))):
            server = Server(
                f"Node {node}",
                program,
                config,
                self.directory / str(node),
                unix_socket=unix_sockets,
                port=first_port + node if first_port else 0,
                kept=Path(keep, str(node)) if keep else None,
                bus_port=None if replicas is None else reserve_port(),
            )
            self.servers.append(server)
        if replicas is not None:
            introduce(self.servers, count, has_shard_ids=knows_shard_ids(name, version))
        for server in self.servers:
            server.spawn()
        self.wait_for(self.servers)
        return {
            "server": f"{name} {version}",
            "addresses": [server.address for server in self.servers],
            "pids": [server.process and server.process.pid for server in self.servers],
        }

    def wait_for(self, servers: Sequence[Server]) -> None:
        """Wait until all `servers` are ready, at most `start_seconds`."""
        deadline = time.monotonic() + self.start_seconds
        while waiting := [server for server in servers if not server.ready()]:
            if time.monotonic() > deadline:
                late = waiting[0]
                raise Failure(
                    f"{late.name} was not ready after {self.start_seconds:g} s{late.log_tail()}"
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


# Of the members of a Redis Cluster. Replicas get their copy at once, and stay with their
# primaries.
CLUSTER_OPTIONS = [
    ["cluster-enabled", "yes"],
    ["cluster-config-file", CLUSTER_CONFIG],
    ["cluster-node-timeout", "5000"],
    ["cluster-allow-replica-migration", "no"],
    ["repl-diskless-sync-delay", "0"],
]


def introduce(servers: Sequence[Server], primaries: int, *, has_shard_ids: bool) -> None:
    """Let servers know each other and their parts when they start.

    The first `primaries` share the slots evenly, the others are replicas of them in turn. So
    nobody has to be met, nor slots to be handed out.
    """
    ids = [secrets.token_hex(20) for _ in servers]
    shard_ids = [secrets.token_hex(20) for _ in range(primaries)]
    for me, server in enumerate(servers):
        lines = []
        for number, other in enumerate(servers):
            shard = number % primaries
            words = [ids[number], other.cluster_address]
            if has_shard_ids:
                words[1] += f",,shard-id={shard_ids[shard]}"
            flags = ["myself"] if number == me else []
            is_primary = number < primaries
            words.append(",".join([*flags, "master" if is_primary else "slave"]))
            words += ["-" if is_primary else ids[shard], "0", "0", str(shard + 1), "connected"]
            if is_primary:
                first, end = shard * SLOTS // primaries, (shard + 1) * SLOTS // primaries
                words.append(f"{first}-{end - 1}")
            lines.append(" ".join(words))
        lines.append(f"vars currentEpoch {primaries} lastVoteEpoch 0\n")
        server.cluster_config = "\n".join(lines)
        server.awaited = [ACCEPTS, IN_CLUSTER]
        if me >= primaries:
            server.awaited.append(HAS_COPY)


def knows_shard_ids(name: str, version: str) -> bool:
    """Return whether a server's list of nodes has shard ids: Redis since 7.2."""
    major, minor = (int(part) for part in [*version.split("."), "0"][:2])
    return name == "valkey" or (major, minor) >= (7, 2)


def listen_at(path: Path) -> socket.socket | None:
    """Listen at a unix socket; None where that cannot be, as where its path is too long."""
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
    """Make a directory, if need be, and keep other nodes away from it.

    Returns what holds the lock as long as it is there.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / "lock").open("w")
    try:
        import fcntl  # noqa: PLC0415 (not on Windows)

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Failure(f"Other nodes that run keep their data in {path}.") from None
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
    """Return what a server program says it is, as in ("valkey", "8.1.8")."""
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
        raise Failure(f"{program} --version did not end in {seconds:g} s.") from None
    said = asked.stdout + asked.stderr
    if found := re.match(r"(\w+) server v=(\d[\w.]*)", said):
        return found[1].lower(), found[2]
    raise Failure(f"{program} is no Valkey or Redis server. Asked --version it said: {said!r}")


def main() -> None:
    """Serve the parent until it is gone."""
    supervisor = Supervisor(int(sys.argv[1]), Path(sys.argv[2]))
    # Ctrl-C is for the parent. Other requests to end are honoured, servers first.
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


if __name__ == "__main__":
    main()
