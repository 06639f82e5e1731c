"""manage.py rb_nodes, each time as a process that really starts servers."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from django_rb.testing import LocalNodes

from .calls import run, run_and_fail
from .processes import (
    DJANGO,
    ROOT,
    Running,
    Terminal,
    django,
    environment,
    is_alive,
    kill,
    pids_in,
    project,
    read_until,
    start,
    wait_until_gone,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

PRINT_VARIABLE = (sys.executable, "-c", "import os; print(os.environ['DJANGO_RB_NODES'])")


def document_of(said: str) -> tuple[dict[str, Any], str]:
    """Split what `rb_nodes --format json` says into its document and what follows."""
    document, end = json.JSONDecoder().raw_decode(said)
    return document, said[end:].lstrip()


def password_in(document: dict[str, Any]) -> str:
    """Return the password of the nodes, which all have the same."""
    urls = str(document["clusters"])
    (password,) = set(re.findall(r"redis://:([0-9a-f]{32})@", urls))
    assert urls.count(password) == urls.count("redis://")
    return str(password)


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a project with the clusters that the test is marked with."""
    return project(tmp_path, request.param)


def with_clusters(**clusters: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("settings", [clusters], indirect=True, ids=["clusters"])


class TestCommand:
    def test_a_program_is_told_where_the_nodes_are(self) -> None:
        args = ("--count", "3", "--format", "json", "--", *PRINT_VARIABLE)
        done = django("rb_nodes", *args, finalizes=True)
        assert (done.returncode, done.stderr) == (0, "")
        document, said = document_of(done.stdout)
        assert json.loads(said) == document["clusters"]
        assert document["environment"].pop("DJANGO_RB_CONTROL").endswith(".sock")
        assert document["environment"] == {"DJANGO_RB_NODES": said.rstrip("\n")}
        assert re.match(r"(valkey|redis) \d", document["server"])
        assert [node["host_id"] for node in document["nodes"]] == [0, 1, 2]
        assert document["clusters"] == {
            "default": [
                f"redis://:{password_in(document)}@{n['host']}:{n['port']}/0"
                for n in document["nodes"]
            ]
        }
        wait_until_gone(*(node["pid"] for node in document["nodes"]))

    def test_a_person_is_told(self) -> None:
        done = django("rb_nodes", "--count", "2", "--", "true")
        assert re.match(
            r"2 nodes of \w+ [\d.]+\n"
            r"\n"
            r"HOST ID  ADDRESS +PID\n"
            r"0        127.0.0.1:\d+ +\d+\n"
            r"1        127.0.0.1:\d+ +\d+\n"
            r"\n"
            r"CLUSTER  DATABASE\n"
            r"default  0\n"
            r"\n"
            r"To use them from other programs, set:\n"
            r"export DJANGO_RB_NODES='\{.*\}' DJANGO_RB_CONTROL=/\S+\.sock\n"
            r"\n$",
            done.stdout,
        )

    def test_others_on_the_machine_need_the_password(self) -> None:
        script = (
            "import json, os, redis, redis.backoff, redis.retry\n"
            "once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)\n"
            "url = json.loads(os.environ['DJANGO_RB_NODES'])['default'][0]\n"
            "print(redis.Redis.from_url(url).ping())\n"
            "port = redis.Redis.from_url(url).connection_pool.connection_kwargs['port']\n"
            "try: redis.Redis(port=port, retry=once).ping()\n"
            "except redis.AuthenticationError: print('refused')\n"
        )
        done = django("rb_nodes", "--count", "1", "--", sys.executable, "-c", script)
        assert done.stdout.endswith("\nTrue\nrefused\n"), done.stderr

    def test_a_management_command_works_on_them(self) -> None:
        done = django(
            "rb_nodes", "--count", "2", "--format=json", "--",
            "rb_flushall", "--dry-run", "--format", "json",
        )  # fmt: skip
        document, said = document_of(done.stdout)
        assert [node["address"] for node in json.loads(said)["nodes"]] == [
            f"127.0.0.1:{node['port']}" for node in document["nodes"]
        ]

    @pytest.mark.parametrize("how", ["manage.py", "-m django"])
    def test_it_is_run_as_this_one_was(self, how: str) -> None:
        manage = str(ROOT / "example_project" / "manage.py")
        entry = [manage] if how == "manage.py" else ["-m", "django"]
        show = "import sys; print(sys.argv[0])"
        done = subprocess.run(
            [sys.executable, *entry, "rb_nodes", "--count=1", "--", "shell", "-c", show],
            capture_output=True,
            text=True,
            check=True,
            env=environment(PYTHONPATH=str(ROOT)),
            cwd=ROOT,
        )
        said = done.stdout.splitlines()[-1]
        assert said == manage if how == "manage.py" else said.endswith("__main__.py")

    def test_the_python_path_goes_along(self, tmp_path: Path) -> None:
        (tmp_path / "far_settings.py").write_text("from tests.management.settings import *\n")
        done = django(
            "rb_nodes", "--pythonpath", str(tmp_path), "--settings", "far_settings", "--",
            "diffsettings",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "SETTINGS_MODULE = 'far_settings'" in done.stdout

    def test_arguments_and_input_go_along(self) -> None:
        script = 'printf "%s|" "$@"; cat; echo problem >&2'
        done = django(
            "rb_nodes", "--count", "1", "--", "sh", "-c", script, "sh", "--count", "9", "--",
            "two words",
            answer="and input",
        )  # fmt: skip
        assert done.stdout.endswith("\n--count|9|--|two words|and input")
        assert done.stderr == "problem\n"

    @pytest.mark.parametrize(
        ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)]
    )
    def test_the_exit_status_is_its_own(self, script: str, status: int) -> None:
        done = django("rb_nodes", "--count", "1", "--", "sh", "-c", script)
        assert (done.returncode, done.stderr) == (status, "")
        wait_until_gone(*pids_in(done.stdout))


class TestClusters:
    def nodes(self, env: dict[str, str], *args: str) -> dict[str, Any]:
        done = django("rb_nodes", "--format", "json", *args, "--", "true", env=env)
        assert (done.returncode, done.stderr) == (0, "")
        return document_of(done.stdout)[0]

    @contextmanager
    def started(self, settings: dict[str, str], *args: str) -> Iterator[dict[str, str]]:
        """Start nodes; yield the environment of a process that uses them."""
        process = Running("rb_nodes", "--format", "json", *args, env=settings)
        try:
            document, _ = document_of(read_until(process, "Press Ctrl-C to stop them."))
            yield {**settings, **document["environment"]}
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            kill(process)

    def flush(self, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
        return django("rb_flushall", "--no-input", *args, env=env)

    @with_clusters(small={"HOSTS": ["redis://a", "redis://b"]}, large={"HOSTS": [{}] * 5})
    def test_as_many_nodes_as_the_largest_has(self, settings: dict[str, str]) -> None:
        document = self.nodes(settings)
        ports = [node["port"] for node in document["nodes"]]
        assert len(ports) == 5
        login = f":{password_in(document)}@"
        assert document["clusters"] == {
            "small": [f"redis://{login}127.0.0.1:{port}/0" for port in ports],
            "large": [f"redis://{login}127.0.0.1:{port}/1" for port in ports],
        }
        assert len(self.nodes(settings, "--count", "2")["nodes"]) == 2

    @with_clusters()
    def test_without_clusters(self, settings: dict[str, str]) -> None:
        document = self.nodes(settings)
        assert len(document["nodes"]) == 4
        assert list(document["clusters"]) == ["default"]

    @with_clusters(default={"HOSTS": [{}] * 3}, other={"HOSTS": [{"port": 1}]})
    def test_those_that_are_named(self, settings: dict[str, str]) -> None:
        document = self.nodes(settings, "--cluster", "default")
        assert len(document["nodes"]) == 3
        assert list(document["clusters"]) == ["default"]
        document = self.nodes(settings, "--cluster", "other", "--cluster", "default")
        assert [urls[0][-2:] for urls in document["clusters"].values()] == ["/0", "/1"]
        assert list(document["clusters"]) == ["other", "default"]

    @with_clusters(default={"HOSTS": [{}]}, other={"HOSTS": [{"port": 1}]})
    def test_the_others_keep_their_nodes(self, settings: dict[str, str]) -> None:
        with self.started(settings, "--cluster=default") as env:
            done = self.flush(env)
        assert done.returncode == 1
        assert re.search(r"default 0  127\.0\.0\.1:\d{4,5} .* flushed\n", done.stdout)
        assert done.stderr.startswith("CommandError: 1 of 2 databases could not be flushed:")
        assert "\nother 0: " in done.stderr

    @with_clusters()
    def test_the_one_that_is_there_without_clusters(self, settings: dict[str, str]) -> None:
        assert list(self.nodes(settings, "--cluster", "default")["clusters"]) == ["default"]

    @with_clusters(default={"HOSTS": []})
    def test_hosts_that_only_production_knows(self, settings: dict[str, str]) -> None:
        assert len(self.nodes(settings)["nodes"]) == 4
        with self.started(settings) as env:
            done = self.flush(env)
        assert (done.returncode, done.stderr) == (0, "")

    @with_clusters(**{f"c{number}": {"HOSTS": [{}]} for number in range(20)})
    def test_more_clusters_than_servers_have_databases(self, settings: dict[str, str]) -> None:
        with self.started(settings) as env:
            done = self.flush(env)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("flushed\n") == 20

    @with_clusters(
        default={
            "HOSTS": ["rediss://ann:secret@cache.example"],
            "HOST_DEFAULTS": {"password": "secret", "db": 7},
            "POOL_OPTIONS": {
                "password": "secret",
                "username": "ann",
                "socket_timeout": 5,
                "ssl_cert_reqs": "none",
            },
        }
    )
    def test_local_nodes_ask_for_no_secrets(self, settings: dict[str, str]) -> None:
        with self.started(settings) as env:
            done = self.flush(env)
        assert (done.returncode, done.stderr) == (0, "")
        assert "secret" not in done.stdout

    @with_clusters(default="redis://a", other={"HOSTS": [{}], "POOL_OPTIONS": "no"})
    def test_mistakes_are_still_explained(self, settings: dict[str, str]) -> None:
        mistakes = {"default": "A str is not", "other": "is not a dictionary"}
        with self.started(settings) as env:
            for alias, mistake in mistakes.items():
                done = self.flush(env, "--cluster", alias)
                assert done.returncode == 1
                assert f"settings.RB_CLUSTERS['{alias}']" in done.stderr
                assert mistake in done.stderr

    @with_clusters(default={"HOSTS": [{}]}, broken={"HOSTS": [{}], "ROUTER": "no.where"})
    def test_one_mistake_is_no_obstacle_elsewhere(self, settings: dict[str, str]) -> None:
        with self.started(settings) as env:
            done = self.flush(env, "--cluster", "default")
            assert (done.returncode, done.stderr) == (0, "")
            done = self.flush(env, "--cluster", "broken")
        assert "settings.RB_CLUSTERS['broken']['ROUTER']: 'no.where'" in done.stderr


class TestMistakes:
    def fail(self, *args: str, **variables: str) -> str:
        done = django("rb_nodes", *args, env=environment(**variables))
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    def test_an_unknown_command(self) -> None:
        assert self.fail("--", "rb_flushal", "--no-input") == (
            "CommandError: 'rb_flushal' is neither a management command of this project nor "
            "a program on the PATH. Did you mean 'rb_flushall'? "
            "`manage.py help` lists the commands.\n"
        )

    def test_no_server(self) -> None:
        error = self.fail("--", "true", DJANGO_RB_SERVER="/nowhere/valkey-server")
        assert error.startswith("CommandError: The environment variable DJANGO_RB_SERVER is")

    def test_a_server_that_does_not_start(self) -> None:
        error = self.fail("--", "true", DJANGO_RB_SERVER=sys.executable)
        assert "is not a Valkey or Redis server" in error

    def test_wrong_alias(self) -> None:
        assert self.fail("--cluster", "defualt", "--", "true") == (
            "CommandError: There is no cluster 'defualt' in settings.RB_CLUSTERS. "
            "Did you mean 'default'?\n"
        )

    def test_nodes_that_take_too_long(self, tmp_path: Path) -> None:
        slow = tmp_path / "slow-server"
        slow.write_text(
            '#!/bin/sh\nif [ "$1" = --version ]; then echo Redis server v=7.0.0; exit; fi\n'
            "exec sleep 60\n"
        )
        slow.chmod(0o755)
        error = self.fail("--timeout", "0.5", "--", "true", DJANGO_RB_SERVER=str(slow))
        assert error.startswith("CommandError: Node 0 was not ready within 0.5 s")

    @pytest.mark.parametrize("timeout", ["0", "-1", "soon"])
    def test_timeout(self, timeout: str) -> None:
        done = django("rb_nodes", f"--timeout={timeout}", "--", "true")
        assert done.returncode == 2
        assert f"'{timeout}' is not a time in seconds above 0." in done.stderr

    def test_inside_of_another(self) -> None:
        error = self.fail("--", "true", DJANGO_RB_NODES='{"default": ["redis://a"]}')
        assert error.startswith("CommandError: The environment variable DJANGO_RB_NODES is set")
        assert "Unset it" in error

    @pytest.mark.parametrize("count", ["0", "-1", "x", "1.5"])
    def test_count(self, count: str) -> None:
        done = django("rb_nodes", "--count", count, "--", "true")
        assert done.returncode == 2
        assert f"'{count}' is not a number of nodes, 1 or more." in done.stderr


class TestWaiting:
    @pytest.fixture
    def waiting(self, output_format: str) -> Iterator[Any]:
        process = Running("rb_nodes", "--count", "2", "--format", output_format)
        yield process, read_until(process, "Press Ctrl-C to stop them.")
        kill(process)

    @pytest.mark.parametrize(
        ("number", "output_format"),
        [(signal.SIGINT, "table"), (signal.SIGTERM, "json"), (signal.SIGHUP, "table")],
    )
    def test_until_a_signal(self, waiting: tuple[Running, str], number: signal.Signals) -> None:
        process, said = waiting
        if said.startswith("{"):
            document, _ = document_of(said)
            pids = [node["pid"] for node in document["nodes"]]
            variable = document["environment"]["DJANGO_RB_NODES"]
        else:
            pids = pids_in(said)
            variable = re.findall("export DJANGO_RB_NODES='(.*)'", said)[0]
        assert len(pids) == 2
        for url in json.loads(variable)["default"]:
            with redis.Redis.from_url(url) as client:
                assert client.ping()
        process.send_signal(number)
        said, _ = process.communicate(timeout=10)
        assert (process.returncode, said) == (0, "")
        wait_until_gone(*pids)

    def test_nohup(self) -> None:
        process = start("nohup", *DJANGO, "rb_nodes", "--count", "1")
        try:
            read_until(process, "Press Ctrl-C to stop them.")
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            kill(process)


# Says its process id, then the number of each signal it gets. It ends by SIGTERM, and when
# a test that fails has left it alone.
COUNTER = """
import os, signal, sys
signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
signal.alarm(30)
os.write(1, b"child %d\\nready\\n" % os.getpid())
number = 0
while number != signal.SIGTERM:
    number = signal.sigwait(signals)
    os.write(1, b"got %d\\n" % number)
sys.exit(5)
"""


class TestSignals:
    @pytest.fixture
    def running(self) -> Iterator[tuple[Running, list[int], int]]:
        """A rb_nodes, the pids of its two nodes, and the pid of the program it runs."""
        process = Running("rb_nodes", "--count=2", "--", sys.executable, "-c", COUNTER)
        said = read_until(process, "ready")
        yield process, pids_in(said), int(re.findall(r"child (\d+)", said)[0])
        kill(process)

    def test_they_are_passed_on(self, running: tuple[Running, list[int], int]) -> None:
        process, pids, child = running
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
            assert read_until(process, "got") == f"got {number}\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.read() == f"got {signal.SIGTERM}\n"
        assert process.wait(10) == 5
        wait_until_gone(*pids, child)

    @linux_only
    def test_nothing_is_left_when_it_is_killed(
        self, running: tuple[Running, list[int], int]
    ) -> None:
        process, pids, child = running
        assert len(pids) == 2
        assert all(map(is_alive, [*pids, child]))
        process.kill()
        wait_until_gone(*pids, child)
        assert process.stdout is not None
        assert process.stdout.read() == f"got {signal.SIGTERM}\n"

    def test_the_child_can_be_interrupted(self) -> None:
        """The signals that wait for rb_nodes do not wait for the child."""
        script = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
        done = django("rb_nodes", "--count=1", "--", sys.executable, "-c", script)
        assert done.stdout.endswith("\nset()\n")

    @pytest.fixture
    def terminal(self) -> Iterator[Terminal]:
        command = ["rb_nodes", "--count=2", "--", sys.executable, "-c", COUNTER]
        with Terminal(*command, env=environment()) as terminal:
            terminal.read_until("ready\n")
            yield terminal
        wait_until_gone(*pids_in(terminal.said))

    def test_a_terminal_tells_the_child_itself(self, terminal: Terminal) -> None:
        terminal.type("\x03")
        terminal.read_until("^Cgot 2\n")
        terminal.type("\x03")
        terminal.read_until("^Cgot 2\n^Cgot 2\n")
        terminal.process.send_signal(signal.SIGTERM)
        status, said = terminal.read_to_end()
        assert (status, said.count("got 2\n")) == (5, 2)

    @linux_only
    def test_on_a_terminal_others_may_tell_it_too(self, terminal: Terminal) -> None:
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("got 2\n")
        terminal.process.send_signal(signal.SIGTERM)
        status, said = terminal.read_to_end()
        assert (status, said.count("got 2\n")) == (5, 1)

    def test_it_fits_a_terminal(self) -> None:
        command = ["rb_nodes", "--count=2", "--no-color", "--", "true"]
        with Terminal(*command, env=environment()) as terminal:
            status, said = terminal.read_to_end()
        assert status == 0
        assert "\x1b" not in said
        table = said.partition("To use them")[0]
        assert max(map(len, table.splitlines())) <= 80

    def test_ctrl_c_while_waiting_on_a_terminal(self) -> None:
        with Terminal("rb_nodes", "--count=2", env=environment()) as terminal:
            said = terminal.read_until("Press Ctrl-C to stop them.")
            terminal.type("\x03")
            status, said = terminal.read_to_end()
        assert status == 0
        assert "Traceback" not in said
        assert "\x1b[32;1m2 nodes of" in said
        wait_until_gone(*pids_in(said))


class TestPlaces:
    def test_a_port_and_a_directory_that_are_named(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
        keep = tmp_path / "data"
        done = django(
            "rb_nodes", "--count", "1", "--port", port, "--keep", str(keep), "--format", "json",
            "--", "true",
        )  # fmt: skip
        document, _ = document_of(done.stdout)
        assert [str(node["port"]) for node in document["nodes"]] == [port]
        assert list(keep.glob("0/*"))

    @pytest.mark.parametrize("port", ["0", "65536", "http"])
    def test_no_port(self, port: str) -> None:
        with pytest.raises(CommandError, match=f"'{port}' is not a port from 1 to 65535"):
            call_command("rb_nodes", "--port", port)


class TestFromAnotherShell:
    def test_a_node_is_stopped_and_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with LocalNodes(2) as nodes, redis.Redis(**nodes.hosts[1]) as client:
            client.set("key", 1)
            monkeypatch.setenv("DJANGO_RB_CONTROL", nodes.control)
            assert run("rb_nodes", "--stop", "1") == "Node 1 was stopped.\n"
            assert nodes.states() == {0: "running", 1: "dead"}
            assert run("rb_nodes", "--restart", "1") == "Node 1 was restarted.\n"
            assert client.dbsize() == 0
            assert run_and_fail("rb_nodes", "--stop", "2")[1] == "There is no node 2."
        assert "ask.sock cannot be controlled: " in run_and_fail("rb_nodes", "--stop", "1")[1]
        monkeypatch.delenv("DJANGO_RB_CONTROL")
        assert "DJANGO_RB_CONTROL is not set" in run_and_fail("rb_nodes", "--restart", "1")[1]
