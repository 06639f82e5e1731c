"""What rb_status shows of a host whose node was demoted."""

from __future__ import annotations

import json
from io import StringIO
from time import time
from typing import Any

import pytest
from django.core.management import call_command

from django_rb import clusters
from tests.helpers import make_cache
from tests.redirects.conftest import Admin

pytestmark = pytest.mark.usefixtures("site")


def status(*args: str) -> str:
    out = StringIO()
    call_command("rb_status", *args, stdout=out, no_color=True)
    return out.getvalue()


def node() -> dict[str, Any]:
    (one,) = json.loads(status("--format", "json"))["nodes"]
    found: dict[str, Any] = one
    return found


def test_the_successor_is_shown(admin: Admin) -> None:
    assert (node()["said_by"], node()["primary_since"]) == (None, None)
    admin.swap(0, 1)
    clusters.reset()  # as in a process that has just begun
    one = node()
    assert (one["address"], one["role"]) == (admin.address(1)[:-2], "master")
    assert one["said_by"] == admin.address(0)[:-2]
    assert one["primary_since"] is None  # nobody knows for how long it has been so
    assert abs(time() - node()["primary_since"]) < 60
    (row,) = [line.split() for line in status().splitlines() if one["said_by"] in line]
    assert row[:5] == ["0", one["address"], one["said_by"], *row[3:4], "s"]


def test_commands_go_to_the_successor(admin: Admin) -> None:
    cache = make_cache()
    cache.set("key", 1)
    admin.swap(0, 1)
    out = StringIO()
    call_command("rb_flushall", interactive=False, stdout=out)
    assert "flushed" in out.getvalue()
    assert admin.ask(1, "DBSIZE") == 0
