"""What all commands share: asking many nodes at once, saying which are dead, asking back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.base import OutputWrapper

from django_rb import clusters
from django_rb.management import output
from django_rb.management.base import (
    Deadline,
    NodesCommand,
    all_nodes,
    at_once,
    call_clusters,
)
from django_rb.testing import LocalNodes

OURS = sorted(name for name in get_commands() if name.startswith("rb_"))


def raise_(error: BaseException) -> Any:
    raise error


class TestAtOnce:
    def test_tasks_run_side_by_side(self) -> None:
        all_are_here = threading.Barrier(20)
        tasks: dict[int, Callable[[], int]] = {
            number: lambda: all_are_here.wait(timeout=30) for number in range(20)
        }
        assert sorted(map(str, at_once(tasks).values())) == sorted(map(str, range(20)))

    def test_nothing_to_do(self) -> None:
        assert at_once({}) == {}

    def test_errors_are_outcomes(self) -> None:
        error = ValueError("no")
        assert at_once({"a": lambda: 1, "b": lambda: raise_(error)}) == {"a": 1, "b": error}


class TestCallClusters:
    def test_a_dead_node_and_a_silent_one(self, hurt_nodes: LocalNodes) -> None:
        chosen = {"default": clusters["default"]}
        assert all_nodes(chosen) == [("default", host_id) for host_id in range(4)]
        replies, errors = call_clusters(chosen, all_nodes(chosen), "PING", timeout=0.5)
        assert replies == {("default", 0): b"PONG", ("default", 3): b"PONG"}
        assert sorted(errors) == [("default", 1), ("default", 2)]

    def test_no_nodes(self) -> None:
        assert call_clusters({}, [], "PING") == ({}, {})


def test_a_deadline_is_never_before_now() -> None:
    assert Deadline(None).left() is None
    assert Deadline(1e-9).left() == 0
    left = Deadline(100).left()
    assert left is not None
    assert 0 < left <= 100


class Command(NodesCommand):
    """A command with standard output and error that a test can read."""

    def __init__(self) -> None:
        super().__init__(stdout=StringIO(), stderr=StringIO(), no_color=True)


class TestDeadNodes:
    def test_none(self) -> None:
        Command().fail_for({}, 4)

    @pytest.mark.parametrize(
        ("total", "options", "first"),
        [
            (1, {}, "1 of 1 node could not be queried:"),
            (4, {}, "1 of 4 nodes could not be queried:"),
            (4, {"done": "flushed", "noun": "server"}, "1 of 4 servers could not be flushed:"),
        ],
    )
    def test_one(self, total: int, options: dict[str, str], first: str) -> None:
        with pytest.raises(CommandError) as caught:
            Command().fail_for({("default", 1): OSError("gone")}, total, **options)
        assert str(caught.value) == f"{first}\ndefault 1: gone"
        assert caught.value.returncode == 1


class TestConfirm:
    @pytest.mark.parametrize(
        ("said", "agreed", "last"), [("yes", True, ": "), ("no", False, "Move cancelled.\n")]
    )
    @pytest.mark.parametrize("form", ["table", "json"])
    def test_the_answer(
        self, monkeypatch: pytest.MonkeyPatch, said: str, agreed: bool, last: str, form: str
    ) -> None:
        monkeypatch.setattr("builtins.input", lambda: said)
        command = Command()
        assert command.confirm("Really?", "Move", form) is agreed
        seen = {"table": text_of(command.stdout), "json": text_of(command.stderr)}
        assert seen.pop(form).startswith("\nReally?\n\n    Type 'yes' to continue, or 'no' ")
        assert seen.popitem()[1] == ""
        assert text_of(command.screen(form)).endswith(last)

    @pytest.mark.parametrize(
        ("error", "said", "status"),
        [
            (KeyboardInterrupt(), "Move cancelled.", 130),
            (
                EOFError(),
                "Move cancelled: standard input is not a terminal, so confirmation is not "
                "possible. Use --no-input to continue without confirmation.",
                1,
            ),
        ],
    )
    def test_no_answer(
        self, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str, status: int
    ) -> None:
        monkeypatch.setattr("builtins.input", lambda: raise_(error))
        with pytest.raises(CommandError) as caught:
            Command().confirm("Really?", "Move", "table")
        assert (str(caught.value), caught.value.returncode) == (said, status)


def text_of(wrapper: OutputWrapper) -> str:
    return str(wrapper.getvalue())


class Slow(Command):
    """Long work of three steps."""

    def handle(self, *args: Any, **options: Any) -> None:
        with self.progress("Working", 3, "steps") as progress:
            for _ in range(3):
                progress.add(1)


class TestProgress:
    @pytest.fixture(autouse=True)
    def _all_work_is_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(output, "LINE_SECONDS", 0)

    def test_on_standard_error(self) -> None:
        out, err = StringIO(), StringIO()
        call_command(Slow(), stdout=out, stderr=err)
        assert out.getvalue() == ""
        assert err.getvalue().endswith("Working: 3 of 3 steps (100%), 0 s\n")

    def test_not_when_told_to_be_quiet(self) -> None:
        err = StringIO()
        call_command(Slow(), stderr=err, verbosity=0)
        assert err.getvalue() == ""


@pytest.mark.parametrize("name", OURS)
class TestEveryCommand:
    def test_it_takes_the_common_options(self, name: str) -> None:
        parser = load_command_class("django_rb", name).create_parser("manage.py", name)
        options = {string for action in parser._actions for string in action.option_strings}
        assert {"--format", "--timeout", "--no-color"} <= options
        # Which clusters are meant is what rb_migrate is told first.
        assert ("--cluster" in options) is (name != "rb_migrate")

    def test_its_help_fits_80_columns(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        parser = load_command_class("django_rb", name).create_parser("manage.py", name)
        assert max(map(len, parser.format_help().splitlines())) <= 80

    def test_a_format_that_is_none(self, name: str) -> None:
        with pytest.raises(CommandError, match="invalid choice: 'xml'"):
            call_command(name, "--format", "xml")


def test_a_document_has_no_infinite_number() -> None:
    out = StringIO()
    with pytest.raises(ValueError, match="not JSON compliant"):
        NodesCommand(stdout=out).write_json({"size": float("inf")})
    assert out.getvalue() == ""
