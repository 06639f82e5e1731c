"""One computes, in whichever process; and if it dies, another does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_rb.testing import LocalNodes
from tests.helpers import make_cache
from tests.management.processes import python

pytestmark = pytest.mark.only_sync


def run(scenario: str, nodes: LocalNodes) -> Any:
    config = {"HOSTS": nodes.urls, "TOPOLOGY": nodes.topology}
    done = python("-m", "tests.cache.crowd", scenario, json.dumps(config))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_hundred_threads_of_four_processes_compute_once(nodes: LocalNodes) -> None:
    assert run("compute_once", nodes) == [["computed 1"] * 50] * 4
    assert make_cache().get("runs") == 1


def test_who_is_killed_has_a_successor(nodes: LocalNodes) -> None:
    seconds, found = run("be_killed", nodes)
    assert found == [["computed 2"] * 10] * 2
    assert make_cache().get("runs") == 2
    assert seconds < 1 + 5  # the lease, and some time of a busy machine
