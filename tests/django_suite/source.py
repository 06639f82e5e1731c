"""Django's tests: they come with its source distribution only, not with its wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django


def fetch_tests(folder: Path) -> Path:
    """Return the directory of the installed Django's tests, fetched by pip when not there.

    Args:
        folder: where they are kept, for any number of Django's versions.
    """
    target = folder / f"django-{django.__version__}-tests"
    if target.is_dir():
        return target
    print(f"Fetching the source distribution of Django {django.__version__} …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _download(Path(scratch))
        [archive] = Path(scratch).glob("*.tar.gz")
        # All or nothing, and no trouble when two processes do the same at once.
        unpacked = _unpack_tests(archive, Path(scratch))
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _download(folder: Path) -> None:
    # "--no-binary django" and not ":all:": that would also build setuptools from source.
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-qq"),
            *("--disable-pip-version-check", "--no-deps", "--no-binary", "django"),
            *("--dest", str(folder), f"django=={django.__version__}"),
        ],
        check=True,
    )


def _unpack_tests(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        # The first releases of Python 3.11 know no filters.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        top = tar.getnames()[0].partition("/")[0]
        tar.extractall(folder, [m for m in tar if m.name.startswith(f"{top}/tests/")])
    return folder / top / "tests"
