"""manage.py rb_delete: delete the keys that match a pattern."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import Servers, wait_until

from .calls import plain, rows, run, run_and_fail, run_json
from .processes import Terminal, django, on_nodes

QUESTION = "Type 'yes' to continue, or 'no' to cancel: "


@pytest.fixture
def servers(nodes: LocalNodes, cluster: Cluster) -> Iterator[Servers]:
    """A hundred pages and ten users."""
    with cluster.map() as client:
        for n in range(100):
            client.set(f"page:{n}", n)
        for n in range(10):
            client.set(f"user:{n}", n)
    with Servers(nodes.hosts) as servers:
        yield servers


def keys_left(servers: Servers) -> dict[str, int]:
    """Return how many keys there are, by the first word."""
    keys = [key for keys in servers.keys().values() for key in keys]
    names = [key.partition(b":")[0].decode() for key in keys]
    return {name: names.count(name) for name in set(names)}


def with_suffix(key: str, prefix: str, version: int) -> str:
    return f"{key}|{version}|{prefix}"


class TestDelete:
    def test_what_matches_and_nothing_else(self, servers: Servers, cluster: Cluster) -> None:
        before = {host_id: len(keys) for host_id, keys in servers.keys().items()}
        out = run("rb_delete", "page:*", "--no-input")
        assert keys_left(servers) == {"user": 10}
        left = {host_id: len(keys) for host_id, keys in servers.keys().items()}
        assert out.splitlines()[0].split() == ["NODE", "ADDRESS", "DELETED", "RESULT"]
        assert rows(out) == [
            [f"default {n}", cluster.get_address(n), str(before[n] - left[n]), "deleted"]
            for n in range(4)
        ]

    def test_json(self, servers: Servers, cluster: Cluster) -> None:
        document = run_json("rb_delete", "user:*", "--noinput")
        assert keys_left(servers) == {"page": 100}
        assert document["pattern"] == "user:*"
        assert sum(node.pop("deleted") for node in document["nodes"]) == 10
        assert document["nodes"][3] == {
            "cluster": "default",
            "host_id": 3,
            "address": f"127.0.0.1:{cluster.hosts[3].port}",
            "database": 0,
            "found": None,
            "error": None,
        }

    def test_a_pattern_that_takes_along_what_follows(self, servers: Servers) -> None:
        config = {
            "BACKEND": "django_rb.cache.RBCache",
            "KEY_FUNCTION": f"{__name__}.with_suffix",
        }
        with override_settings(CACHES={"default": config}):
            _, error = run_and_fail("rb_delete", "a[", "--cache", "default", "--no-input")
        assert error.startswith("The pattern 'a[' ends in a backslash, or contains a '['")
        assert keys_left(servers) == {"page": 100, "user": 10}

    def test_all_keys(self, servers: Servers) -> None:
        run("rb_delete", "*", "--no-input")
        assert keys_left(servers) == {}

    def test_no_server_is_blocked(self, servers: Servers, cluster: Cluster) -> None:
        with cluster.map() as client:
            for n in range(8000):
                client.set(f"page:{n}", n)
        servers.reset_counts()
        run("rb_delete", "page:*", "--no-input")
        assert keys_left(servers) == {"user": 10}
        for counts in {n: {**c} for n, c in servers.counts().items()}.values():
            assert counts.keys() == {"dbsize", "keys", "scan", "unlink"}
            assert counts["scan"] >= counts["unlink"] >= 2
            assert counts["keys"] == 1  # keys_left()

    def test_keys_of_a_cache(self, servers: Servers) -> None:
        cache = caches["default"]
        cache.set_many({"page:1": 1, "page:2": 2, "user:1": 1})
        cache.set("page:1", 1, version=2)
        document = run_json("rb_delete", "page:*", "--cache", "default", "--no-input")
        assert document["pattern"] == ":1:page:*"
        assert sum(node["deleted"] for node in document["nodes"]) == 2
        assert cache.get_many(["page:1", "page:2", "user:1"]) == {"user:1": 1}
        assert cache.get("page:1", version=2) == 1
        assert keys_left(servers)["page"] == 100

    def test_a_database_in_common_is_emptied_once(
        self, nodes: LocalNodes, servers: Servers
    ) -> None:
        config = {alias: {"HOSTS": nodes.hosts} for alias in ("one", "two")}
        with override_settings(RB_CLUSTERS=config):
            deleted = run_json("rb_delete", "page:*", "--no-input")["nodes"]
        assert [(node["cluster"], node["host_id"]) for node in deleted] == [
            ("one", n) for n in range(4)
        ]
        assert sum(node["deleted"] for node in deleted) == 100

    def test_an_empty_pattern(self, servers: Servers) -> None:
        _, error = run_and_fail("rb_delete", "", "--no-input")
        assert error == "An empty pattern matches no key. Use '*' for all keys."

    def test_dry_run(self, servers: Servers) -> None:
        out = run("rb_delete", "page:*", "--dry-run")
        assert keys_left(servers) == {"page": 100, "user": 10}
        assert out.splitlines()[0].split() == ["NODE", "ADDRESS", "FOUND", "RESULT"]
        assert sum(int(row[2]) for row in rows(out)) == 100
        assert {row[3] for row in rows(out)} == {"would be deleted"}
        found = run_json("rb_delete", "page:*", "--dry-run")["nodes"]
        assert sum(node["found"] for node in found) == 100
        assert {node["deleted"] for node in found} == {None}


class TestQuestion:
    def test_yes(self, nodes: LocalNodes, servers: Servers) -> None:
        env = on_nodes(default=nodes.hosts)
        done = django("rb_delete", "page:*", answer="yes\n", env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert keys_left(servers) == {"user": 10}
        question, result = done.stdout.split(QUESTION)
        assert question.endswith(
            "\n\nYou have requested the deletion of 100 keys on 4 nodes:\n"
            "those that match page:*.\n"
            "This will IRREVERSIBLY DELETE them.\n"
            "Are you sure you want to do this?\n\n    "
        )
        for host in nodes.hosts.values():
            pattern = rf"default \d +127.0.0.1:{host['port']}/0 +\d+  would be deleted\n"
            assert re.search(pattern, question)
        for row in rows(result):
            assert row[2] == row[3]

    @pytest.mark.parametrize(
        ("args", "keys"),
        [
            (["*"], "ALL keys, including those of other programs."),
            (["**"], "ALL keys, including those of other programs."),
            (["*", "--cache", "default"], "ALL keys of the cache 'default'."),
            (["pa*", "--cache", "default"], "those of the cache 'default' that match pa*."),
        ],
    )
    def test_what_is_asked(
        self, nodes: LocalNodes, servers: Servers, args: list[str], keys: str
    ) -> None:
        caches["default"].set("page", 1)
        done = django("rb_delete", *args, answer="no\n", env=on_nodes(default=nodes.hosts))
        assert done.returncode == 0
        assert f":\n{keys}\nThis will IRREVERSIBLY" in done.stdout
        assert done.stdout.endswith("Deletion cancelled.\n")
        assert caches["default"].get("page") == 1

    def test_nobody_is_there(self, nodes: LocalNodes, servers: Servers) -> None:
        done = django("rb_delete", "page:*", env=on_nodes(default=nodes.hosts))
        assert done.returncode == 1
        assert done.stderr.endswith("Use --no-input to continue without confirmation.\n")
        assert keys_left(servers)["page"] == 100

    def test_nothing_to_delete(self, nodes: LocalNodes, servers: Servers) -> None:
        done = django("rb_delete", "cart:*", env=on_nodes(default=nodes.hosts))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("no such keys\n") == 4

    def test_standard_output_is_for_the_program(
        self, nodes: LocalNodes, servers: Servers
    ) -> None:
        env = on_nodes(default=nodes.hosts)
        done = django("rb_delete", "page:*", "--format", "json", answer="yes\n", env=env)
        assert QUESTION in done.stderr
        assert done.stdout.startswith("{\n")
        assert keys_left(servers) == {"user": 10}

    def test_on_a_terminal(self, nodes: LocalNodes, servers: Servers) -> None:
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_delete", "page:*", env=env) as terminal:
            terminal.read_until(QUESTION)
            terminal.type("yes\n")
            status, said = terminal.read_to_end()
        assert status == 0
        assert keys_left(servers) == {"user": 10}
        assert said.count("\x1b[32;1mdeleted\x1b[0m\n") == 4
        assert max(map(len, plain(said))) <= 80


class TestNodesThatFail:
    def test_the_others_are_emptied(self, own_nodes: LocalNodes) -> None:
        cluster = Cluster(own_nodes.hosts)
        with cluster.all() as client:
            client.set("page:1", 1)
        own_nodes.kill(1)
        own_nodes.pause(2)
        out, error = run_and_fail("rb_delete", "page:*", "--no-input", "--timeout", "1")
        assert [row[2:] for row in rows(out)] == [
            ["1", "deleted"],
            ["?", "failed"],
            ["?", "failed"],
            ["1", "deleted"],
        ]
        assert error.startswith("2 of 4 nodes could not be finished:\ndefault 1: ")
        assert [cluster.get_local_client(n).dbsize() for n in (0, 3)] == [0, 0]
        cluster.close()

    def test_they_are_told_before_the_question(self, own_nodes: LocalNodes) -> None:
        clusters["default"].get_local_client(0).set("page:1", 1)
        own_nodes.kill(1)
        env = on_nodes(default=own_nodes.hosts)
        done = django("rb_delete", "page:*", answer="yes\n", env=env)
        assert done.returncode == 1
        question, result = done.stdout.split(QUESTION)
        assert "\ndefault 1: Error 111 connecting" in question
        assert "deletion of 1 key on 3 nodes" in question
        assert result.count("deleted\n") == 3

    def test_ctrl_c_on_the_way(self) -> None:
        replies = {
            b"DBSIZE": b":3000\r\n",
            b"SCAN": b"*2\r\n$2\r\n17\r\n*1\r\n$6\r\npage:1\r\n",  # for ever
            b"UNLINK": b":1\r\n",
        }

        def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            connection.sendall(replies[command[0]])

        with Peer(answer) as peer:
            env = on_nodes(default={0: peer.host})
            args = ["rb_delete", "page:*", "--no-input", "--no-color"]
            with Terminal(*args, env=env) as terminal:
                wait_until(lambda: len(peer.commands) > 10, 30)
                terminal.process.send_signal(signal.SIGINT)
                status, said = terminal.read_to_end()
        assert status == 128 + signal.SIGINT
        assert re.search(
            r"CommandError: Interrupted: at least [\d,]+ keys deleted, others may remain\.\n",
            said,
        )

    def test_one_that_dies_on_the_way(self, nodes: LocalNodes) -> None:
        replies = {
            b"DBSIZE": b":3000\r\n",
            b"SCAN": b"*2\r\n$2\r\n17\r\n*2\r\n$6\r\npage:1\r\n$6\r\npage:2\r\n",
            b"UNLINK": b":2\r\n",
        }

        def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            if command[0] == b"SCAN" and command[1] == b"17":
                connection.shutdown(socket.SHUT_RDWR)
            else:
                connection.sendall(replies[command[0]])

        with Peer(answer) as peer:
            hosts = [nodes.hosts[0], peer.host]
            with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
                clusters["default"].get_local_client(0).set("page:1", 1)
                out, error = run_and_fail("rb_delete", "page:*", "--no-input")
                clusters.reset()
        assert [row[2:] for row in rows(out)] == [["1", "deleted"], ["2", "failed"]]
        assert error.startswith("1 of 2 nodes could not be finished:\ndefault 1: ")
        assert [command[0] for command in peer.commands][:3] == [b"DBSIZE", b"SCAN", b"UNLINK"]
