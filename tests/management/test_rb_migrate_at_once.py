"""manage.py rb_migrate, run twice at once between the same clusters: nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from django_rb import clusters
from django_rb.engine.rounds.observing import add_observer
from django_rb.management.migration import alone
from django_rb.testing import LocalNodes
from tests.management.test_rb_migrate import PAGES, When, found, layouts, store, texts

from .calls import run, run_and_fail

pytestmark = pytest.mark.static


@pytest.fixture(scope="module")
def shared_others() -> Iterator[LocalNodes]:
    with LocalNodes(3) as nodes:
        yield nodes


@pytest.fixture
def apart(nodes: LocalNodes, shared_others: LocalNodes) -> Iterator[None]:
    """Four nodes are the old cluster, three others the new one."""
    shared_others.flush()
    with layouts(nodes.hosts, shared_others.hosts):
        store("old", PAGES)
        yield


def migrate(*options: str) -> str:
    return run("rb_migrate", "old", "new", *options, "--no-input")


@pytest.mark.parametrize(
    ("first", "second"), [([], ["--delete"]), (["--delete"], []), (["--delete"], ["--delete"])]
)
@pytest.mark.parametrize(("alias", "command"), [("old", "DUMP"), ("new", "RESTORE")])
def test_none_runs_beside_one_that_deletes(
    apart: None,
    monkeypatch: pytest.MonkeyPatch,
    first: list[str],
    second: list[str],
    alias: str,
    command: str,
) -> None:
    monkeypatch.setattr(alone, "_PATIENCE_SECONDS", 0)
    errors = list[str]()

    def run_another() -> None:
        _, error = run_and_fail("rb_migrate", "old", "new", *second, "--no-input")
        errors.append(error)

    add_observer(clusters[alias], When(command, run_another))
    migrate(*first)
    assert errors[0].startswith(
        "Another rb_migrate is copying keys from old, and one of the two"
    )
    assert found("new") == texts(PAGES)
    assert found("old") == ({} if first else texts(PAGES))
    migrate("--delete")
    assert found("new") == texts(PAGES)
    assert found("old") == {}


@pytest.mark.parametrize("options", [[], ["--replace"]])
def test_runs_that_only_copy_do_no_harm(apart: None, options: list[str]) -> None:
    add_observer(clusters["new"], When("RESTORE", migrate))
    migrate(*options)
    assert found("new") == found("old") == texts(PAGES)


def test_a_look_at_what_would_go_disturbs_none(apart: None) -> None:
    look = partial(run, "rb_migrate", "old", "new", "--dry-run")
    add_observer(clusters["new"], When("RESTORE", look))
    migrate("--delete")
    assert found("new") == texts(PAGES)


def test_who_must_not_listen_may_copy() -> None:
    user = ["copier", "on", ">secret", "~*", "resetchannels", "+@all"]
    with LocalNodes(2, options=[("user", user)]) as nodes:
        host = {**nodes.hosts[0], "username": "copier", "password": "secret"}
        with layouts([host], [nodes.hosts[1]]):
            store("old", {"page": "text"})
            migrate("--delete")
            assert found("new") == {b"page": b"text"}


def test_two_databases_of_one_node_are_no_two_runs(
    nodes: LocalNodes, shared_others: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_PATIENCE_SECONDS", 0)
    shared_others.flush()
    databases = [{**nodes.hosts[0], "db": number} for number in (0, 1)]
    with layouts(databases, shared_others.hosts):
        store("old", PAGES)
        migrate("--delete")
        assert found("new") == texts(PAGES)
        assert found("old") == {}
