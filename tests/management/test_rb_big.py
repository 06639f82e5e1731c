"""manage.py rb_big: the largest keys of all nodes, by a sample."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import Servers

from .calls import run, run_and_fail, run_json


@pytest.fixture
def filled(cluster: Cluster) -> Cluster:
    with cluster.map() as client:
        for n in range(300):
            client.set(f"page:{n}", "x" * n)
            client.set(f":1:book:{n}", "x")
        client.set("<script>\x1b[2J\xff", "x" * 100_000)
        client.rpush("list", *["x" * 1000] * 50)
    return cluster


def test_the_largest_keys(filled: Cluster, nodes: LocalNodes) -> None:
    found = run_json("rb_big", "--top", "4")
    first, second, *others = found["keys"]
    assert (first["key"], first["type"]) == ("<script>\x1b[2J\xff", "string")
    assert (second["key"], second["type"]) == ("list", "list")
    assert {one["key"] for one in others} < {f"page:{n}" for n in range(270, 300)}
    for one in found["keys"]:
        assert one["host_id"] == filled.get_host_for_key(one["key"])
        with Servers(nodes.hosts) as servers:
            assert servers.ask(one["host_id"], "MEMORY", "USAGE", one["key"]) == one["size"]
    assert found["measured"] == found["total"] == 602
    patterns = {one["pattern"]: one for one in found["patterns"]}
    assert patterns["page:*"]["keys"] == patterns[":1:book:*"]["keys"] == 300
    assert sum(one["size"] for one in found["patterns"]) == found["size"]
    sizes = [one["size"] for one in found["patterns"]]
    assert sizes == sorted(sizes, reverse=True)


def test_what_people_see(filled: Cluster) -> None:
    shown = run("rb_big", "--top", "3")
    assert r"<script>\x1b[2Jÿ" in shown
    assert "602 of 602 keys measured: " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_sample_is_shared_out(filled: Cluster) -> None:
    found = run_json("rb_big", "--sample", "40", "--top", "40")
    assert found["measured"] == len(found["keys"]) == 40
    shares = [one["host_id"] for one in found["keys"]]
    assert {shares.count(host_id) for host_id in range(4)} == {10}


def test_a_pattern_and_a_cache(filled: Cluster) -> None:
    found = run_json("rb_big", "--pattern", "page:29?", "--top", "100")
    assert {one["key"] for one in found["keys"]} == {f"page:{n}" for n in range(290, 300)}
    caches["default"].set("shelf:9", "x" * 1000)
    found = run_json("rb_big", "--cache", "default")
    assert found["measured"] == 301
    assert found["keys"][0]["cache_key"] == "shelf:9"
    assert {one["pattern"] for one in found["patterns"]} == {"book:*", "shelf:*"}


def test_nothing_there(nodes: LocalNodes) -> None:
    assert run("rb_big") == "0 of 0 keys measured: 0 B\n"
    assert run_json("rb_big")["keys"] == []
    caches["default"].set("page:1", 1)
    err = StringIO()
    call_command("rb_big", "--pattern", "page:*", stdout=StringIO(), stderr=err)
    assert "use --cache default" in err.getvalue()


def test_dead_nodes_are_named(hurt_nodes: LocalNodes) -> None:
    out, error = run_and_fail("rb_big", "--timeout", "0.5", "--format", "json")
    assert "2 of 4 nodes could not be queried:" in error
    assert "default 1: " in error
    assert "default 2: " in error
    assert json.loads(out)["measured"] == 0


def test_progress(filled: Cluster) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    call_command("rb_big", stdout=StringIO(), stderr=err)
    assert "Measuring [" in err.getvalue()


@pytest.mark.parametrize("option", ["--sample", "--top"])
def test_numbers_that_cannot_be(nodes: LocalNodes, option: str) -> None:
    with pytest.raises(CommandError, match="'0' is not a whole number, 1 or more"):
        call_command("rb_big", option, "0")


def test_two_clusters(nodes: LocalNodes, filled: Cluster) -> None:
    config = {
        "default": {"HOSTS": nodes.hosts},
        "other": {"HOSTS": nodes.hosts, "HOST_DEFAULTS": {"db": 1}},
    }
    with override_settings(RB_CLUSTERS=config):
        assert run_json("rb_big", "--cluster", "other")["total"] == 0
        assert run_json("rb_big")["total"] == 602
