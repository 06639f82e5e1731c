"""Under sentry-sdk's Django integration the cache does what it does, and is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from django_rb.testing import LocalNodes


@pytest.fixture(scope="module")
def told(shared_nodes: LocalNodes) -> dict[str, Any]:
    """What a site under sentry-sdk has done, and what Sentry was sent of it."""
    shared_nodes.flush()
    done = subprocess.run(
        [sys.executable, "-m", "tests.contrib.sentry_site", json.dumps(shared_nodes.hosts)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def spans_of(told: dict[str, Any], page: str) -> list[dict[str, Any]]:
    (transaction,) = [
        event
        for event in told["sent"]
        if event.get("type") == "transaction" and event["transaction"] == page
    ]
    return [span for span in transaction["spans"] if span["op"].startswith("cache.")]


def test_the_cache_is_right(told: dict[str, Any]) -> None:
    assert told["answers"]["sync"] == [
        None,
        "value",
        None,
        5,
        [],
        {"a": 1, "b": None},
        {"a": 1, "text": "value"},
        None,
        False,
        2,
        "new",
        "new",
        None,
        False,
    ]
    assert told["answers"]["async"] == [
        None,
        "value",
        5,
        [],
        {"a": 1, "b": None},
        False,
        2,
        "new",
        None,
        False,
        [0, 1, 2, 3, 4],
    ]


def test_what_is_seen(told: dict[str, Any]) -> None:
    spans = spans_of(told, "/sync/")
    seen = [(span["op"], span["description"], span["data"].get("cache.hit")) for span in spans]
    assert seen[:6] == [
        ("cache.put", "text", None),
        ("cache.get", "text", True),
        ("cache.get", "none", False),
        ("cache.get", "none", False),
        ("cache.put", "a, b", None),
        ("cache.get", "a, b, none", True),
    ]
    assert len(seen) == 9  # the others of the methods are not wrapped
    assert {span["data"]["network.peer.address"] for span in spans} == {"shop"}
    assert spans_of(told, "/async/") == []


def test_a_node_that_fails_is_an_event_without_secrets(told: dict[str, Any]) -> None:
    assert told["failed"].startswith("500 ")
    events = [event for event in told["sent"] if "exception" in event]
    last = events[-1]["exception"]["values"][-1]
    assert last["type"] == "ConnectionError"
    assert "[node 0, 127.0.0.1:1/0, cluster broken]" in last["value"]
    assert "hunter2" not in json.dumps(told["sent"])
