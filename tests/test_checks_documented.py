"""docs/checks.md has every id that a check may use, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from django.test import override_settings

from django_rb import checks
from django_rb.testing import LocalNodes
from tests.test_readme import ROOT, code_blocks, names_in

SOURCES = sorted(Path(checks.__file__).parent.glob("*.py"))
PAGE = (ROOT / "docs" / "checks.md").read_text()


def ids_in_code() -> list[str]:
    return re.findall(r'id="django_rb\.([EWI]\d{3})"', "".join(p.read_text() for p in SOURCES))


def ids_in_tables() -> list[str]:
    return re.findall(r"(?m)^\| `django_rb\.([EWI]\d{3})` \| .+ \| .+ \|$", PAGE)


def test_every_id_is_documented_once_with_its_cure() -> None:
    assert len(ids_in_tables()) == len(set(ids_in_tables()))
    assert set(ids_in_tables()) == set(ids_in_code())


def test_every_id_means_one_thing() -> None:
    """E201 has two places: a node that cannot be used, and a cluster."""
    ids = ids_in_code()

    assert sorted(i for i in set(ids) if ids.count(i) > 1) == ["E201"]


def test_ids_elsewhere_are_those_of_the_tables() -> None:
    for path in [*SOURCES, ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        mentioned = re.findall(r"\b([EWI]\d{3})\b", path.read_text())
        assert set(mentioned) <= set(ids_in_tables()), path


def test_the_summaries_name_the_first_and_the_last_of_their_kind() -> None:
    ids = ids_in_tables()
    for text in (PAGE, SOURCES[0].read_text()):
        for first, last, of_kind in (
            ("E001", "W015", [i for i in ids if i[1] == "0"]),
            ("W101", "W104", [i for i in ids if i[1] == "1"]),
            ("E201", "W212", [i for i in ids if i[1] == "2" and i[0] != "I"]),
        ):
            assert f"{first} to {last}" in text
            assert (of_kind[0], of_kind[-1]) == (first, last)


def test_the_python_shown_runs(nodes: LocalNodes) -> None:
    (block,) = code_blocks("docs/checks.md", "python")

    with override_settings(CACHES={}):
        assert names_in(block)["message"].id == "django_rb.W205"
