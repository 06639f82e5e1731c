"""The connection to the process that runs servers for a LocalNodes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

from .discovery import NodesError

SUPERVISOR = Path(__file__).with_name("supervising")
DIRECTORY_PREFIX = "django-rb-"
STOP_SECONDS = 10.0


class Supervisor:
    """This process's end of the pipes to supervisor.py."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = os.getpid()
        self.directory = tempfile.mkdtemp(prefix=DIRECTORY_PREFIX)  # of mode 0700
        # -I -S: ignores the caller's environment, and starts in a few milliseconds.
        # Unbuffered: a forked child must not inherit part of a request and send it again.
        # Its own session: Ctrl-C in a terminal goes to the whole process group.
        try:
            self.process = subprocess.Popen(  # noqa: S603 (our own file)
                [sys.executable, "-I", "-S", SUPERVISOR, str(self.owner), self.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        _supervisors.add(self)

    def request(self, do: str, **details: Any) -> Any:
        """Return the response to a request, or raise NodesError with the reason."""
        if self.owner != os.getpid():
            raise NodesError("The nodes can only be used in the process that started them.")
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        request = json.dumps({"do": do, **details}).encode() + b"\n"
        with self.lock:
            try:
                stdin.write(request)
                answer = stdout.readline()
            except (BrokenPipeError, ValueError):  # ValueError: closed at this end
                answer = b""
            except BaseException:
                self.stop()  # or the next request would read this response
                raise
        if not answer:
            raise NodesError(
                "The supervisor process of the nodes has ended, so the nodes have stopped."
            )
        said = json.loads(answer)
        if "error" in said:
            raise NodesError(said["error"])
        return said["ok"]

    def stop(self) -> None:
        """Stop the supervisor, which stops the nodes. Not in a forked child."""
        if self.owner != os.getpid():
            return
        self.close_pipes()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)  # if the supervisor could not

    def close_pipes(self) -> None:
        """Close the pipes. The supervisor ends when no process has them open."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def leave_to_parent(self) -> None:
        """In a forked child: close the pipes, and forget the parent's child process."""
        self.close_pipes()
        self.process.returncode = 0


_supervisors: "weakref.WeakSet[Supervisor]" = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in _supervisors:
        supervisor.leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, where this can at least be imported
    os.register_at_fork(after_in_child=_after_fork)
