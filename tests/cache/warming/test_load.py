"""A layout changes under load: the short form of `python -m tests.soak.growing`."""

from __future__ import annotations

import json

import pytest

from tests.management.processes import python

pytestmark = [pytest.mark.static, pytest.mark.only_sync]


@pytest.mark.parametrize("layout", ["grown", "redis-cluster"])
def test_nothing_is_lost_doubled_or_brought_back(layout: str) -> None:
    load = ["--seconds", "0.8", "--processes", "2", "--threads", "4", "--tasks", "8"]
    done = python("-m", "tests.soak.growing", "--layout", layout, *load, seconds=90)
    assert done.stdout, done.stderr
    seen = json.loads(done.stdout)
    assert seen["wrong"] == []
    assert done.returncode == 0
    assert seen["reads"] > 1000
    assert seen["counted"]
    assert seen["deleted"]
