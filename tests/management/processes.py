"""Management commands as processes of their own: with pipes, and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from types import TracebackType
from typing import IO, Any, Self

from tests.helpers import wait_until

from . import forkserver

ROOT = Path(__file__).parents[2]
MODULE = ("-m", "django")
DJANGO = (sys.executable, "-W", "error", *MODULE)
SECONDS = 30.0


def environment(
    settings: str = "tests.management.settings", **variables: str
) -> dict[str, str]:
    """Return this process's environment, for a Django project with these settings."""
    inherited = {name: v for name, v in os.environ.items() if name != "DJANGO_RB_NODES"}
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONUNBUFFERED": "1",
        **variables,
    }


def on_nodes(**hosts: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """Return the environment of a process whose clusters have these hosts."""
    urls = {
        alias: [
            f"redis://:{h.get('password', '')}@{h['host']}:{h['port']}/{h.get('db', 0)}"
            for h in nodes.values()
        ]
        for alias, nodes in hosts.items()
    }
    return environment(DJANGO_RB_NODES=json.dumps(urls))


def project(directory: Path, clusters: object, more: str = "") -> dict[str, str]:
    """Return the environment of a project with these RB_CLUSTERS, and more settings."""
    (directory / "site_settings.py").write_text(
        f"from tests.management.settings import *\nRB_CLUSTERS = {clusters!r}\n{more}\n"
    )
    return environment("site_settings", PYTHONPATH=f"{directory}{os.pathsep}{ROOT}")


def django(
    *args: str,
    answer: str = "",
    env: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
    finalizes: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a management command to its end, with `answer` on its standard input.

    Args:
        stdout: a file that gets its output.
        finalizes: whether Python frees all objects at the end; see `forkserver.start`.
    """
    return python(*MODULE, *args, answer=answer, env=env, stdout=stdout, finalizes=finalizes)


def python(
    *args: str,
    answer: str = "",
    env: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
    finalizes: bool = False,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -W error ARGS`` to its end, as `django` does."""
    with TemporaryFile("w+") as stdin, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        stdin.write(answer)
        stdin.seek(0)
        streams = [stream.fileno() for stream in (stdin, stdout or out, err)]
        env = environment() if env is None else env
        process = forkserver.start(args, env, streams, finalizes=finalizes)
        try:
            status = process.wait(seconds)
        finally:
            process.kill()
            process.wait()
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(args, status, out.read(), err.read())


def start(*command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a program that goes on. Its standard error goes where its output goes."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment() if env is None else env,
        start_new_session=True,
    )


class Running:
    """A program, by default a management command, that goes on; the imports are done.

    As much of `subprocess.Popen` as the tests use. Its standard error goes where its output
    goes.

    Args:
        script: what gets `args`: a script, or ``-m`` and a module.
    """

    def __init__(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        script: Sequence[str] = MODULE,
    ) -> None:
        ours, theirs = os.pipe()
        self.stdout = os.fdopen(ours)
        with Path(os.devnull).open() as nothing, os.fdopen(theirs, "w") as output:
            streams = [nothing.fileno(), *[output.fileno()] * 2]
            env = environment() if env is None else env
            self._process = forkserver.start((*script, *args), env, streams)
        self.pid = self._process.pid
        self.send_signal, self.kill = self._process.send_signal, self._process.kill
        self.wait = self._process.wait

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return the rest of what it says, and nothing, once it has ended."""
        self.wait(timeout)
        with self.stdout:
            return self.stdout.read(), ""


def read_until(process: subprocess.Popen[str] | Running, text: str) -> str:
    """Return what a process says up to the line that has `text` in it."""
    assert process.stdout is not None
    said = ""
    patience = threading.Timer(SECONDS, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            said += line
            if text in line:
                return said
    finally:
        patience.cancel()
        patience.join()
    raise AssertionError(f"It ended without {text!r}: {said}")


def is_alive(pid: int) -> bool:
    """Whether a process is there and is more than a zombie that nobody has reaped."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not Path("/proc/self").exists() or (
            status.read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), SECONDS)


def pids_in(said: str) -> list[int]:
    """Return the process ids in the table of `rb_nodes`."""
    return [int(pid) for pid in re.findall(r"(?m)^\d+ +127\.0\.0\.1:\d+ +(\d+)$", said)]


class Terminal:
    """A management command on a terminal that is its own, as in a window."""

    def __init__(self, *args: str, env: Mapping[str, str], columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH  # or Ctrl-C takes away what is not on the screen yet
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        without_columns = {name: value for name, value in env.items() if name != "COLUMNS"}
        self.said = ""
        self._looked: tuple[str, ...] = ()
        try:
            env = {**without_columns, "TERM": "xterm"}
            self.process = forkserver.start(
                (*MODULE, *args), env, [slave] * 3, is_terminal=True, finalizes=True
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press keys once the program waits for them; Ctrl-C is "\\x03"."""
        wait_until(self._is_waiting, SECONDS)
        os.write(self._master, text.encode())

    def _is_waiting(self) -> bool:
        """Whether the program sleeps, and did nothing else since the last look."""
        status = Path(f"/proc/{self.process.pid}/stat")
        if not status.exists():  # not on Linux: a person would not wait either
            return True
        fields = status.read_text().rpartition(")")[2].split()
        state, cpu_time, switches = fields[0], fields[11:13], _switches(self.process.pid)
        before, self._looked = self._looked, (state, *cpu_time, switches)
        return state == "S" and before == self._looked

    def read_until(self, text: str) -> str:
        """Wait until the screen shows `text`; return all it has shown."""
        deadline = monotonic() + SECONDS
        while text not in self.said:
            assert self._read(deadline - monotonic()), f"No {text!r} in {self.said!r}"
        return self.said

    def read_to_end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and all that was shown."""
        while self._read(SECONDS):
            pass
        return self.process.wait(SECONDS), self.said

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(0, seconds))[0]:
            raise AssertionError(f"Nothing more came after {self.said!r}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux says when nobody is at the other end
            data = b""
        self.said += data.decode().replace("\r\n", "\n")
        return bool(data)


def _switches(pid: int) -> str:
    """Return how often a process was put on and taken off a CPU."""
    status = Path(f"/proc/{pid}/status").read_text()
    return " ".join(re.findall(r"ctxt_switches:\s+(\d+)", status))


def kill(process: subprocess.Popen[str] | Running) -> None:
    """End a process that a test has left, and read what it left."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    if process.stdout is None or not process.stdout.closed:
        process.communicate()
