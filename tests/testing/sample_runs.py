"""Runs the sample project's suite, and knows which servers that started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from django_rb.testing import find_server

PROJECT = Path(__file__).with_name("sample_project")
SECONDS = 120

DJANGO = ("manage.py", "test")
# Hypothesis has a plugin that takes longer to import than most of these runs last.
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")


class Runs:
    """Starts runs of the sample project.

    Args:
        folder: where a record of the servers is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._record = folder / "servers"
        self._server = folder / "server"
        self._server.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = --version ] || echo $$ >> "{self._record}"\n'
            f'exec "{find_server()}" "$@"\n'
        )
        self._server.chmod(0o755)

    @property
    def pids(self) -> list[int]:
        """The process ids of the servers that were started."""
        return (
            [int(line) for line in self._record.read_text().split()]
            if (self._record.exists())
            else []
        )

    def start(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start Python on the project, with variables in its environment."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "PYTEST_", "PYTHONPATH"))
        }
        return subprocess.Popen(
            [sys.executable, "-W", "error", *args],
            cwd=PROJECT,
            env={**inherited, "DJANGO_RB_SERVER": str(self._server), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *args: str, **variables: str) -> tuple[int, str]:
        """Run Python on the project; return its exit status and what it said."""
        with self.start(*args, **variables) as process:
            try:
                said, _ = process.communicate(timeout=SECONDS)
            except BaseException:
                process.kill()
                raise
            return process.returncode, said
