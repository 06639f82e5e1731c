"""Every example of README.md and docs/ runs as a reader pastes it.

That is with the blocks above it in its section (a "##" of the page), and with nothing else.
What docs/testing.md shows is run by tests/testing/test_hooks_docs.py, the tutorial by
tests/test_tutorial.py. What changes a process for good, as in docs/telemetry.md, has a process
of its own.
"""

from __future__ import annotations

import ast
import builtins
import codeop
import os
import re
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters, conf
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes, ServerNotFoundError, find_server
from django_rb.testing.discovery import VARIABLE
from django_rb.testing.stand_ins import get_stand_ins
from tests.management import forkserver
from tests.shown_sections import ROOT, sections
from tests.tables import for_each
from tests.test_readme import PAGES

# What the pages call the addresses of nodes that are there, and which these are.
PORTS = {"6379": 0, "6380": 1}


@pytest.fixture
def site(open_nodes: LocalNodes) -> Iterator[LocalNodes]:
    """Four nodes that are the cluster "default", and two of them where the pages say."""
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": open_nodes.hosts}}):
        yield open_nodes
    clusters.reset()


def run_section(page: str, section: str, nodes: LocalNodes) -> dict[str, Any]:
    """Run the blocks of a section one after the other; return the names that they define."""
    names: dict[str, Any] = {"__name__": "shown", "INSTALLED_APPS": []}
    for block in sections(page)[section]:
        text = block
        for port, host_id in PORTS.items():
            text = re.sub(rf"\b{port}\b", str(nodes.hosts[host_id]["port"]), text)
        exec(text, names)
    return names


def unknown_names(blocks: list[str]) -> Iterator[str]:
    """Yield the names that blocks use, also in functions, and never define."""
    tree = ast.parse("\n".join(blocks))
    known = set(dir(builtins)) | {"__name__", "__file__", "INSTALLED_APPS"}
    used = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.append(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                known.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                known.add(name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                known.add(name)
            case ast.alias(name=name, asname=asname):
                known.add(asname or name.partition(".")[0])
    yield from (name for name in used if name not in known)


ALL = [
    (page, section)
    for page in (str(path.relative_to(ROOT)) for path in PAGES if path.stem != "tutorial")
    for section in sections(page)
]


@for_each(("page", "section"), ALL)
def test_a_section_defines_what_it_uses(page: str, section: str) -> None:
    assert list(unknown_names(sections(page)[section])) == []


@for_each(("page", "section"), ALL)
def test_an_example_can_be_pasted_into_a_shell(page: str, section: str) -> None:
    compile_command = codeop.CommandCompiler()
    for block in sections(page)[section]:
        if re.match(r"# [\w/]+\.py\b", block):  # which is for a file
            continue
        typed = ""
        for line in [*block.splitlines(), ""]:  # as `manage.py shell` reads them
            typed = f"{typed}\n{line}".lstrip("\n")
            if compile_command(typed) is not None:
                typed = ""
        assert typed == ""


@pytest.mark.parametrize(
    ("page", "section"), [shown for shown in ALL if "telemetry.md" in shown[0]]
)
def test_a_section_runs_in_a_process_of_its_own(page: str, section: str) -> None:
    command = ("-m", "tests.shown_sections", page, section)
    with TemporaryFile("w+") as said:
        status = forkserver.start(command, os.environ, [said.fileno()] * 3).wait()
        said.seek(0)
        assert status == 0, said.read()


@pytest.mark.parametrize(
    ("page", "section"),
    [shown for shown in ALL if not re.search(r"testing\.md|telemetry\.md", shown[0])],
)
def test_a_section_runs(site: LocalNodes, page: str, section: str) -> None:
    names = run_section(page, section, site)
    shown = {name: names[name] for name in ("RB_CLUSTERS", "CACHES") if name in names}
    for alias, config in shown.get("RB_CLUSTERS", {}).items():
        assert list(conf.find_mistakes(alias, config)) == []
    with override_settings(**shown):
        for alias in shown.get("CACHES", ()):
            caches[alias].check_settings()  # type: ignore[attr-defined]
    if isinstance(names.get("cluster"), Cluster):
        names["cluster"].close()


@for_each(
    ("page", "source", "message"),
    [
        ("troubleshooting.md", "engine/clients/base.py", " requires a connection to one node"),
        ("when-a-node-dies.md", "engine/lookups.py", "Timeout while resolving the name"),
        ("when-a-node-dies.md", "engine/nodes/failing.py", "the reply may exceed the node's "),
        ("testing.md", "testing/stand_ins.py", "A test run must not connect to "),
    ],
)
def test_messages_that_a_page_shows_exist(page: str, source: str, message: str) -> None:
    assert message in (ROOT / "docs" / page).read_text()
    assert message in (ROOT / "django_rb" / source).read_text()


def test_troubleshooting_shows_the_messages_of_local_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    shown = re.findall(r"(?m)^\| .* (?:stops?|same) with `(?:…, )?(.*?)` \|", text)
    monkeypatch.setattr("django_rb.testing.stand_ins._active", None)
    monkeypatch.setattr("django_rb.testing.discovery.PROGRAMS", ())
    monkeypatch.setattr("django_rb.testing.discovery.WHEEL", "no_such_wheel")
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ServerNotFoundError) as missing:
        find_server()
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(ServerNotFoundError) as wrong:
        find_server()
    with pytest.raises(ImproperlyConfigured) as inert:
        get_stand_ins()
    errors = [missing, wrong, inert]
    for message, error in zip(shown, errors, strict=True):
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("README.md", "Try it"),
        ("docs/moving-from-rediscache.md", "1. Change the backend"),
        ("docs/moving-from-django-redis.md", "Moving from django-redis"),
    ],
)
def test_settings_for_a_new_user_install_the_app(
    site: LocalNodes, page: str, section: str
) -> None:
    assert run_section(page, section, site)["INSTALLED_APPS"] == ["django_rb"]


def test_the_engines_examples_say_what_the_page_says(site: LocalNodes) -> None:
    names = run_section("docs/engine.md", "Four clients", site)
    assert names["values"][:2] == [None, b"text"]
    assert names["page"].value == b"text"
    assert sorted(names["sizes"].value) == [0, 1, 2, 3]
    assert run_section("docs/engine.md", "Promises", site)["total"].value == 10
