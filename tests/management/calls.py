"""Management commands called in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from threading import Event, Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_rb.engine import Cluster


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


@contextmanager
def asked_for(cluster: Cluster, *keys: str) -> Iterator[None]:
    """Ask for keys all the time."""
    is_over, has_begun = Event(), Event()

    def ask() -> None:
        client = cluster.get_routing_client()
        while not is_over.wait(0.005):
            client.mget(*keys)
            has_begun.set()

    thread = Thread(target=ask)
    thread.start()
    assert has_begun.wait(5)
    try:
        yield
    finally:
        is_over.set()
        thread.join()
