"""Management commands called in this process."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command


def run(name: str, *args: str, **options: Any) -> str:
    """Run a command; return what it writes."""
    out = StringIO()
    call_command(name, *args, stdout=out, stderr=StringIO(), no_color=True, **options)
    return out.getvalue()


def run_json(name: str, *args: str) -> Any:
    """Run a command; return the document that it writes."""
    return json.loads(run(name, *args, "--format", "json"))


def run_and_fail(name: str, *args: str) -> tuple[str, str]:
    """Return what a command writes before it fails, and its error."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(name, *args, stdout=out, stderr=StringIO(), no_color=True)
    assert caught.value.returncode == 1
    return out.getvalue(), str(caught.value)


def rows(table: str) -> list[list[str]]:
    """Return the cells of a table's rows, which are apart by two spaces or more."""
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()[1:]]


def plain(said: str) -> list[str]:
    """Return what a terminal shows in the end: lines without colours and erased bars."""
    shown = [line.rpartition("\r\x1b[K")[2] for line in said.split("\n")]
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown]
