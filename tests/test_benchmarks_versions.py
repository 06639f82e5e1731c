"""Two checkouts of django-rb are timed beside each other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import checkouts, report, versions
from benchmarks.contestants import before
from benchmarks.environments import ROOT

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A repository with django-rb as it is here, but that its limits cannot be imported."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "django_rb", tmp_path / "django_rb", ignore=ignore)
    limits = tmp_path / "django_rb" / "ratelimit" / "__init__.py"
    limits.write_text('raise ImportError("an older one")\n')

    def run(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    run("init", "--quiet")
    run("add", ".")
    run("commit", "--quiet", "--message", "An older one")
    monkeypatch.setattr(checkouts, "ROOT", tmp_path)
    return run


def test_a_revision_is_measured_beside_the_working_tree(
    git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--only get,deadline,limits --rounds 2 --starts 1 --here --format json"
    assert versions.main(["--before", "HEAD", *words.split()]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["before"].endswith(" An older one")
    assert [told["call"] for told in run["calls"]] == ["get", "get, DEADLINE"]
    for told in run["calls"]:
        assert told["rounds"] == 2
        for clock in ("cpu", "wall"):
            assert 0 < told["before"][clock]["median"] < 1
            assert 0 < told["now"][clock]["median"] < 1
            assert told["ratio"][clock]["median"] > 0
    [told] = run["beside_get"]
    assert told["before"]["cpu"]["median"] > 0 < told["now"]["wall"]["median"]
    # The revision's own code ran, and its checkout is gone.
    assert run["left_out"] == {"django-rb, 3 limits, before": "an older one"}
    assert len(git("worktree", "list").splitlines()) == 1
    shown = versions.for_terminal(run)
    assert "get, DEADLINE" in shown
    assert max(map(len, shown.splitlines())) <= report.WIDTH


def test_both_checkouts_take_part_in_everything_that_can_be_chosen() -> None:
    lanes = [lane for race in versions.choose(versions.WHAT, 1).values() for lane in race.lanes]
    assert {lane.workload.call for lane in lanes} == {
        "get", "set", "aget", "aget_many of 1,000", "check", "view",
        *(f"{name} of {keys}" for name in ("get_many", "set_many")
          for keys in ("100", "1,000", "10,000")),
    }  # fmt: skip
    now = [lane.contestant for lane in lanes if not lane.contestant.endswith("-before")]
    then = [lane.contestant for lane in lanes if lane.contestant not in now]
    assert sorted(map(before, now)) == sorted(then)
    assert {"django-rb-deadline", "django-rb-resp3", "django-rb-tls"} < set(now)
    for name in versions.WHAT:
        assert versions.choose([name], 1), name


def test_a_revision_that_is_none_is_a_mistake(
    git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        versions.main(["--before", "yesterday"])
    assert "'yesterday' is no revision of this repository" in capsys.readouterr().err
