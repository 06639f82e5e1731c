"""manage.py rb_scan: the keys of all nodes, as they are found."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from base64 import b64decode
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import CommandError
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.management.commands.rb_scan import look_at
from django_rb.management.output import Progress
from django_rb.management.scanning import Nodes
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import Servers

from .calls import plain, run, run_and_fail
from .processes import DJANGO, ROOT, Terminal, django, on_nodes

PAGES = {f"page:{n}" for n in range(200)}


def objects(*args: str) -> list[dict[str, Any]]:
    """Run the command; return the objects that it writes, one per line."""
    return [json.loads(line) for line in run("rb_scan", *args, "--format", "json").splitlines()]


@pytest.fixture
def pages(cluster: Cluster) -> None:
    store(cluster, PAGES)


def store(cluster: Cluster, keys: set[str]) -> None:
    with cluster.map() as client:
        for key in keys:
            client.set(key, "text", ex=1000)


class TestKeys:
    def test_all_keys_of_all_nodes(self, pages: None) -> None:
        found = run("rb_scan").splitlines()
        assert set(found) == PAGES
        assert len(found) == len(PAGES)

    def test_nothing(self, nodes: LocalNodes) -> None:
        assert run("rb_scan", "page:*") == ""

    def test_a_pattern(self, pages: None) -> None:
        assert set(run("rb_scan", "page:1[01]?").splitlines()) == {
            f"page:{n}" for n in range(100, 120)
        }

    def test_a_limit(self, pages: None) -> None:
        assert len(run("rb_scan", "--limit", "7").splitlines()) == 7
        found = run("rb_scan", "--limit", "7", "--with", "ttl,type")
        assert len(found.splitlines()) == 8
        assert len(run("rb_scan", "--limit", "5000").splitlines()) == 200

    def test_a_type(self, pages: None, cluster: Cluster) -> None:
        client = cluster.get_routing_client()
        client.hset("a", mapping={"b": 1})
        client.rpush("c", 1)
        assert run("rb_scan", "--type", "hash") == "a\n"
        assert run("rb_scan", "--type", "list") == "c\n"

    def test_a_cluster(self, nodes: LocalNodes, pages: None) -> None:
        config = {
            "default": {"HOSTS": nodes.hosts},
            "other": {"HOSTS": nodes.hosts, "HOST_DEFAULTS": {"db": 1}},
        }
        with override_settings(RB_CLUSTERS=config):
            clusters["other"].get_routing_client().set("basket:1", 1)
            assert set(run("rb_scan").splitlines()) == {*PAGES, "basket:1"}
            assert set(run("rb_scan", "--cluster", "default").splitlines()) == PAGES
            assert run("rb_scan", "--cluster", "other") == "basket:1\n"
            clusters["other"].get_routing_client().delete("basket:1")

    def test_a_database_in_common_is_scanned_once(self, nodes: LocalNodes, pages: None) -> None:
        config = {alias: {"HOSTS": nodes.hosts} for alias in ("one", "two")}
        with override_settings(RB_CLUSTERS=config):
            found = objects()
        assert len(found) == len(PAGES)
        assert {one["cluster"] for one in found} == {"one"}

    def test_a_cache(self, nodes: LocalNodes, cluster: Cluster) -> None:
        config = {
            "default": {"BACKEND": "django_rb.cache.RBCache", "KEY_PREFIX": "a*[b]"},
            "other": {"BACKEND": "django_rb.cache.RBCache", "KEY_PREFIX": "ax[b]"},
        }
        with override_settings(CACHES=config):
            caches["default"].set_many({"page:1": 1, "page:2": 2, "ключ": 3})
            caches["default"].set("page:3", 3, version=2)
            caches["other"].set("page:4", 4)
            assert sorted(run("rb_scan", "--cache", "default").splitlines()) == [
                "page:1",
                "page:2",
                "ключ",
            ]
            (found,) = objects("*:2", "--cache", "default")
        assert (found["key"], found["cache_key"]) == ("a*[b]:1:page:2", "page:2")
        assert found["host_id"] == cluster.get_host_for_key(found["key"])

    def test_a_cache_whose_keys_cannot_be_reversed(self, nodes: LocalNodes) -> None:
        config = {
            "BACKEND": "django_rb.cache.RBCache",
            "KEY_FUNCTION": f"{__name__}.backwards",
        }
        with override_settings(CACHES={"default": config}):
            caches["default"].set("page", 1)
            assert run("rb_scan", "--cache", "default") == "page|1|\n"
            (found,) = objects("--cache", "default")
            assert (found["key"], found["cache_key"]) == ("page|1|", None)

    def test_a_cache_whose_keys_have_no_pattern(self, nodes: LocalNodes) -> None:
        config = {"BACKEND": "django_rb.cache.RBCache", "KEY_FUNCTION": f"{__name__}.hashed"}
        with override_settings(CACHES={"default": config}):
            _, error = run_and_fail("rb_scan", "--cache", "default")
        assert "its keys cannot be found by pattern" in error

    def test_keys_that_are_no_text(self, cluster: Cluster) -> None:
        cluster.get_routing_client().set(b"\xff\x00\n", 1)
        assert run("rb_scan") == "\\xff\\x00\\n\n"
        (found,) = objects()
        assert b64decode(found["key"]["base64"]) == b"\xff\x00\n"
        as_typed = b"\xff*".decode(errors="surrogateescape")
        assert run("rb_scan", as_typed) == "\\xff\\x00\\n\n"


def backwards(key: str, prefix: str, version: int) -> str:
    return f"{key}|{version}|{prefix}"


def hashed(key: str, prefix: str, version: int) -> str:
    return str(hash(key) % 7)


class TestFields:
    def test_as_programs_read_them(self, cluster: Cluster) -> None:
        client = cluster.get_routing_client()
        client.set("a", "x" * 1000, px=500_500)
        client.sadd("b", 1)
        a, b = sorted(objects("--with", "type,size,ttl"), key=lambda found: str(found["key"]))
        assert 400 < a["ttl"] <= 500.5
        assert 1000 <= a["size"] < 1500
        assert a["type"] == "string"
        assert (b["ttl"], b["type"]) == (None, "set")
        assert a["host_id"] == cluster.get_host_for_key("a")
        assert a["cluster"] == "default"
        (only_ttl,) = objects("a", "--with", "ttl")
        assert list(only_ttl) == ["key", "cluster", "host_id", "ttl"]

    def test_as_people_read_them(self, cluster: Cluster) -> None:
        client = cluster.get_routing_client()
        client.set("a", "x" * 100_000, ex=100_000)
        header, row = run("rb_scan", "--with", "size, ttl,type").splitlines()
        assert header.split() == ["TTL", "SIZE", "TYPE", "KEY"]
        assert row.split() == ["1", "d", "3", "h", *row.split()[4:6], "string", "a"]
        assert row.split()[5] == "KiB"
        client.persist("a")
        assert run("rb_scan", "--with", "ttl").split() == ["TTL", "KEY", "never", "a"]

    def test_a_long_key(self, cluster: Cluster, nodes: LocalNodes) -> None:
        key = "k" * 150
        cluster.get_routing_client().set(key, 1)
        assert run("rb_scan", "--with", "type").splitlines()[1].endswith(f"  {key}")
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_scan", "--with", "type", env=env) as terminal:
            _, said = terminal.read_to_end()
        lines = plain(said)
        assert max(map(len, lines)) == 80
        assert sum(line.count("k") for line in lines) == 150 + 1  # "1 key"

    def test_keys_that_have_gone_meanwhile(self, nodes: LocalNodes, cluster: Cluster) -> None:
        cluster.get_local_client(1).set("here", 1)
        nodes_of_all = Nodes({"default": cluster})
        page = {("default", 1): [b"gone", b"here"]}
        for asked in (["ttl"], ["size"], ["type"], ["ttl", "size", "type"]):
            found = look_at(nodes_of_all, page, asked, 10)
            assert [one.key for one in found] == [b"here"]

    @pytest.mark.parametrize("names", ["tll", "ttl,sise"])
    def test_an_unknown_one(self, nodes: LocalNodes, names: str) -> None:
        with pytest.raises(CommandError, match="There is no field"):
            run("rb_scan", "--with", names)


class TestServers:
    def test_a_page_at_a_time_from_all_nodes_at_once(
        self, nodes: LocalNodes, cluster: Cluster
    ) -> None:
        store(cluster, {f"page:{n}" for n in range(10_000)})
        with Servers(nodes.hosts) as servers:
            servers.reset_counts()
            assert len(set(run("rb_scan", "--with", "ttl").splitlines())) == 10_001
            for counts in servers.counts().values():
                assert counts["scan"] >= 2
                assert counts["keys"] == 0
                assert 2000 < counts["pttl"] < 3000
            servers.reset_counts()
            run("rb_scan", "--limit", "10")
            assert {counts["scan"] for counts in servers.counts().values()} == {1}

    def test_a_limit_costs_little_where_matches_are_rare(
        self, nodes: LocalNodes, cluster: Cluster
    ) -> None:
        store(cluster, {f"page:{n}" for n in range(10_000)})
        with Servers(nodes.hosts) as servers:
            servers.reset_counts()
            assert run("rb_scan", "basket:*", "--limit", "1") == ""
            # 10, 20, 40 … 640, and 1,000 at a time: of some 2,500 keys.
            assert max(counts["scan"] for counts in servers.counts().values()) < 20

    def test_a_node_that_failed_is_asked_no_more(self) -> None:
        def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            connection.sendall(b"-ERR not today\r\n")

        with Peer(answer) as peer:
            cluster = Cluster([peer.host])
            nodes = Nodes({"default": cluster})
            assert nodes.sizes() == nodes.sizes() == {}
            assert [command[0] for command in peer.commands] == [b"DBSIZE"]
            assert "not today" in str(nodes.failures["default", 0])
            cluster.close()

    def test_a_node_that_dies_on_the_way(self, own_nodes: LocalNodes) -> None:
        cluster = Cluster(own_nodes.hosts)
        keys = {f"page:{n}" for n in range(4000)}
        store(cluster, keys)
        nodes = Nodes({"default": cluster})
        sizes = nodes.sizes()
        found: list[bytes] = []
        for number, page in enumerate(
            nodes.scan(b"*", sizes, Progress(None, "", None, ""), page_size=100)
        ):
            found += [key for keys in page.values() for key in keys]
            if number == 1:
                own_nodes.kill(3)
        assert list(nodes.failures) == [("default", 3)]
        expected = {key.encode() for key in keys if cluster.get_host_for_key(key) != 3}
        assert expected < set(found) < {key.encode() for key in keys}
        cluster.close()


class TestEnds:
    @pytest.fixture
    def many(self, nodes: LocalNodes, cluster: Cluster) -> dict[str, str]:
        store(cluster, {f"page:{'x' * 40}:{n}" for n in range(10_000)})
        return on_nodes(default=nodes.hosts)

    def test_a_reader_who_leaves(self, many: dict[str, str]) -> None:
        process = subprocess.Popen(
            [*DJANGO, "rb_scan"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=many,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("page:")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(30) == 128 + signal.SIGPIPE

    def test_ctrl_c(self, many: dict[str, str]) -> None:
        with Terminal("rb_scan", env=many) as terminal:
            terminal.read_until("page:")
            terminal.process.send_signal(signal.SIGINT)
            status, said = terminal.read_to_end()
        assert status == 128 + signal.SIGINT
        assert plain(said)[-2].endswith("Interrupted.")
        assert "Traceback" not in said

    def test_how_many_there_were(self, nodes: LocalNodes, pages: None) -> None:
        env = on_nodes(default=nodes.hosts)
        for args, last in (
            (["page:*"], "200 keys"),
            (["page:7"], "1 key"),
            (["--limit", "3"], "The first 3 keys"),
        ):
            with Terminal("rb_scan", *args, env=env) as terminal:
                _, said = terminal.read_to_end()
            assert plain(said)[-2] == last
        assert "keys" not in django("rb_scan", env=env).stdout


def test_options_by_name(nodes: LocalNodes, pages: None) -> None:
    assert run("rb_scan", cluster="default", fields="type", limit=1).split()[:3] == [
        "TYPE",
        "KEY",
        "string",
    ]
