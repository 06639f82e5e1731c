"""Processes that begin where ``python -m django`` or ``manage.py`` is after its imports.

Those take most of the time of a short command, and the tests run hundreds of them. So one
process, for all workers of a run, imports what all of them need, knows no settings and does
nothing else; each command is a process of its own that is forked from it, with its own
environment, standard streams and session.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from importlib import import_module, invalidate_caches
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

ROOT = Path(__file__).parents[2]

_COMMANDS = [
    *("bench", "big", "delete", "flushall", "get", "hot", "migrate", "nodes", "route"),
    *("scan", "status"),
]
_IMPORTED = [
    "django.contrib.admin",
    "django.contrib.auth.password_validation",
    "django.contrib.messages.apps",
    "django.contrib.sessions.apps",
    "django.core.management.commands.check",
    "django.core.management.commands.makemigrations",
    "django.core.management.commands.migrate",
    "django.db.backends.sqlite3.base",
    "django.db.migrations.state",
    "django.urls",
    "django.views.csrf",
    "django.views.debug",
    "django.views.defaults",
    "django_rb.cache",
    "django_rb.cache.near",
    "django_rb.checks",
    "django_rb.checks.connecting",
    "django_rb.checks.from_settings",
    "django_rb.checks.limits",
    "django_rb.management.commands.check",
    *(f"django_rb.management.commands.rb_{name}" for name in _COMMANDS),
    "django_rb.ratelimit",
    "encodings.idna",
]
_NUMBER = struct.Struct("i")
_connect = socket.socket.connect  # some tests replace it with one that refuses


class Process:
    """A command that was started; as much of `subprocess.Popen` as the tests use."""

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports
        self.pid = self._read()
        self.returncode: int | None = None

    def _read(self) -> int:
        number: int
        if not (data := self._reports.recv(_NUMBER.size, socket.MSG_WAITALL)):
            raise RuntimeError("The fork server has ended, or cannot fork.")
        [number] = _NUMBER.unpack(data)
        return number

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it did not end within `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._reports], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(self._read())
            self._reports.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    args: Sequence[str],
    env: Mapping[str, str],
    streams: Sequence[int],
    *,
    cwd: Path = ROOT,
    is_terminal: bool = False,
    imports: Sequence[str] = (),
    finalizes: bool = False,
) -> Process:
    """Start ``python -W error ARGS``, where these begin with a script, or ``-m`` and a module.

    Args:
        streams: the descriptors of its standard input, output and error.
        is_terminal: whether they are a terminal that becomes the process's own.
        imports: further modules that it, and later ones, find imported.
        finalizes: whether Python frees all objects at the end, as it does elsewhere. This
            takes as long as the command.
    """
    request = {
        "args": args,
        "env": dict(env),
        "cwd": str(cwd),
        "is_terminal": is_terminal,
        "imports": imports,
        "finalizes": finalizes,
    }
    connection = socket.socket(socket.AF_UNIX)
    try:
        _connect(connection, address())
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], streams)
        return Process(connection)
    except BaseException:
        connection.close()
        raise


_shared = ""


def use(given: str) -> None:
    """Use the fork server at this address, which the controller of the run has started."""
    global _shared  # noqa: PLW0603 (there is one for each run)
    _shared = given


def address() -> str:
    """Return the address of the fork server. Start it if there is none yet."""
    return _shared or _launch()


@functools.cache
def _launch() -> str:
    # Not in TMPDIR: the path of a unix socket has to be short.
    path = f"{mkdtemp(dir='/tmp')}/forkserver"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-m", __name__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(process.communicate)  # its input ends, and so does it
    return path


# In the process that is forked.


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; return it in the process that is to run it.

    Between the two is a third, which reports the process id and the exit status. Standard
    input ends with the process that started this one.
    """
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        reports, _ = listener.accept()
        with reports:
            if (request := _next_request(reports)) is None:
                continue
            with contextlib.suppress(ImportError):  # which the process itself will raise
                _import(request["imports"])
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not os.fork():
                listener.close()
                if not (pid := os.fork()):
                    return request
                _report(reports, pid)
        for descriptor in request["streams"]:
            os.close(descriptor)
    return None


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)
    gc.freeze()


def _next_request(connection: socket.socket) -> dict[str, Any] | None:
    """Return what is asked for; None if who asks has ended meanwhile."""
    data, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not data.endswith(b"\n"):
        if not (more := connection.recv(1 << 16)):
            for descriptor in streams:
                os.close(descriptor)
            return None
        data += more
    return {**json.loads(data), "streams": streams}


def _report(reports: socket.socket, pid: int) -> None:
    """Tell the tests about a process until it ends, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(1, 2)  # nobody shall wait for the end of the run's own error output
    with contextlib.suppress(BrokenPipeError):
        reports.sendall(_NUMBER.pack(pid))
        reports.sendall(_NUMBER.pack(os.waitpid(pid, 0)[1]))
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """Become what Python is when it begins with these arguments."""
    os.setsid()
    os.chdir(request["cwd"])
    for number, descriptor in enumerate(request["streams"]):
        os.dup2(descriptor, number)
    for descriptor in request["streams"]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # one may be there several times
                os.close(descriptor)
    if request["is_terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    if encoding := os.environ.get("PYTHONIOENCODING"):
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.reconfigure(encoding=encoding)  # type: ignore[union-attr]
    python_path = os.environ.get("PYTHONPATH", "")
    sys.path[:1] = [request["cwd"], *filter(None, python_path.split(os.pathsep))]
    invalidate_caches()
    is_module = request["args"][0] == "-m"
    sys.argv = request["args"][is_module:]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    status: object = None

    def leave() -> None:
        """End once threads have ended and what modules have registered has been called."""
        if isinstance(status, int):
            with contextlib.suppress(Exception):  # of which Python will tell
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os._exit(status)

    atexit.register(leave)  # before any module registers something: it is called last
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        _import(_IMPORTED)
        request = serve(listener)
        if request is None:
            shutil.rmtree(Path(listener.getsockname()).parent)
            return
    try:
        run(request)
    except SystemExit as end:
        status = None if request["finalizes"] else end.code or 0
        raise
    status = None if request["finalizes"] else 0


if __name__ == "__main__":
    main()
