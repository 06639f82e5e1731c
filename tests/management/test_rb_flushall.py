"""manage.py rb_flushall, as a person and as a program would use it, on real nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes
from tests.helpers import without_redirects

from .processes import Terminal, django, on_nodes, project

QUESTION = "Type 'yes' to continue, or 'no' to cancel: "


class Data:
    """Keys in the databases 0 and 1 of some nodes: two and one on each."""

    def __init__(self, nodes: LocalNodes) -> None:
        self._clients = {
            (host_id, db): redis.Redis(**{**host, "db": db})
            for host_id, host in nodes.hosts.items()
            for db in (0, 1)
        }
        for (_, db), client in self._clients.items():
            client.mset({"one": 1} if db else {"one": 1, "two": 2})

    def sizes(self, db: int, host_ids: Iterable[int] = range(4)) -> list[int]:
        return [self._clients[host_id, db].dbsize() for host_id in host_ids]

    def flushes(self, command: str) -> list[int]:
        """How often each server was asked to flush."""
        stats = [
            client.info("commandstats") for (_, db), client in self._clients.items() if db == 0
        ]
        return [stat.get(f"cmdstat_{command}", {"calls": 0})["calls"] for stat in stats]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture
def data(nodes: LocalNodes) -> Iterator[Data]:
    data = Data(nodes)
    yield data
    data.close()


def flush(*args: str, **options: Any) -> str:
    """Run the command in this process; return what it writes."""
    out = StringIO()
    call_command("rb_flushall", *args, stdout=out, no_color=True, **options)
    return out.getvalue()


def flush_and_fail(*args: str) -> tuple[str, str]:
    """Return what the command writes before it fails, and its error."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("rb_flushall", *args, stdout=out, no_color=True)
    assert caught.value.returncode == 1
    return out.getvalue(), str(caught.value)


class TestFlush:
    def test_the_configured_database_of_every_node(self, nodes: LocalNodes, data: Data) -> None:
        out = flush("--no-input")
        assert data.sizes(0) == [0, 0, 0, 0]
        assert data.sizes(1) == [1, 1, 1, 1]
        header, *lines = out.splitlines()
        assert header.split() == ["NODE", "ADDRESS", "DATABASE", "RESULT"]
        assert [line.split() for line in lines] == [
            ["default", str(host_id), f"127.0.0.1:{host['port']}", "0", "flushed"]
            for host_id, host in nodes.hosts.items()
        ]

    def test_a_configured_database_other_than_0(self, nodes: LocalNodes, data: Data) -> None:
        config = {"default": {"HOSTS": nodes.hosts, "HOST_DEFAULTS": {"db": 1}}}
        with override_settings(RB_CLUSTERS=config):
            assert flush("--no-input").split()[7] == "1"
        assert data.sizes(0) == [2, 2, 2, 2]
        assert data.sizes(1) == [0, 0, 0, 0]

    def test_all_databases(self, data: Data) -> None:
        out = flush("--no-input", "--all-databases")
        assert data.sizes(0) + data.sizes(1) == [0] * 8
        assert [line.split()[-2:] for line in out.splitlines()[1:]] == [["all", "flushed"]] * 4

    def test_json(self, nodes: LocalNodes, data: Data) -> None:
        document = json.loads(flush("--noinput", "--format", "json"))
        assert data.sizes(0) == [0, 0, 0, 0]
        assert document["nodes"][3] == {
            "cluster": "default",
            "host_id": 3,
            "address": f"127.0.0.1:{nodes.hosts[3]['port']}",
            "database": 0,
            "keys": None,
            "result": "flushed",
            "error": None,
            "also": [],
        }
        assert [node["host_id"] for node in document["nodes"]] == [0, 1, 2, 3]

    def test_options_by_name(self, data: Data) -> None:
        flush(cluster="default", interactive=False, timeout=5)
        assert data.sizes(0) == [0, 0, 0, 0]


class TestSeveralClusters:
    @pytest.fixture(autouse=True)
    def _two_clusters(self, nodes: LocalNodes) -> Iterator[None]:
        hosts = list(nodes.hosts.values())
        config = {
            "default": {"HOSTS": hosts[:3]},
            "sessions": {"HOSTS": hosts[2:]},  # node 2 is in both
            "other": {"HOSTS": hosts, "HOST_DEFAULTS": {"db": 1}},
        }
        with override_settings(RB_CLUSTERS=config):
            yield
        clusters.reset()

    def test_all_by_default_and_a_shared_database_once(self, data: Data) -> None:
        before = data.flushes("flushdb")
        out = flush("--no-input")
        assert data.sizes(0) + data.sizes(1) == [0] * 8
        after = data.flushes("flushdb")
        assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2, 2, 2]
        assert [line[:22].strip() for line in out.splitlines()[1:]] == [
            "default 0",
            "default 1",
            "default 2, sessions 0",
            "sessions 1",
            *(f"other {host_id}" for host_id in range(4)),
        ]

    def test_a_shared_server_once(self, data: Data) -> None:
        before = data.flushes("flushall")
        document = json.loads(flush("--no-input", "--all-databases", "--format", "json"))
        after = data.flushes("flushall")
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1]
        assert document["nodes"][2]["also"] == [
            {"cluster": "sessions", "host_id": 0},
            {"cluster": "other", "host_id": 2},
        ]

    @pytest.mark.parametrize(
        "args",
        [
            ["--cluster", "sessions", "--cluster", "default"],
            ["--cluster=sessions", "--cluster=default", "--cluster=sessions"],
        ],
    )
    def test_those_that_are_named(self, data: Data, args: list[str]) -> None:
        assert flush("--no-input", *args).splitlines()[1].startswith("sessions 0, default 2")
        assert data.sizes(0) == [0, 0, 0, 0]
        assert data.sizes(1) == [1, 1, 1, 1]

    def test_one(self, data: Data) -> None:
        flush("--no-input", "--cluster", "sessions")
        assert data.sizes(0) == [2, 2, 0, 0]

    def test_they_are_flushed_side_by_side(self, own_nodes: LocalNodes) -> None:
        hosts = own_nodes.hosts
        own_nodes.pause(0)
        own_nodes.pause(1)
        config = {"one": {"HOSTS": [hosts[0], hosts[2]]}, "two": {"HOSTS": [hosts[1]]}}
        with override_settings(RB_CLUSTERS=config):
            started = monotonic()
            _, error = flush_and_fail("--no-input", "--timeout", "2")
            assert monotonic() - started < 3.8
        assert error.startswith("2 of 3 databases could not be flushed:\none 0: ")
        assert "\ntwo 0: " in error


class TestDryRun:
    def test_it_counts_and_leaves_the_keys(self, data: Data) -> None:
        out = flush("--dry-run")
        assert data.sizes(0) == [2, 2, 2, 2]
        assert out.splitlines()[0].split() == ["NODE", "ADDRESS", "DATABASE", "KEYS", "RESULT"]
        for line in out.splitlines()[1:]:
            assert line.endswith(" 0     2  would be flushed")

    def test_all_databases(self, data: Data) -> None:
        document = json.loads(flush("--dry-run", "--all-databases", "--format", "json"))
        assert data.sizes(0) + data.sizes(1) == [2, 2, 2, 2, 1, 1, 1, 1]
        assert [node["keys"] for node in document["nodes"]] == [3, 3, 3, 3]
        assert {node["result"] for node in document["nodes"]} == {"would be flushed"}

    def test_empty_servers(self, nodes: LocalNodes) -> None:
        document = json.loads(flush("--dry-run", "--all-databases", "--format", "json"))
        assert [node["keys"] for node in document["nodes"]] == [0, 0, 0, 0]

    def test_a_dead_node(self, own_nodes: LocalNodes) -> None:
        own_nodes.kill(1)
        out, error = flush_and_fail("--dry-run")
        assert [line.split()[-1] for line in out.splitlines()[1:]] == [
            "flushed",
            "failed",
            "flushed",
            "flushed",
        ]
        assert error.startswith("1 of 4 databases could not be queried:\ndefault 1: ")


class TestNodesThatFail:
    def test_the_others_are_flushed(self, own_nodes: LocalNodes) -> None:
        data = Data(own_nodes)
        own_nodes.kill(1)
        own_nodes.pause(2)
        started = monotonic()
        out, error = flush_and_fail("--no-input", "--timeout", "0.5")
        assert monotonic() - started < 5
        assert data.sizes(0, [0, 3]) == [0, 0]
        own_nodes.resume(2)
        data.close()
        assert [line.split()[-1] for line in out.splitlines()[1:]] == [
            "flushed",
            "failed",
            "failed",
            "flushed",
        ]
        summary, dead, silent = error.splitlines()
        assert summary == "2 of 4 databases could not be flushed:"
        assert re.match(
            r"default 1: .*refused.*\[node 1, 127\.0\.0\.1:\d+/0, cluster default\]$", dead
        )
        assert re.match(
            r"default 2: .*\[node 2, 127\.0\.0\.1:\d+/0, cluster default\]$", silent
        )

    def test_as_a_program_sees_it(self, own_nodes: LocalNodes) -> None:
        own_nodes.kill(1)
        env = on_nodes(default=own_nodes.hosts)
        done = django("rb_flushall", "--no-input", "--format", "json", env=env)
        assert done.returncode == 1
        results = [(n["result"], n["error"] is None) for n in json.loads(done.stdout)["nodes"]]
        assert results == [
            ("flushed", True),
            ("failed", False),
            ("flushed", True),
            ("flushed", True),
        ]
        assert done.stderr.startswith("CommandError: 1 of 4 databases could not be flushed:")
        assert "Traceback" not in done.stderr

    def test_a_node_that_refuses(self, own_nodes: LocalNodes) -> None:
        with redis.Redis(**own_nodes.hosts[3]) as client:
            client.execute_command("ACL", "SETUSER", "default", *without_redirects())
            client.execute_command("REPLICAOF", "127.0.0.1", own_nodes.hosts[0]["port"])
        _, error = flush_and_fail("--no-input")
        assert error.startswith("1 of 4 databases could not be flushed:\ndefault 3: READONLY")

    @override_settings(
        RB_CLUSTERS={"default": {"HOSTS": ["redis://ann:hunter2@127.0.0.1:1/3"]}}
    )
    def test_no_secret_is_told(self) -> None:
        out, error = flush_and_fail("--no-input")
        assert "127.0.0.1:1 " in out
        assert "hunter2" not in out + error
        assert "ann" not in out + error


class TestQuestion:
    @pytest.mark.parametrize("output_format", ["table", "json"])
    def test_yes(self, nodes: LocalNodes, data: Data, output_format: str) -> None:
        done = django(
            "rb_flushall",
            "--format",
            output_format,
            answer="yes\n",
            env=on_nodes(default=nodes.hosts),
        )
        assert done.returncode == 0
        assert data.sizes(0) == [0, 0, 0, 0]
        screen = done.stderr if output_format == "json" else done.stdout
        assert "You have requested a flush of 4 databases." in screen
        for host_id, host in nodes.hosts.items():
            assert re.search(rf"default {host_id}  127.0.0.1:{host['port']} +0 +2\n", screen)
        if output_format == "json":
            assert [node["keys"] for node in json.loads(done.stdout)["nodes"]] == [2] * 4
        else:
            assert done.stdout.count("flushed\n") == 4

    @pytest.mark.parametrize("answer", ["no\n", "\n", "y\n", "YES\n"])
    def test_anything_else(self, nodes: LocalNodes, data: Data, answer: str) -> None:
        done = django("rb_flushall", answer=answer, env=on_nodes(default=nodes.hosts))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(QUESTION + "Flush cancelled.\n")
        assert data.sizes(0) == [2, 2, 2, 2]

    def test_nobody_is_there(self, nodes: LocalNodes, data: Data) -> None:
        done = django("rb_flushall", env=on_nodes(default=nodes.hosts), finalizes=True)
        assert done.returncode == 1
        assert done.stderr == (
            "CommandError: Flush cancelled: standard input is not a terminal, so confirmation "
            "is not possible. Use --no-input to continue without confirmation.\n"
        )
        assert data.sizes(0) == [2, 2, 2, 2]

    def test_all_databases_are_servers(self, nodes: LocalNodes, data: Data) -> None:
        done = django(
            "rb_flushall", "--all-databases", answer="no", env=on_nodes(default=nodes.hosts)
        )
        assert "You have requested a flush of 4 servers." in done.stdout
        assert re.search(r"default 3  127.0.0.1:\d+ +all +3\n", done.stdout)

    def test_a_dead_node_is_named(self, own_nodes: LocalNodes) -> None:
        data = Data(own_nodes)
        own_nodes.kill(1)
        done = django("rb_flushall", answer="yes\n", env=on_nodes(default=own_nodes.hosts))
        assert done.returncode == 1
        question, answer = done.stdout.split(QUESTION)
        assert re.search(r"default 1  127.0.0.1:\d+ +0 +\?\n", question)
        assert "\ndefault 1: Error 111 connecting" in question
        assert answer.count("flushed\n") == 3
        assert data.sizes(0, [0, 2, 3]) == [0, 0, 0]
        data.close()


class TestTerminal:
    def test_a_person(self, nodes: LocalNodes, data: Data) -> None:
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_flushall", env=env) as terminal:
            terminal.read_until(QUESTION)
            terminal.type("yes\n")
            status, said = terminal.read_to_end()
        assert status == 0
        assert data.sizes(0) == [0, 0, 0, 0]
        assert said.count("\x1b[32;1mflushed\x1b[0m\n") == 4
        assert max(map(len, said.splitlines())) <= 80

    def test_without_colours(self, own_nodes: LocalNodes) -> None:
        own_nodes.kill(0)
        env = on_nodes(default=own_nodes.hosts)
        with Terminal("rb_flushall", "--no-input", "--no-color", env=env) as terminal:
            status, said = terminal.read_to_end()
        assert status == 1
        assert "\x1b" not in said
        env["DJANGO_COLORS"] = "light;error=yellow"
        with Terminal("rb_flushall", "--no-input", env=env) as terminal:
            _, said = terminal.read_to_end()
        assert "\x1b[33mfailed\x1b[0m\n" in said

    def test_a_dead_and_a_silent_node(self, hurt_nodes: LocalNodes) -> None:
        env = on_nodes(default=hurt_nodes.hosts)
        command = ["rb_flushall", "--no-input", "--timeout=1"]
        with Terminal(*command, env=env) as terminal:
            status, said = terminal.read_to_end()
        assert status == 1
        plain = re.sub(r"\x1b\[[\d;]*m", "", said)
        table, _, errors = plain.partition("CommandError: ")
        assert [line.split()[-1] for line in table.splitlines()[1:]] == [
            "flushed",
            "failed",
            "failed",
            "flushed",
        ]
        assert max(map(len, table.splitlines())) <= 80
        assert errors.startswith("2 of 4 databases could not be flushed:\ndefault 1: ")
        assert "\ndefault 2: " in errors

    @pytest.mark.parametrize(
        ("key", "status", "last"),
        [
            ("\x03", 130, "CommandError: Flush cancelled."),
            ("\x04", 1, "Use --no-input to continue without confirmation."),
        ],
        ids=["Ctrl-C", "Ctrl-D"],
    )
    def test_no_answer(
        self, nodes: LocalNodes, data: Data, key: str, status: int, last: str
    ) -> None:
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_flushall", "--no-color", env=env) as terminal:
            terminal.read_until(QUESTION)
            terminal.type(key)
            ended, said = terminal.read_to_end()
        assert ended == status
        assert said.rstrip().endswith(last)
        assert "Traceback" not in said
        assert data.sizes(0) == [2, 2, 2, 2]


class TestMistakes:
    def test_wrong_alias(self, nodes: LocalNodes) -> None:
        _, error = flush_and_fail("--no-input", "--cluster", "defualt")
        assert error == (
            "There is no cluster 'defualt' in settings.RB_CLUSTERS. Did you mean 'default'?"
        )

    @pytest.mark.parametrize("alias", [[], ["--cluster", "default"]])
    @override_settings(RB_CLUSTERS={})
    def test_no_clusters(self, alias: list[str]) -> None:
        _, error = flush_and_fail("--no-input", *alias)
        assert "missing or empty" in error
        assert "RB_CLUSTERS = {'default': {'HOSTS': [{'host': '127.0.0.1'}]}}" in error

    def test_as_a_program_sees_no_clusters(self, tmp_path: Path) -> None:
        done = django("rb_flushall", "--format", "json", env=project(tmp_path, {}))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("CommandError: settings.RB_CLUSTERS is missing or empty")

    @override_settings(RB_CLUSTERS={"default": {"HOSTS": [{"port": "x"}]}})
    def test_a_mistake_in_the_settings(self) -> None:
        _, error = flush_and_fail("--no-input")
        assert error.startswith("settings.RB_CLUSTERS['default']['HOSTS'][0]['port']: ")

    def test_nothing_is_flushed_when_one_alias_is_wrong(self, data: Data) -> None:
        flush_and_fail("--no-input", "--cluster", "default", "--cluster", "nope")
        assert data.sizes(0) == [2, 2, 2, 2]

    @pytest.mark.parametrize("timeout", ["0", "-1", "soon", "inf", "nan"])
    def test_a_timeout_that_is_none(self, nodes: LocalNodes, timeout: str) -> None:
        with pytest.raises(CommandError, match=f"'{timeout}' is not a time in seconds above 0"):
            flush("--no-input", f"--timeout={timeout}")
