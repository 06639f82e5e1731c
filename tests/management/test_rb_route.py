"""manage.py rb_route: which node owns a key."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb.engine import Cluster, ConsistentHashingRouter, PartitionRouter, SlotRouter
from django_rb.management.commands.rb_route import BAR_CELLS, bar
from django_rb.testing import LocalNodes

from .calls import rows, run, run_and_fail, run_json
from .processes import django, on_nodes

UNREACHABLE = {"default": {"HOSTS": [{"port": 1}, {"port": 2}, {"port": 3}]}}
KEYS = ["page:1", "{user:7}:a", "{user:7}:b", "ключ"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


class TestKeys:
    def test_node_address_and_slot(self, cluster: Cluster) -> None:
        assert isinstance(cluster.router, SlotRouter)
        out = run("rb_route", *KEYS)
        assert out.split()[:5] == ["KEY", "NODE", "ADDRESS", "SLOT", "STATE"]
        for key, row in zip(KEYS, rows(out), strict=True):
            host_id = cluster.get_host_for_key(key)
            address = cluster.get_address(host_id)
            slot = str(cluster.router.get_slot(key))
            assert row == [key, f"default {host_id}", address, slot, "alive"]

    @pytest.mark.parametrize(
        ("router", "name"), [(PartitionRouter, "crc32"), (ConsistentHashingRouter, "point")]
    )
    def test_the_hash_of_other_routers(
        self, nodes: LocalNodes, router: type[Any], name: str
    ) -> None:
        cluster = Cluster(nodes.hosts, router_cls=router)
        config = {"default": {"HOSTS": nodes.hosts, "ROUTER": router}}
        with override_settings(RB_CLUSTERS=config):
            (document,) = run_json("rb_route", "page:1")["keys"]
            assert name.upper() in run("rb_route", "page:1").splitlines()[0]
        assert document["hash"] == cluster.router.explain("page:1")
        assert document["host_id"] == cluster.get_host_for_key("page:1")
        assert list(document["hash"]) == [name]

    def test_clusters_with_different_routers(self, nodes: LocalNodes) -> None:
        config = {
            "new": {"HOSTS": nodes.hosts},
            "old": {"HOSTS": nodes.hosts, "ROUTER": PartitionRouter},
        }
        with override_settings(RB_CLUSTERS=config):
            out = run("rb_route", "page:1", "--offline")
            only = run("rb_route", "page:1", "--cluster", "old", "--offline")
        assert out.split()[:5] == ["KEY", "NODE", "ADDRESS", "CRC32", "SLOT"]
        assert [row[1].split()[0] for row in rows(out)] == ["new", "old"]
        assert [row[1].split()[0] for row in rows(only)] == ["old"]

    def test_keys_of_a_cache(self, nodes: LocalNodes, cluster: Cluster) -> None:
        config = {
            "BACKEND": "django_rb.cache.RBCache",
            "KEY_PREFIX": "shop",
            "VERSION": 3,
        }
        with override_settings(CACHES={"default": config}):
            made = caches["default"].make_key("a b")
            assert made == "shop:3:a b"
            (document,) = run_json("rb_route", "a b", "--cache", "default")["keys"]
            assert made in run("rb_route", "a b", "--cache", "default")
        assert (document["key"], document["cache_key"]) == (made, "a b")
        host_id = cluster.get_host_for_key(made)
        assert (document["host_id"], document["database"]) == (host_id, 0)
        assert document["address"] == f"127.0.0.1:{nodes.hosts[host_id]['port']}"

    def test_keys_that_are_no_text(self, nodes: LocalNodes, cluster: Cluster) -> None:
        key = b"\xff\x00"
        as_typed = key.decode(errors="surrogateescape")  # as Python reads arguments
        (document,) = run_json("rb_route", as_typed)["keys"]
        assert document["key"] == {"base64": "/wA="}
        assert document["host_id"] == cluster.get_host_for_key(key)
        assert rows(run("rb_route", as_typed))[0][0] == r"\xff\x00"
        _, error = run_and_fail("rb_route", as_typed, "--cache", "default")
        assert error.startswith(r"\xff\x00 is not valid UTF-8, and keys of a cache are text.")

    def test_dead_nodes_are_told(self, own_nodes: LocalNodes) -> None:
        own_nodes.kill(1)
        keys = [f"page:{n}" for n in range(20)]
        out, error = run_and_fail("rb_route", *keys)
        assert error.startswith("1 of 4 nodes could not be queried:\ndefault 1: ")
        states = {row[1]: row[-1] for row in rows(out)}
        assert states == {
            "default 0": "alive",
            "default 1": "dead",
            "default 2": "alive",
            "default 3": "alive",
        }

    @override_settings(RB_CLUSTERS=UNREACHABLE)
    def test_offline_asks_nobody(self) -> None:
        assert len(rows(run("rb_route", *KEYS, "--offline"))) == len(KEYS)
        _, error = run_and_fail("rb_route", *KEYS)
        assert error.startswith("3 of 3 nodes could not be queried:")

    @pytest.mark.parametrize("args", [[], ["page:1", "--stdin"]])
    def test_either_keys_or_stdin(self, nodes: LocalNodes, args: list[str]) -> None:
        _, error = run_and_fail("rb_route", *args)
        assert error == "Give either keys or --stdin."


class TestDistribution:
    @pytest.fixture(autouse=True)
    def _nobody_is_asked(self) -> Iterator[None]:
        with override_settings(RB_CLUSTERS=UNREACHABLE):
            yield

    def test_counts_and_shares(self, typed: Any) -> None:
        keys = [f"page:{n}" for n in range(25_000)]
        typed("\n".join(keys).encode())
        document = json.loads(run("rb_route", "--stdin", "--offline", "--format", "json"))
        cluster = Cluster(UNREACHABLE["default"]["HOSTS"], router_cls=SlotRouter)
        expected = Counter(map(cluster.get_host_for_key, keys))
        assert document["keys"] == 25_000
        assert {node["host_id"]: node["keys"] for node in document["nodes"]} == expected
        assert sum(node["share"] for node in document["nodes"]) == pytest.approx(1)

    def test_a_chart(self, typed: Any) -> None:
        typed(b"{a}1\n{a}2\n{a}3\n" + b"\n".join(b"page:%d" % n for n in range(100)))
        *table, _, total = run("rb_route", "--stdin", "--offline").splitlines()
        assert table[0].split() == ["NODE", "KEYS", "SHARE", "DISTRIBUTION"]
        assert total == "103 keys"
        counts = {row[0]: (int(row[1]), row[3].count("█")) for row in rows("\n".join(table))}
        most = max(count for count, _ in counts.values())
        for count, cells in counts.values():
            assert cells == pytest.approx(count / most * BAR_CELLS, abs=1)
        assert max(map(len, table)) <= 80

    @pytest.mark.parametrize("data", [b"a\r\nb\r\n", b"\na\n\nb", b"a\nb\n"])
    def test_lines(self, typed: Any, data: bytes) -> None:
        typed(data)
        by_line = run_json("rb_route", "--stdin", "--offline")
        keys = run_json("rb_route", "a", "b", "--offline")["keys"]
        owners = Counter(key["host_id"] for key in keys)
        assert by_line["keys"] == 2
        assert {n["host_id"]: n["keys"] for n in by_line["nodes"] if n["keys"]} == owners

    def test_keys_of_a_cache(self, typed: Any) -> None:
        typed("ключ\n".encode())
        document = run_json("rb_route", "--stdin", "--offline", "--cache", "default")
        (key,) = run_json("rb_route", "ключ", "--offline", "--cache", "default")["keys"]
        owners = [node["host_id"] for node in document["nodes"] if node["keys"]]
        assert owners == [key["host_id"]]

    def test_bytes(self, typed: Any) -> None:
        typed(b"\xff\x00\n")
        assert run_json("rb_route", "--stdin", "--offline")["keys"] == 1

    def test_no_keys(self, typed: Any) -> None:
        typed(b"")
        out = run("rb_route", "--stdin", "--offline")
        assert out.endswith("\n0 keys\n")
        assert "0.0%" in out

    def test_a_terminal_that_knows_ascii_only(self, nodes: LocalNodes) -> None:
        env = {**on_nodes(default=nodes.hosts), "PYTHONIOENCODING": "ascii"}
        done = django("rb_route", "--stdin", answer="a\nb\nc\n", env=env)
        assert done.returncode == 0
        assert f" {'#' * BAR_CELLS} " in done.stdout


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "█" * BAR_CELLS), (0.5, "█" * (BAR_CELLS // 2)), (0, ""), (1 / BAR_CELLS / 2, "▌")],
)
def test_bars(share: float, text: str) -> None:
    assert bar(share, None) == bar(share, "utf-8") == text
