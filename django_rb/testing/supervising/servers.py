"""One server process, its port and its log."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG_LINES = 20
PR_SET_PDEATHSIG = 1
CLUSTER_CONFIG = "nodes.conf"

# The text in a server's log when it accepts connections.
ACCEPTS = b"eady to accept connections"


class Failure(Exception):
    """A request that could not be fulfilled; its text goes to the parent."""


def reserve_port(port: int = 0) -> socket.socket:
    """Bind a socket to a port of 127.0.0.1, without listening; 0 stands for any free port."""
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
    """Return a function for a child to get a signal when its parent ends; None if impossible.

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
    """One server: its address stays the same, its process may be replaced."""

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
        self.cluster_config = ""  # the other members
        self.awaited = [ACCEPTS]  # lines of its log
        self.may_move = not unix_socket and not port and bus_port is None
        if unix_socket:
            self.address = {"unix_socket_path": str(directory.with_suffix(".sock"))}
        else:
            self.move(port)

    def move(self, port: int = 0) -> None:
        """Use a port, by default another free one."""
        self.release_port()
        self.held = reserve_port(port)
        self.address = {"host": "127.0.0.1", "port": self.held.getsockname()[1]}

    def release_port(self) -> None:
        """Release the port for other programs."""
        if self.held is not None:
            self.held.close()
            self.held = None
            if self.bus_port is not None:
                self.bus_port.close()

    @property
    def cluster_address(self) -> str:
        """Its address for other members of a Redis Cluster."""
        return f"127.0.0.1:{self.address['port']}@{self.bus_number}"

    def spawn(self) -> None:
        """Start a server, only with data that is kept; ready() returns when it is available."""
        if sys.platform != "linux":
            # On other platforms the bound socket would block the server, too. On Linux it
            # blocks only other programs, also while the server is dead.
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
        # Not as arguments, which every user of the machine can read.
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(self.config)

    def empty_directory(self) -> None:
        """Remove the files of an earlier process, except its list of cluster members."""
        known = self.directory / CLUSTER_CONFIG
        with contextlib.suppress(FileNotFoundError):
            self.cluster_config = known.read_text()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        if self.cluster_config:
            known.write_text(self.cluster_config)

    def ready(self) -> bool:
        """Whether the server accepts connections; moves it if its port is taken.

        The log shows it after bind() and listen(), so that no other program can be mistaken
        for it, and no password is needed.
        """
        alive = self.alive()  # before the log is read, as nothing is written after the end
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
        """Whether the process exists, paused or not."""
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
        """Pause the process, and wait until it has stopped."""
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
        """Resume the process."""
        self.living().send_signal(signal.SIGCONT)
        self.paused = False

    def living(self) -> subprocess.Popen[bytes]:
        """Return the process, or raise Failure if it does not exist."""
        if self.process is None or not self.alive():
            raise Failure(f"{self.name} is not running; restart it first.")
        return self.process
