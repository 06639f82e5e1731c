"""What rb_route, rb_scan, rb_delete, rb_get and rb_bench have in common."""

from __future__ import annotations

import json
import re

import pytest
from django.core.management import CommandError
from django.test import override_settings

from django_rb.engine import Cluster
from django_rb.management.keys import readable
from django_rb.testing import LocalNodes

from .calls import plain, run, run_and_fail
from .processes import Terminal, django, on_nodes

COMMANDS = {
    "rb_route": ["page:1", "page:2"],
    "rb_scan": ["page:*", "--with", "ttl,size,type"],
    "rb_delete": ["page:*", "--no-input"],
    "rb_get": ["page:1"],
    "rb_bench": ["--keys", "200", "--nodes"],
}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def pages(cluster: Cluster) -> None:
    store_pages(cluster)


def store_pages(cluster: Cluster) -> None:
    with cluster.map() as client:
        for n in range(100):
            client.set(f"page:{n}", "x" * n)


@every_command
class TestFourLivingNodes:
    def test_a_program(self, nodes: LocalNodes, pages: None, name: str) -> None:
        env = on_nodes(default=nodes.hosts)
        done = django(name, *COMMANDS[name], "--format", "json", env=env)
        assert done.returncode == 0
        said = done.stdout.splitlines() if name == "rb_scan" else [done.stdout]
        assert all(isinstance(json.loads(text), dict) for text in said)
        assert "CommandError" not in done.stderr

    def test_a_pipe(self, nodes: LocalNodes, pages: None, name: str) -> None:
        env = on_nodes(default=nodes.hosts)
        done = django(name, *COMMANDS[name], env=env, finalizes=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "\x1b" not in done.stdout

    def test_a_terminal(self, nodes: LocalNodes, pages: None, name: str) -> None:
        env = on_nodes(default=nodes.hosts)
        with Terminal(name, *COMMANDS[name], env=env) as terminal:
            status, said = terminal.read_to_end()
        assert status == 0
        assert max(map(len, plain(said))) <= 80

    def test_a_terminal_without_colours(
        self, nodes: LocalNodes, pages: None, name: str
    ) -> None:
        env = on_nodes(default=nodes.hosts)
        with Terminal(name, *COMMANDS[name], "--no-color", env=env) as terminal:
            _, said = terminal.read_to_end()
        assert "\x1b" not in said.replace("\r\x1b[K", "")


class TestOneKilledAndOneStopped:
    @pytest.mark.parametrize("name", [name for name in COMMANDS if name != "rb_get"])
    @pytest.mark.parametrize("output_format", ["table", "json"])
    def test_the_others_answer(
        self, own_nodes: LocalNodes, name: str, output_format: str
    ) -> None:
        cluster = Cluster(own_nodes.hosts)
        store_pages(cluster)
        cluster.close()
        own_nodes.kill(1)
        own_nodes.pause(2)
        args = [*COMMANDS[name], "--format", output_format, "--timeout", "1"]
        env = on_nodes(default=own_nodes.hosts)
        done = django(name, *args, env=env, finalizes=output_format == "table")
        assert done.returncode == 1
        summary, dead, silent = done.stderr.splitlines()[-3:]
        assert re.match(r"CommandError: 2 of 4 nodes could not be \w+:$", summary)
        assert re.match(
            r"default 1: .*refused.*\[node 1, 127\.0\.0\.1:\d+/0, cluster default\]$", dead
        )
        assert re.match(
            r"default 2: .*\[node 2, 127\.0\.0\.1:\d+/0, cluster default\]$", silent
        )
        assert "Traceback" not in done.stderr
        if output_format == "table":
            assert len(done.stdout.splitlines()) > 2
        else:
            said = done.stdout.splitlines() if name == "rb_scan" else [done.stdout]
            assert all(isinstance(json.loads(text), dict) for text in said)


@every_command
class TestMistakes:
    def test_wrong_alias(self, nodes: LocalNodes, name: str) -> None:
        _, error = run_and_fail(name, *COMMANDS[name], "--cluster", "defualt")
        assert error == (
            "There is no cluster 'defualt' in settings.RB_CLUSTERS. Did you mean 'default'?"
        )

    @override_settings(RB_CLUSTERS={})
    def test_no_clusters(self, name: str) -> None:
        _, error = run_and_fail(name, *COMMANDS[name])
        assert "settings.RB_CLUSTERS is missing or empty" in error

    def test_a_timeout_that_is_none(self, nodes: LocalNodes, name: str) -> None:
        with pytest.raises(CommandError, match="'soon' is not a time in seconds above 0"):
            run(name, *COMMANDS[name], "--timeout", "soon")

    @override_settings(
        RB_CLUSTERS={"default": {"HOSTS": ["redis://ann:hunter2@127.0.0.1:1/3"]}}
    )
    def test_no_secret_is_told(self, name: str) -> None:
        out, error = run_and_fail(name, *COMMANDS[name])
        assert "127.0.0.1:1/3" in error
        assert "hunter2" not in out + error


@pytest.mark.parametrize("name", ["rb_route", "rb_scan", "rb_delete", "rb_get"])
class TestCacheAlias:
    def test_unknown(self, nodes: LocalNodes, name: str) -> None:
        _, error = run_and_fail(name, *COMMANDS[name], "--cache", "defualt")
        assert (
            error == "There is no cache 'defualt' in settings.CACHES. Did you mean 'default'?"
        )

    def test_not_one_of_ours(self, nodes: LocalNodes, name: str) -> None:
        backend = "django.core.cache.backends.locmem.LocMemCache"
        with override_settings(CACHES={"default": {"BACKEND": backend}}):
            _, error = run_and_fail(name, *COMMANDS[name], "--cache", "default")
        assert error.startswith("settings.CACHES['default'] is a LocMemCache: ")

    def test_on_no_cluster(self, nodes: LocalNodes, name: str) -> None:
        backend = "django_rb.cache.RBCache"
        caches = {"default": {"BACKEND": backend, "LOCATION": ["redis://h"]}}
        with override_settings(CACHES=caches):
            for more in ([], ["--cluster", "default"]):
                _, error = run_and_fail(name, *COMMANDS[name], "--cache", "default", *more)
                assert error.startswith("A list, the LOCATION of a cache, is not the alias")

    def test_on_another_cluster_than_the_one_named(self, nodes: LocalNodes, name: str) -> None:
        config = {alias: {"HOSTS": nodes.hosts} for alias in ("default", "other")}
        with override_settings(RB_CLUSTERS=config):
            _, error = run_and_fail(
                name, *COMMANDS[name], "--cache", "default", "--cluster", "other"
            )
            assert error.startswith("The cache 'default' is on the cluster 'default'.")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"page:1", "page:1"),
        ("ключ 7".encode(), "ключ 7"),
        (b"\x00\xff\x80", r"\x00\xff\x80"),
        (b"a\n\r\t\\x", r"a\n\r\t\\x"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        ("\u202egnp".encode(), r"\xe2\x80\xaegnp"),
        (b"", ""),
    ],
)
def test_keys_as_people_read_them(data: bytes, shown: str) -> None:
    assert readable(data) == shown
