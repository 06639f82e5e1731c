"""A soak of a few seconds; and that it sees what it is there to see."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until
from tests.management.processes import python
from tests.soak.ledger import Counter, Key, WrongValue
from tests.soak.report import Ending, Report, Tally

ROOT = Path(__file__).parents[2]
# The bound is about what the cache waits for; other tests keep this machine busy.
OPTIONS = [
    *("-m", "tests.soak", "--seed", "7", "--slack", "3"),
    *("--processes", "2", "--threads", "2", "--nodes", "3"),
]


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *OPTIONS, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def soak(*options: str, seconds: float = 1.0) -> tuple[int, dict[str, Any], str]:
    """Return the status, the outcome and what it said on the way."""
    length = ("--minutes", str(seconds / 60), "--format", "json")
    done = python(*OPTIONS, *length, *options, seconds=120)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_short_soak_passes_and_says_what_it_did() -> None:
    status, found, progress = soak()
    assert (status, found["problems"]) == (0, []), found
    assert found["wrong_values"] == found["unexpected"] == 0
    assert found["samples"] == []
    assert found["operations"] == sum(found["operations_by_kind"].values()) > 100
    assert found["hits"] > 100
    assert found["chaos"]
    assert found["longest_call"]["seconds"] > 0
    assert found["about"]["seed"] == 7
    assert len(found["processes"]) == 2
    for process in found["processes"]:
        assert process["descriptors_at_end"] <= process["descriptors_at_start"]
        assert process["back_after"] is not None
    assert "operations" in progress
    assert "0 wrong" in progress


@pytest.mark.parametrize(
    ("sabotage", "problem"),
    [
        ("value", "wrong values"),
        ("descriptor", "descriptors more than at its start"),
        ("node", "did not get its values back from node 0"),
    ],
)
def test_a_soak_fails_for_what_must_not_be(sabotage: str, problem: str) -> None:
    status, found, _ = soak("--sabotage", sabotage, "--processes", "1", seconds=0.3)
    assert status == 1
    assert any(problem in text for text in found["problems"]), found["problems"]
    assert (found["wrong_values"] > 0) == (sabotage == "value")


def test_ctrl_c_ends_a_soak_with_its_table_so_far() -> None:
    process = start("--minutes", "1")
    assert process.stderr is not None
    for line in process.stderr:
        if " operations " in line and " 0 operations " not in line:
            break
    process.send_signal(signal.SIGINT)
    said, progress = process.communicate(timeout=60)
    assert "Ending early" in progress
    assert "operations/s" in said
    assert said.rstrip().endswith("passed")
    assert process.returncode == 0


def test_workers_end_with_their_parent() -> None:
    process = start("--minutes", "1")
    assert process.stderr is not None
    first_line = process.stderr.readline()  # Soaking with seed 7, in the processes 12 13.
    workers = list(map(int, re.findall(r"\d+", first_line)))[1:]
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, workers)), 60)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_key_may_hold_its_last_write_and_those_of_unknown_outcome() -> None:
    key = Key("k")
    assert not key.check(None)
    first = key.next_value(3)
    key.stored()
    assert key.check(first)
    assert key.check(first.encode())
    unknown = key.next_value(3)
    assert key.check(first)
    assert key.check(unknown)
    last = key.next_value(3)
    key.stored()
    assert key.check(last)
    assert key.check(unknown)  # it took effect late
    with pytest.raises(WrongValue, match="k holds its write 0, though write 2 is in effect"):
        key.check(first)
    with pytest.raises(WrongValue, match="k holds its write 3, though"):
        key.check("k|3|")  # nobody wrote that
    with pytest.raises(WrongValue, match=r"k holds 'other\|1\|'"):
        key.check("other|1|")
    key.deleted()
    with pytest.raises(WrongValue):
        key.check(last)


def test_a_write_may_take_effect_however_many_failed_after_it() -> None:
    key = Key("k")
    sent = key.next_value(3)
    for _ in range(1000):
        key.next_value(3)  # the node is known to be down
    assert key.check(sent)


def test_a_counter_counts_each_step_once() -> None:
    counter = Counter("c")
    counter.begins()
    counter.counted(1)
    counter.begins()  # no answer came
    counter.begins()
    counter.counted(3)
    counter.begins()
    with pytest.raises(WrongValue, match="c is 6, not 4 to 5"):
        counter.counted(6)
    counter.begins()
    with pytest.raises(WrongValue, match="c is 3"):
        counter.counted(3)
    counter.begins()
    counter.lost()
    counter.begins()
    counter.counted(1)


def test_a_report_names_every_problem() -> None:
    tally = Tally(wrong=2, unexpected=1, over_bound=0.7)
    died = None
    leaky = Ending(0.1, [], 5, 9, 7, "there is something to read")
    report = Report({}, 1.0, tally, [died, leaky], tally.health, slack=0.5)
    assert report.problems == [
        "no value came back",
        "2 wrong values",
        "1 exceptions that no node's failure explains",
        "a call took 0.70 s more than is promised",
        "process 0 died",
        "process 1 has 2 descriptors more than at its start",
        "process 1 had a connection in doubt in a pool: there is something to read",
    ]
    assert report.as_table().endswith("FAILED: " + "; ".join(report.problems))
