"""Environments for the contestants: one for each file in benchmarks/requirements/.

They are virtual environments under .venvs/bench-*, all of the same Python, made at the first
run and when the file has changed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.pythons import find_python

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".venvs"
REQUIREMENTS = Path(__file__).with_name("requirements")
# One that every contestant runs on; django-vcache needs 3.12.
PYTHONS = ("3.13", "3.14", "3.12")


def choose_python() -> Path:
    """Return the Python of all contestants: the one that runs, if there is none better."""
    return find_python(*PYTHONS) or Path(sys.executable)


def make_environments(
    names: Collection[str], python: Path, say: Callable[[str], None]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the Python of each environment, and why the others could not be made."""
    made: dict[str, Path] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(_make, name, python, say) for name in sorted(names)}
        for name, future in futures.items():
            try:
                made[name] = future.result()
            except subprocess.CalledProcessError as error:
                failed[name] = f"it cannot be installed for {python.name}: {_reason(error)}"
    return made, failed


def _make(name: str, python: Path, say: Callable[[str], None]) -> Path:
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = PLACE / f"bench-{name}"
    installed = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = f"{python}\n{requirements.read_text(encoding='utf-8')}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return installed
    say(f"making {folder.relative_to(ROOT)} …")
    _run([python, "-m", "venv", "--clear", folder])
    pip: list[str | Path] = [installed, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--no-input", "--quiet", "--requirement", requirements])
    stamp.write_text(wanted, encoding="utf-8")
    return installed


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )


def _reason(error: subprocess.CalledProcessError) -> str:
    """Return the last that pip complained about."""
    lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR: ")]
    return lines[-1].removeprefix("ERROR: ") if lines else f"status {error.returncode}"
