"""manage.py rb_get: what is stored under a key."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes

from .calls import plain, run, run_and_fail, run_json
from .processes import Terminal, django, on_nodes


@pytest.fixture
def client(cluster: Cluster) -> redis.Redis:
    return cluster.get_routing_client()


def entry(*args: str) -> dict[str, Any]:
    """Return the only entry that the command finds."""
    (found,) = run_json("rb_get", *args)["entries"]
    assert isinstance(found, dict)
    return found


class TestString:
    def test_as_people_read_it(self, client: redis.Redis, cluster: Cluster) -> None:
        client.set("page:1", "text", ex=250)
        host_id = cluster.get_host_for_key("page:1")
        lines = run("rb_get", "page:1").splitlines()
        assert lines[:3] == [
            "Key   page:1",
            f"Node  default {host_id}, {cluster.get_address(host_id)}",
            "Type  string",
        ]
        assert re.fullmatch(r"TTL   (4 min \d+ s|\d+ s)", lines[3])
        assert re.fullmatch(r"Size  4 B stored, \d+ B of memory", lines[4])
        assert lines[5:] == ["", "text"]

    def test_as_programs_read_it(self, client: redis.Redis, cluster: Cluster) -> None:
        client.set("page:1", "text")
        host_id = cluster.get_host_for_key("page:1")
        found = entry("page:1")
        assert found.pop("memory") >= 4
        assert found == {
            "key": "page:1",
            "cluster": "default",
            "host_id": host_id,
            "address": f"127.0.0.1:{cluster.hosts[host_id].port}",
            "database": 0,
            "type": "string",
            "ttl": None,
            "length": 4,
            "problem": None,
            "value": "text",
        }

    def test_a_time_to_live(self, client: redis.Redis) -> None:
        client.set("page:1", "text", px=500_500)
        assert 400 < entry("page:1")["ttl"] <= 500.5
        assert "\nTTL   8 min " in run("rb_get", "page:1")
        client.persist("page:1")
        assert "\nTTL   never expires\n" in run("rb_get", "page:1")

    def test_bytes(self, client: redis.Redis) -> None:
        client.set(b"\xff\n", b"\x00\xfe\x1b[31m")
        key = b"\xff\n".decode(errors="surrogateescape")  # as Python reads arguments
        out = run("rb_get", key)
        assert out.startswith("Key   \\xff\\n\n")
        assert out.endswith("\n\n\\x00\\xfe\\x1b[31m\n")
        assert b64decode(entry(key)["value"]["base64"]) == b"\x00\xfe\x1b[31m"

    def test_a_long_one(self, client: redis.Redis) -> None:
        client.set("page:1", "0123456789" * 1000)
        out = run("rb_get", "page:1", "--limit", "3")
        *_, first, second, third, more = out.splitlines()
        assert first == second == third == "0123456789" * 8
        assert more == "… 240 of 10,000 bytes. --limit shows more."
        assert entry("page:1", "--limit", "3")["value"] == "0123456789" * 1000

    def test_an_empty_one(self, client: redis.Redis) -> None:
        client.set("page:1", "")
        assert (entry("page:1")["value"], entry("page:1")["length"]) == ("", 0)
        assert "Size  0 B stored, " in run("rb_get", "page:1")


class TestOtherTypes:
    def test_a_hash(self, client: redis.Redis) -> None:
        client.hset("h", mapping={"name": "Ann", "b\n": b"\xff"})
        out = run("rb_get", "h")
        assert "\nType  hash\n" in out
        assert "\nSize  2 elements, " in out
        assert out.endswith("\nFIELD  VALUE\nname   Ann\nb\\n    \\xff\n")
        assert entry("h")["value"] == [
            {"field": "name", "value": "Ann"},
            {"field": "b\n", "value": {"base64": "/w=="}},
        ]

    def test_a_list(self, client: redis.Redis) -> None:
        client.rpush("l", *range(100))
        assert entry("l")["value"] == [str(n) for n in range(20)]
        assert entry("l", "--limit", "2")["value"] == ["0", "1"]
        assert entry("l")["length"] == 100
        assert run("rb_get", "l", "--limit", "2").endswith(
            "\nVALUE\n0\n1\n… 2 of 100 elements. --limit shows more.\n"
        )

    def test_a_set(self, client: redis.Redis) -> None:
        client.sadd("s", "a")
        assert entry("s")["value"] == ["a"]
        out = run("rb_get", "s")
        assert "\nSize  1 element, " in out
        assert out.endswith("\nMEMBER\na\n")

    @pytest.mark.parametrize("size", [50, 5000])  # the server keeps them differently
    @pytest.mark.parametrize("command", ["SADD", "HSET"])
    def test_the_beginning_of_a_large_one(
        self, client: redis.Redis, size: int, command: str
    ) -> None:
        per_element = ("m{}", "v{}")[: 1 + (command == "HSET")]
        args = [part.format(n) for n in range(size) for part in per_element]
        run_command: Any = client.execute_command
        run_command(command, "large", *args)
        found = entry("large", "--limit", "10")
        assert len(found["value"]) == 10
        assert found["length"] == size

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_a_sorted_set(self, nodes: LocalNodes, client: redis.Redis, protocol: int) -> None:
        client.zadd("z", {"a": "-inf", "b": 1.5, "c": 2, "d": 1e30, "e": "inf"})
        config = {"default": {"HOSTS": nodes.hosts, "POOL_OPTIONS": {"protocol": protocol}}}
        with override_settings(RB_CLUSTERS=config):
            out, found = run("rb_get", "z"), entry("z")
        table = out.partition("\nMEMBER  SCORE\n")[2]
        assert table.split() == ["a", "-inf", "b", "1.5", "c", "2", "d", "1e+30", "e", "inf"]
        scores = {one["member"]: one["score"] for one in found["value"]}
        assert scores == {"a": "-inf", "b": 1.5, "c": 2.0, "d": 1e30, "e": "inf"}

    def test_a_stream(self, client: redis.Redis) -> None:
        client.xadd("x", {"name": "Ann", "age": 7}, id="5-1")
        assert run("rb_get", "x").endswith("\nID   FIELDS\n5-1  name Ann age 7\n")
        assert entry("x")["value"] == [{"id": "5-1", "fields": ["name", "Ann", "age", "7"]}]

    def test_long_elements_are_shortened_for_people(self, client: redis.Redis) -> None:
        client.rpush("l", "x" * 10_000)
        out = run("rb_get", "l")
        assert max(map(len, out.splitlines())) <= 80
        assert out.count("x") == 239 + out.count("expires")
        assert out.rstrip().endswith("x…")
        assert entry("l")["value"] == ["x" * 10_000]


class TestCache:
    def test_a_decoded_value(self, nodes: LocalNodes, cluster: Cluster) -> None:
        caches["default"].set("user:7", {"name": "Ann", "groups": [1, 2]})
        out = run("rb_get", "user:7", "--cache", "default")
        assert out.startswith("Key   :1:user:7\n")
        assert out.endswith("\n\n{'groups': [1, 2], 'name': 'Ann'}\n")
        found = entry("user:7", "--cache", "default")
        assert found["cache_key"] == "user:7"
        assert found["value"] == {"name": "Ann", "groups": [1, 2]}
        assert found["host_id"] == cluster.get_host_for_key(":1:user:7")

    def test_none_is_a_value(self, nodes: LocalNodes) -> None:
        caches["default"].set("nothing", None)
        assert run("rb_get", "nothing", "--cache", "default").endswith("\n\nNone\n")
        assert entry("nothing", "--cache", "default")["value"] is None

    def test_what_json_cannot_say(self, nodes: LocalNodes) -> None:
        caches["default"].set("object", {1j, 2j})
        found = entry("object", "--cache", "default")
        assert found["repr"] in {"{1j, 2j}", "{2j, 1j}"}
        assert "value" not in found

    @pytest.mark.parametrize(
        "value",
        [
            float("inf"),
            [float("nan")],
            {1: "a", "1": "b"},
            {None: 1},
            (1, 2),
            "\ud83d\ude00",  # two halves of a character, which JSON joins
        ],
        ids=repr,
    )
    def test_what_json_would_say_wrongly(self, nodes: LocalNodes, value: object) -> None:
        caches["default"].set("object", value)
        found = entry("object", "--cache", "default")
        assert found["repr"] == repr(value)
        assert "value" not in found

    def test_a_long_value(self, nodes: LocalNodes) -> None:
        caches["default"].set("long", list(range(1000)))
        out = run("rb_get", "long", "--cache", "default", "--limit", "5")
        assert out.splitlines()[-6:-1] == ["[0,", " 1,", " 2,", " 3,", " 4,"]
        assert out.endswith("… 5 of 1,000 lines. --limit shows more.\n")

    def test_a_value_moves_no_cursor(self, nodes: LocalNodes) -> None:
        caches["default"].set("object", Rude())
        out = run("rb_get", "object", "--cache", "default")
        assert out.endswith("\n\n<Rude \\x1b[2J>\n")

    def test_bytes_that_cannot_be_decoded(self, client: redis.Redis) -> None:
        client.set(":1:page", b"\x80\x05no pickle")
        out = run("rb_get", "page", "--cache", "default")
        assert "\nThe cache cannot decode it: UnpicklingError: " in out
        assert out.endswith("\n\\x80\\x05no pickle\n")
        found = entry("page", "--cache", "default")
        assert found["problem"].startswith("The cache cannot decode it: UnpicklingError: ")
        assert b64decode(found["value"]["base64"]) == b"\x80\x05no pickle"

    def test_a_value_that_somebody_else_wrote(self, client: redis.Redis) -> None:
        options = {"SIGNING_KEY": "k" * 32}
        config = {"BACKEND": "django_rb.cache.RBCache", "OPTIONS": options}
        with override_settings(CACHES={"default": config}):
            caches["default"].set("mine", [1, 2])
            assert run("rb_get", "mine", "--cache", "default").endswith("\n\n[1, 2]\n")
            client.set(":1:page", b"forged")
            out = run("rb_get", "page", "--cache", "default")
        assert "\nThe cache treats this value as a miss: its signature is invalid, " in out
        assert out.endswith("\nforged\n")

    def test_a_value_that_is_no_string(self, client: redis.Redis) -> None:
        client.hset(":1:page", mapping={"a": 1})
        out = run("rb_get", "page", "--cache", "default")
        assert "\nThis is a hash. Values of a cache are strings.\n" in out
        assert out.endswith("\nFIELD  VALUE\na      1\n")

    def test_nothing_is_unpickled_without_the_cache(self, nodes: LocalNodes) -> None:
        caches["default"].set("object", Loud())
        run("rb_get", ":1:object")
        assert Loud.unpickled == 0
        run("rb_get", "object", "--cache", "default")
        assert Loud.unpickled == 1


class Rude:
    def __repr__(self) -> str:
        return "<Rude \x1b[2J>"


class Loud:
    unpickled = 0

    def __setstate__(self, state: object) -> None:
        Loud.unpickled += 1

    def __getstate__(self) -> object:
        return {"some": "state"}


class TestWhere:
    def test_there_is_no_such_key(self, nodes: LocalNodes, cluster: Cluster) -> None:
        host_id = cluster.get_host_for_key("page:1")
        out, error = run_and_fail("rb_get", "page:1")
        assert out == ""
        where = f"default {host_id} ({cluster.get_address(host_id)})"
        assert error == f"Key page:1 was not found on its node: {where}."
        done = django("rb_get", "page:1", "--format", "json", env=on_nodes(default=nodes.hosts))
        assert (done.returncode, done.stdout) == (1, '{\n  "entries": [],\n  "errors": []\n}\n')

    def test_in_several_clusters(self, nodes: LocalNodes) -> None:
        config = {
            "default": {"HOSTS": nodes.hosts},
            "other": {"HOSTS": nodes.hosts, "HOST_DEFAULTS": {"db": 1}},
        }
        with override_settings(RB_CLUSTERS=config):
            client = clusters["other"].get_routing_client()
            client.set("page:1", "other")
            assert entry("page:1")["cluster"] == "other"
            _, error = run_and_fail("rb_get", "page:1", "--cluster", "default")
            assert "default" in error
            assert "other" not in error
            clusters["default"].get_routing_client().set("page:1", "default")
            found = run_json("rb_get", "page:1")["entries"]
            assert [one["value"] for one in found] == ["default", "other"]
            assert run("rb_get", "page:1").count("Key   page:1\n") == 2
            client.delete("page:1")

    @pytest.mark.parametrize("fault", ["kill", "pause"])
    def test_its_node_is_dead(self, own_nodes: LocalNodes, fault: str) -> None:
        cluster = clusters["default"]
        host_id = cluster.get_host_for_key("page:1")
        cluster.get_routing_client().set("page:1", "text")
        getattr(own_nodes, fault)(host_id)
        out, error = run_and_fail("rb_get", "page:1", "--timeout", "0.5")
        assert out == ""
        assert error.startswith(f"1 of 1 node could not be queried:\ndefault {host_id}: ")
        out, _ = run_and_fail("rb_get", "page:1", "--timeout", "0.5", "--format", "json")
        document = json.loads(out)
        (failure,) = document["errors"]
        assert failure.pop("error")
        assert document["entries"] == []
        assert failure == {
            "cluster": "default",
            "host_id": host_id,
            "address": f"127.0.0.1:{own_nodes.hosts[host_id]['port']}",
            "database": 0,
        }

    def test_other_nodes_are_not_asked(self, own_nodes: LocalNodes) -> None:
        cluster = clusters["default"]
        host_id = cluster.get_host_for_key("page:1")
        cluster.get_routing_client().set("page:1", "text")
        for other in {0, 1, 2, 3} - {host_id}:
            own_nodes.kill(other)
        assert entry("page:1")["value"] == "text"

    def test_a_node_that_does_not_tell_the_size(self) -> None:
        rules = ["default", "on", "nopass", "~*", "&*", "+@all", "-memory"]
        with LocalNodes(1, options={"user": rules}) as nodes:
            with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}}):
                clusters["default"].get_local_client(0).set("page:1", "text")
                assert entry("page:1")["memory"] is None
                assert "\nSize  4 B stored\n" in run("rb_get", "page:1")
            clusters.reset()

    def test_on_a_terminal(self, client: redis.Redis, nodes: LocalNodes) -> None:
        client.hset("k" * 100, mapping={"f" * 50: "v" * 100})
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_get", "k" * 100, env=env) as terminal:
            status, said = terminal.read_to_end()
        assert status == 0
        assert max(map(len, plain(said))) == 80
        assert said.count("v") == 100 + said.count("never")
