"""A reader who does what docs/tutorial.md says sees what it shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.as_a_reader import Different, Reader
from tests.test_readme import ROOT


def test_the_tutorial_works(tmp_path: Path) -> None:
    Reader(tmp_path, sys.executable).follow((ROOT / "docs/tutorial.md").read_text())


@pytest.mark.parametrize("shown", ["0 files", "2 files …", "{}"])
def test_a_wrong_output_is_seen(tmp_path: Path, shown: str) -> None:
    page = f"```console\n$ python -c 'print(7, \"nodes\")'\n{shown}\n```\n"
    with pytest.raises(Different, match="7 nodes"):
        Reader(tmp_path, sys.executable).follow(page)
