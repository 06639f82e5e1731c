"""Finds the Pythons of a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def find_python(*versions: str) -> Path | None:
    """Return the first of some versions, as in "3.13", that can make environments here."""
    # Something may be called python3.13 and not run (a shim of pyenv's), or have no venv
    # (Debian packages it apart). So each candidate is asked.
    question = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for version in versions:
        for candidate in _candidates(version):
            try:
                if _output(candidate, "-c", question) == version:
                    return candidate
            except (OSError, subprocess.SubprocessError):
                continue
    return None


def _candidates(version: str) -> Iterator[Path]:
    yield Path(sys.executable)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder, f"python{version}")
        if path.exists():
            yield path
    if pyenv := shutil.which("pyenv"):
        versions = Path(_output(pyenv, "root"), "versions")
        yield from sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)
    if uv := shutil.which("uv"):
        try:
            yield Path(_output(uv, "python", "find", "--no-python-downloads", version))
        except subprocess.SubprocessError:
            return


def _output(*command: str | Path) -> str:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()
