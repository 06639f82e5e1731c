"""Calls are timed beside threads that compute."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from benchmarks import report, threads, worker
from benchmarks.workloads import Workload
from django_rb.testing import LocalNodes


def test_each_call_is_timed_beside_each_number_of_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "TURN", 2)
    chosen = "--only aget --calls 3 --here"
    assert threads.main([*chosen.split(), "--format", "json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert [(told["call"], told["contestant"], told["computing"]) for told in run["lanes"]] == [
        ("aget", contestant, computing)
        for computing in (0, 1, 3)
        for contestant in ("django-rb", "django-rb-one", "redis-cache")
    ]
    for told in run["lanes"]:
        assert told["calls"] == 3
        assert 0 < told["median"] <= told["p99"] < 10
        assert 0 < told["mean"] <= told["p99"]
        assert told["contestant"] != "redis-cache" or told["to_peer"] == 1
    assert "django_vcache" in run["left_out"]["django-vcache"]
    shown = threads.for_terminal(run)
    assert "aget, beside 3 computing threads" in shown
    assert max(map(len, shown.splitlines())) <= report.WIDTH


def test_threads_compute_while_calls_are_made_and_no_longer(
    nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: Any = [[host["host"], host["port"]] for host in nodes.hosts.values()]
    one = worker.Worker("django-rb", hosts, "", Workload("get", 1).as_json())
    before, counts = threading.active_count(), []

    def count(_: str) -> None:
        counts.append(threading.active_count() - before)

    monkeypatch.setattr(one, "call", count)
    assert len(one.sample(4, 3)) == 4
    assert counts == [3] * 5  # the first of them does not count
    assert threading.active_count() == before
    one.runner.close()
