"""What docs/commands.md shows is what the commands say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.cache import caches
from django.core.management import call_command

from django_rb.testing import LocalNodes

from .documented import PAGE, SESSION, run

SESSIONS = list(SESSION.finditer(PAGE.read_text()))


def shape_of(output: str) -> list[str]:
    """Return the lines of an output without what differs from run to run."""
    for differs, same in (
        (r"valkey|redis(?= \d)", "server"),
        (r"(?<=:)[0-9a-f]{32}(?=@)", "password"),
        (r"/\S+/ask\.sock", "control"),
        (r"\d(?:[\d.,:-]*\d)?", "#"),
        (r"# (?:[KMGT]i)?B\b", "# bytes"),
        (r"# (?:ms|s|min|h|d)\b(?: # (?:s|min|h)\b)?", "# seconds"),
        (r" +", " "),
    ):
        output = re.sub(differs, same, output)
    return output.splitlines()


def test_there_are_some() -> None:
    commands = {session["command"].split()[0] for session in SESSIONS}
    assert commands == {
        "rb_big",
        "rb_delete",
        "rb_flushall",
        "rb_get",
        "rb_nodes",
        "rb_route",
        "rb_scan",
        "rb_status",
    }


def keys_in(document: object) -> Iterator[str]:
    """Yield the keys of a JSON document, on all its levels."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from keys_in(value)
    elif isinstance(document, list):
        for item in document:
            yield from keys_in(item)


def test_the_keys_of_documents(nodes: LocalNodes) -> None:
    sections = dict(re.findall(r"(?ms)^## `(\w+)`$(.*?)(?=^## |\Z)", PAGE.read_text()))
    caches["default"].set("page:1", [])
    for command, *options in (
        ["rb_status"],
        ["rb_flushall", "--dry-run"],
        ["rb_route", "page:1", "--cache", "default"],
        ["rb_get", "page:1", "--cache", "default"],
        ["rb_delete", "page:*", "--dry-run"],
        ["rb_bench", "--keys", "10"],
        ["rb_big", "--cache", "default"],
        ["rb_hot", "--seconds", "0.1"],
    ):
        out = StringIO()
        call_command(command, *options, "--format", "json", stdout=out)
        keys = set(keys_in(json.loads(out.getvalue()))) - {"default"}
        assert keys - set(re.findall(r"[`\"](\w+)[`\"]", sections[command])) == set()


@pytest.mark.parametrize("session", SESSIONS, ids=[s["command"] for s in SESSIONS])
def test_a_session(session: re.Match[str]) -> None:
    state, command, output = session.group("state", "command", "output")
    assert shape_of(run(state, command, output)) == shape_of(output)
