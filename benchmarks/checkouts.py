"""Another commit of django-rb, beside this checkout, for as long as it is measured."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import ROOT


def commit(text: str) -> str:
    """Take a revision of this repository; return its hash and subject."""
    try:
        return _git("log", "-1", "--format=%h %s", "--end-of-options", f"{text}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"{text!r} is no commit of this repository; take one that `git log` shows "
            f"({reason})"
        ) from None


@contextmanager
def lay_out(before: str, python: Path) -> Iterator[Path]:
    """Lend a checkout of a commit, in which the benchmarks are this checkout's own.

    Args:
        before: what `commit` returned.
        python: that runs it: both checkouts are compiled first, as a process that has
            compiled what it imports is another.
    """
    with TemporaryDirectory(prefix="django-rb-") as folder:
        place = Path(folder) / "checkout"
        try:
            _git(
                "worktree",
                "add",
                "--quiet",
                "--detach",
                str(place),
                before.split(maxsplit=1)[0],
            )
            shutil.rmtree(place / "benchmarks", ignore_errors=True)
            (place / "benchmarks").symlink_to(Path(__file__).parent)
            for checkout in (ROOT, place):
                command: list[str | Path] = [python, "-m", "compileall", "-q"]
                subprocess.run([*command, checkout / "django_rb"], check=False)
            yield place
        finally:
            with suppress(subprocess.CalledProcessError):  # it was not laid out
                _git("worktree", "remove", "--force", str(place))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
