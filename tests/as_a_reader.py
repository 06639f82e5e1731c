"""Does what a page shows, as a reader would: writes its files and runs its commands.

A block of Python whose first line is ``# shop/urls.py`` is that file; one whose first line
is ``# shop/settings.py, at the end`` is appended to it. In a block of a console, what
follows ``$`` is run, and what is shown below it is compared with what is printed, but for
numbers. ``runserver`` goes on in the background until the next command that is no ``curl``;
``…`` stands for any lines.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (?P<path>[\w/]+\.py)(?P<append>, at the end)?\n")
_STARTS_SECONDS = _ENDS_SECONDS = 30


class Different(Exception):
    """A command printed something else than the page shows."""


class Process(Protocol):
    """As much of `subprocess.Popen` as a reader needs."""

    def send_signal(self, number: int, /) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Reader:
    """Follows a page in a folder.

    Args:
        folder: where to work; `django-admin startproject` puts its files here.
        python: the interpreter that stands for ``python`` on the page.
        install: is called for each ``pip install`` with what is to be installed; by default
            nothing is installed.
    """

    def __init__(
        self, folder: Path, python: str, install: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder
        self._python = python
        self._install = install
        self._server: Process | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        # Of this process, which may be a run of the tests, only what a shell would have.
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_SETTINGS", "DJANGO_RB_N", "PYTEST_", "PYTHONPATH"))
        }
        self.env["DJANGO_COLORS"] = "nocolor"

    def follow(self, text: str) -> None:
        """Do what a page says, from top to bottom.

        Raises:
            Different: a command failed, or printed something else.
        """
        try:
            for language, block in _BLOCK.findall(text):
                if language == "console":
                    for entry in re.split(r"(?m)^\$ ", block)[1:]:
                        command, _, shown = entry.partition("\n")
                        self._run(command, shown)
                elif named := _FILE.match(block):
                    path = self.folder / named["path"]
                    before = path.read_text() if named["append"] else ""
                    path.write_text(before + "\n\n" + block[named.end() :])
        finally:
            self._stop()

    def _run(self, command: str, shown: str) -> None:
        words = shlex.split(command)
        if words[0] == "curl":
            self._compare(command, self._get(words[-1]), shown)
            return
        self._stop()
        if words[:2] == ["pip", "install"]:
            if self._install:
                self._install(words[-1])
        elif words[0] in ("mkdir", "cd", "source") or words[1:3] == ["-m", "venv"]:
            pass  # the folder and the interpreter are chosen
        elif "runserver" in words:
            self._start(words)
        else:
            with TemporaryFile("w+") as said:
                status = self.begin(self._resolved(words), said).wait()
                said.seek(0)
                printed = said.read()
            if status:
                raise Different(f"$ {command}\nfailed:\n{printed}")
            self._compare(command, printed, shown)

    def _resolved(self, words: list[str]) -> list[str]:
        if words[0] == "django-admin":
            return [self._python, "-m", "django", *words[1:]]
        return [self._python, *words[1:]] if words[0] == "python" else words

    def _start(self, words: list[str]) -> None:
        with Path(os.devnull).open("w") as nowhere:
            command = [*self._resolved(words), "--noreload", self._port]
            self._server = self.begin(command, nowhere)

    def begin(self, command: Sequence[str], said: IO[str]) -> Process:
        """Start a program in the folder. All that it says goes to `said`."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )

    def _stop(self) -> None:
        if self._server:
            # In the background of a script Ctrl-C is ignored.
            self._server.send_signal(signal.SIGTERM)
            self._server.wait(_ENDS_SECONDS)
            self._server = None

    def _get(self, url: str) -> str:
        url = url.replace(":8000", f":{self._port}")
        end = time.monotonic() + _STARTS_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url) as response:
                    text: str = response.read().decode()
                    return text
            except urllib.error.URLError as error:
                if not isinstance(error.reason, OSError) or time.monotonic() > end:
                    raise
                time.sleep(0.05)  # until the server listens

    @staticmethod
    def _compare(command: str, printed: str, shown: str) -> None:
        # Numbers that are the same each time belong to what the page says: those of JSON.
        is_json = shown.startswith("{")
        pattern = ".*".join(map(re.escape, re.split(" ?… ?", _plain(shown, is_json))))
        if not re.fullmatch(pattern, _plain(printed, is_json)):
            raise Different(f"$ {command}\nprinted:\n{printed}\nThe page shows:\n{shown}")


def _plain(text: str, is_json: bool) -> str:
    """Return a text in one line, without the numbers that differ from run to run."""
    return " ".join((text if is_json else re.sub(r"\d+", "0", text)).split())
