"""docs/testing.md: its tests are run, and its output is what the commands print."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from .sample_runs import PROJECT, PYTEST, Runs

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


_PASSED = f"""\
Found 1 test(s).
System check identified no issues (0 silenced).
.
{"-" * 70}
Ran 1 test in 0.1s

OK
"""


def normal(text: str) -> str:
    """Without what differs from run to run, and from Python to Python."""
    without_carets = re.sub(r"(?m)^[ ~^]+\n", "", text)
    return re.sub(r"\d+\.\d+s", "…s", without_carets).strip()


def test_the_page_shows_what_happens(tmp_path: Path) -> None:
    page = PAGE.read_text()
    site = tmp_path / "site"
    shutil.copytree(PROJECT, site, ignore=shutil.ignore_patterns("__pycache__"))
    files = re.findall(r"(?sm)^```python\n(# (guestbook/\S+)\n.*?)^```$", page)
    for text, name in files:
        (site / name).write_text(text)
    shown = re.findall(r"(?sm)^```console\n\$ (.*?)\n(.*?)^```$", page)
    assert (len(files), len(shown)) == (4, 3)
    shown.append(("python manage.py test guestbook.tests.test_search", _PASSED))
    runs = Runs(tmp_path, site)
    for command, output in shown:
        found = re.fullmatch(r"(?:(\w+)=(\S+) )?(python|pytest) ([\w./ -]+)", command)
        assert found
        variable, value, program, args = found.groups()
        script = [str(Path(sys.executable).with_name("pytest"))] if program == "pytest" else []
        variables = {"PYTEST_ADDOPTS": " ".join(PYTEST[2:])}
        if variable:
            variables[variable] = value
        _, said = runs.run(*script, *args.split(), **variables)
        assert normal(said.replace(str(site), "/site")) == normal(output)
