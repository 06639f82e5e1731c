"""A site whose shards are monitored by Sentinels: commands, checks, and its tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from io import StringIO
from time import time
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import override_settings

from django_rb import clusters
from django_rb.checks import check_live_nodes
from django_rb.testing import LocalNodes
from tests.cache.warming.conftest import make_caches
from tests.helpers import wait_until
from tests.management.processes import django
from tests.sentinel.admin import Admin

CACHES = {"default": {"BACKEND": "django_rb.cache.RBCache"}}


def settings(nodes: LocalNodes, **more: Any) -> dict[str, Any]:
    return {
        "TOPOLOGY": "sentinel",
        "HOSTS": nodes.hosts,
        "SENTINELS": nodes.sentinels,
        **more,
    }


@pytest.fixture(scope="module")
def watched() -> Iterator[LocalNodes]:
    # None fails over here: a Sentinel that is late on a busy machine would count as lost.
    with LocalNodes(2, topology="sentinel", replicas=1, failover_seconds=30) as nodes:
        admin = Admin(nodes)
        for shard in (0, 1):
            port = nodes.address(admin.replica(shard))["port"]
            primary = admin.primary(shard)
            wait_until(partial(admin.counts_as_online, primary, port))
        yield nodes


@pytest.fixture
def site(watched: LocalNodes) -> Iterator[LocalNodes]:
    watched.flush()
    with override_settings(RB_CLUSTERS={"default": settings(watched)}, CACHES=CACHES):
        yield watched
    clusters.reset()


def found(**config: Any) -> dict[str, str]:
    """Return what `check --tag rb_connect` says, by id, but for servers' memory."""
    clusters.reset()
    with override_settings(RB_CLUSTERS={"default": config}, CACHES=CACHES):
        messages = check_live_nodes()
    said = {str(message.id).removeprefix("django_rb."): message.msg for message in messages}
    return {name: text for name, text in said.items() if name not in {"W205", "W206"}}


def test_a_site_on_watched_shards(site: LocalNodes) -> None:
    cache.set_many({f"key{n}": n for n in range(50)})
    assert len(cache.get_many([f"key{n}" for n in range(50)])) == 50
    assert sum(Admin(site).ask(n, "DBSIZE") for n in (0, 1)) == 50
    status = StringIO()
    call_command("rb_status", stdout=status)
    admin = Admin(site)
    (row,) = [
        line.split()
        for line in status.getvalue().splitlines()
        if admin.address(2).removesuffix("/0") in line
    ]
    assert row[:3] == ["0", admin.address(0).removesuffix("/0"), "Sentinel"]
    assert row[-3:] == ["online", *row[-2:]]
    document = StringIO()
    call_command("rb_status", "--format", "json", stdout=document)
    for node in json.loads(document.getvalue())["nodes"]:
        assert node["said_by"].startswith("Sentinel 127.0.0.1:")
        assert node["up_since"] - 5 < node["primary_since"] <= time()
    flushed = StringIO()
    call_command("rb_flushall", interactive=False, stdout=flushed)
    assert flushed.getvalue().count("flushed") == 2
    assert Admin(site).ask(0, "DBSIZE") == 0
    keys = StringIO()
    cache.set("key", 1)
    call_command("rb_scan", stdout=keys)
    assert "key" in keys.getvalue()


def test_checks(watched: LocalNodes) -> None:
    sound = settings(watched)
    assert found(**sound) == {}
    two = found(**{**sound, "SENTINELS": sound["SENTINELS"][:2]})
    assert two == {"W209": two["W209"]}
    assert ": only 2 listed." in two["W209"]
    unknown = found(**{**sound, "HOSTS": {**watched.hosts, 2: {"master_name": "nobody"}}})
    assert "No Sentinel that answers knows 'nobody'" in unknown["E209"]
    assert "['HOSTS'][2]" in unknown["E209"]
    nowhere = found(**{**sound, "SENTINELS": ["redis://127.0.0.1:1"]})
    assert nowhere == {"E208": nowhere["E208"]}
    assert "No Sentinel answers" in nowhere["E208"]


def test_a_quorum_that_cannot_be_reached() -> None:
    with LocalNodes(1, topology="sentinel", failover_seconds=0.2) as nodes:
        admin = Admin(nodes)
        for number in (admin.first_sentinel, admin.first_sentinel + 1):
            nodes.kill(number)
        wait_until(lambda: "W211" in found(**settings(nodes)))
        assert "cannot be reached" in found(**settings(nodes))["W211"]


@pytest.mark.parametrize("is_old", [True, False])
def test_a_cache_moves_to_watched_shards_and_back(
    is_old: bool, watched: LocalNodes, nodes: LocalNodes, transport: str
) -> None:
    watched.flush()
    layouts = [settings(watched), {"HOSTS": nodes.hosts}]
    old, new = layouts if is_old else layouts[::-1]
    with override_settings(RB_CLUSTERS={"old": old, "default": new}):
        before, after, _ = make_caches()
        keys = [f"page:{n}" for n in range(50)]
        before.set_many(dict.fromkeys(keys, 7), 100)
        assert after.get(keys[0]) == 7
        assert after.incr(keys[1]) == 8
        assert after.delete(keys[2])
        after.set(keys[3], "new")
        found = {**dict.fromkeys(keys, 7), keys[1]: 8, keys[3]: "new"}
        del found[keys[2]]
        assert after.get_many(keys) == found
        assert 0 < (after.ttl(keys[0]) or 0) <= 100
        before.clear()
        assert after.get_many(keys) == found
    clusters.reset()


def test_sentinels_that_disagree() -> None:
    with LocalNodes(2, topology="sentinel", failover_seconds=30) as nodes:
        admin = Admin(nodes)
        place = nodes.address(1)
        odd = admin.first_sentinel + 2
        admin.ask(odd, "SENTINEL REMOVE", "node-0")
        admin.ask(odd, "SENTINEL MONITOR", "node-0", place["host"], place["port"], 2)
        said = found(**settings(nodes))["W210"]
        places = [admin.address(n).removesuffix("/0") for n in (0, 1)]
        of_odd = f"{places[1]} by {admin.address(odd)}"
        assert "disagree on the primary of 'node-0': " in said
        assert of_odd in said
        assert f"{places[0]} by {admin.address(odd - 2)} and {admin.address(odd - 1)}" in said


def test_local_nodes_on_request() -> None:
    result = django(
        "rb_nodes", "--topology", "sentinel", "--count", "1", "--format", "json", "--",
        "rb_status", "--format", "json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    started, end = json.JSONDecoder().raw_decode(result.stdout)
    assert [node["replica_of"] for node in started["nodes"]] == [None, 0, None, None, None]
    assert [node.get("is_sentinel") for node in started["nodes"]] == [None, None, *[True] * 3]
    status = json.loads(result.stdout[end:])
    port = started["nodes"][0]["port"]
    assert {node["address"] for node in status["nodes"]} == {f"127.0.0.1:{port}"}
