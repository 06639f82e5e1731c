"""Another revision of django-rb, beside this checkout, for as long as it is measured."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conductor import Arena, Conductor
from benchmarks.contestants import BEFORE, KNOWN
from benchmarks.environments import ROOT, choose_python, make_environments
from benchmarks.progress import Say


def revision(text: str) -> str:
    """Take a revision of this repository; return its hash and subject."""
    try:
        return _git("log", "-1", "--format=%h %s", "--end-of-options", f"{text}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"{text!r} is no revision of this repository; take one that `git log` shows "
            f"({reason})"
        ) from None


@contextmanager
def laid_out(commit: str) -> Iterator[Path]:
    """Lend a checkout of a commit, in which the benchmarks are this checkout's own."""
    with TemporaryDirectory(prefix="django-rb-") as folder:
        place = Path(folder) / "checkout"
        try:
            _git("worktree", "add", "--quiet", "--detach", str(place), commit)
            shutil.rmtree(place / "benchmarks", ignore_errors=True)
            (place / "benchmarks").symlink_to(Path(__file__).parent)
            yield place
        finally:
            with suppress(subprocess.CalledProcessError):  # it was not laid out
                _git("worktree", "remove", "--force", str(place))


@contextmanager
def make_conductor(
    contestants: Collection[str], before: str | None, here: bool, say: Say
) -> Iterator[Conductor]:
    """Lend a conductor with environments, servers and the other checkout.

    Args:
        before: what `revision` returned, if there is another.
        here: let all run on this Python, instead of making environments.
    """
    used = {KNOWN[name].environment for name in contestants} - {BEFORE}
    pythons, missing = dict.fromkeys(used, Path(sys.executable)), dict[str, str]()
    if not here:
        pythons, missing = make_environments(used, choose_python(), say)
    if "common" in pythons:
        pythons[BEFORE] = pythons["common"]
    else:
        missing[BEFORE] = missing["common"]
    with ExitStack() as stack:
        checkouts = {}
        if before:
            checkouts[BEFORE] = stack.enter_context(laid_out(before.split()[0]))
            # A process that compiled what it imports is another: both find it compiled.
            for checkout in (ROOT, checkouts[BEFORE]) if BEFORE in pythons else ():
                compiler = [str(pythons[BEFORE]), "-m", "compileall", "-q"]
                subprocess.run([*compiler, str(checkout / "django_rb")], check=False)
        arena = stack.enter_context(Arena())
        yield Conductor(arena, pythons, missing, say, checkouts=checkouts)


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
