"""What docs/nodes-that-come-and-go.md shows is what the commands say."""

from __future__ import annotations

import json
import re

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes

from .calls import run_and_fail
from .documented import PAGE as COMMANDS
from .documented_layouts import PAGE, SESSION, run
from .test_documented import keys_in, shape_of

SESSIONS = list(SESSION.finditer(PAGE.read_text()))


def test_every_block_with_output_is_one() -> None:
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```$", PAGE.read_text())
    with_output = [
        b for b in blocks if any(not line.startswith("$") for line in b.splitlines())
    ]
    assert with_output == [session["said"] for session in SESSIONS]
    assert len(with_output) == 9


@pytest.mark.parametrize("session", SESSIONS, ids=[session["name"] for session in SESSIONS])
def test_a_session(session: re.Match[str]) -> None:
    said = session["said"]
    assert shape_of(run(session["name"], said)) == shape_of(said)


def test_the_keys_of_documents(nodes: LocalNodes) -> None:
    (section,) = re.findall(r"(?ms)^## `rb_migrate`$(.*?)(?=^## |\Z)", COMMANDS.read_text())
    config = {
        "old": {"HOSTS": [nodes.hosts[0], {"host": "127.0.0.1", "port": 4}]},
        "new": {"HOSTS": [nodes.hosts[1]]},
    }
    with override_settings(RB_CLUSTERS=config):
        for alias in ("old", "new"):
            clusters[alias].get_local_client(0).mset({f"{alias}:{n}": n for n in range(20)})
            clusters[alias].get_local_client(0).mset({f"page:{n}": alias for n in range(20)})
        out, _ = run_and_fail("rb_migrate", "old", "new", "--verify", "--format", "json")
    document = json.loads(out)
    assert all(document[name] for name in ("transfers", "problems", "errors"))
    assert set(keys_in(document)) - set(re.findall(r"[`\"](\w+)[`\"]", section)) == set()
