"""What the pages change: after they have asked, and with an entry in the admin's log."""

from __future__ import annotations

import logging

import pytest
import redis
from django.contrib.admin.models import LogEntry
from django.core.cache import caches
from django.test import Client, override_settings

from django_rb import clusters
from django_rb.cache import cached, get_cache
from django_rb.contrib.admin.where import to_text
from django_rb.testing import LocalNodes
from tests.tables import for_each

from .admin_site import ALONE, IN_ADMIN, log_in, text_of

CACHE = "cache:default"
KEY = {"where": CACHE, "key": to_text(b":1:key")}


@pytest.fixture
def client(site: LocalNodes) -> Client:
    caches["default"].set("key", 1, 100)
    return log_in("view", "change", "delete", "flush")


def entries() -> list[tuple[str, str, int, str]]:
    """Return the admin's log: what was changed, of which node or cluster, how."""
    return [
        (entry.object_repr, entry.object_id or "", entry.action_flag, entry.change_message)
        for entry in LogEntry.objects.order_by("pk")
    ]


def owner(key: str) -> int:
    return clusters["default"].get_host_for_key(f":1:{key}")


class TestExpiry:
    def test_a_time(self, client: Client) -> None:
        asked = client.get(f"{IN_ADMIN}keys/key/expiry/", KEY)
        assert "Time to live</dt><dd>1 min" in asked.content.decode()
        assert 90 < (get_cache().ttl("key") or 0) <= 100
        answer = client.post(f"{IN_ADMIN}keys/key/expiry/", {**KEY, "seconds": "5000"})
        assert "It expires in 5,000 seconds." in text_of(answer)
        assert 4990 < (get_cache().ttl("key") or 0) <= 5000
        node = f"default.{owner('key')}"
        assert entries() == [(":1:key", node, 2, "It expires in 5,000 seconds.")]
        url = LogEntry.objects.get().get_admin_url()
        assert url is not None
        assert f"Node {owner('key')} of default" in text_of(client.get(url))

    def test_never(self, client: Client) -> None:
        answer = client.post(f"{IN_ADMIN}keys/key/expiry/", {**KEY, "never": "on"})
        assert "It never expires." in text_of(answer)
        assert get_cache().ttl("key") is None

    @for_each("typed", ["", "0", "-1", "1.5", "²", "9" * 30, "one"])
    def test_no_time(self, client: Client, typed: str) -> None:
        answer = client.post(f"{IN_ADMIN}keys/key/expiry/", {**KEY, "seconds": typed})
        assert "Enter either a whole number of seconds, 1 or more" in text_of(answer)
        assert get_cache().ttl("key")
        assert entries() == []

    def test_of_a_computed_value(self, client: Client) -> None:
        @cached(timeout=100, stale=50, key="sum")
        def compute() -> int:
            return 1

        compute()
        (key,) = get_cache().keys("*sum*")
        where = {"where": CACHE, "key": to_text(f":1:{key}".encode())}
        client.post(f"{IN_ADMIN}keys/key/expiry/", {**where, "seconds": "5000"})
        assert 4990 < (get_cache().ttl(key) or 0) <= 5000

    def test_of_a_key_that_has_gone(self, client: Client) -> None:
        caches["default"].delete("key")
        answer = client.post(f"{IN_ADMIN}keys/key/expiry/", {**KEY, "seconds": "5000"})
        assert "The key was not found" in text_of(answer)
        assert entries() == []


class TestDeletion:
    def test_one_key(self, client: Client) -> None:
        assert "Delete this key?" in text_of(client.get(f"{IN_ADMIN}keys/key/delete/", KEY))
        assert caches["default"].get("key") == 1
        answer = client.post(f"{IN_ADMIN}keys/key/delete/", KEY)
        assert "Deleted." in text_of(answer)
        assert caches["default"].get("key") is None
        assert entries() == [(":1:key", f"default.{owner('key')}", 3, "Deleted.")]

    def test_a_binary_key_of_which_the_log_is_readable(self, client: Client) -> None:
        clusters["default"].get_routing_client().set(b"\x00\xff\n", 1)
        key = {"where": "cluster:default", "key": to_text(b"\x00\xff\n")}
        assert "Deleted." in text_of(client.post(f"{IN_ADMIN}keys/key/delete/", key))
        assert entries()[0][0] == r"\x00\xff\n"

    def test_no_session_is_told_to_the_log(self, client: Client) -> None:
        session = "django.contrib.sessions.cache" + "k3j4h5g6" * 4
        caches["default"].set(session, 1)
        key = {"where": CACHE, "key": to_text(f":1:{session}".encode())}
        client.post(f"{IN_ADMIN}keys/key/delete/", key)
        assert "k3j4h5g6k3j4" not in entries()[0][0]

    def test_those_that_match(self, client: Client) -> None:
        caches["default"].set_many({f"page:{n}": n for n in range(300)})
        match = {"where": CACHE, "pattern": "page:*"}
        text = text_of(client.get(f"{IN_ADMIN}keys/delete/", match))
        assert "300 keys in cache default match page:* ." in text
        assert text.count(" page:") == 1 + 20
        assert len(get_cache().keys("page:*")) == 300
        answer = client.post(f"{IN_ADMIN}keys/delete/", match)
        assert "300 keys deleted." in text_of(answer)
        assert get_cache().keys() == ["key"]
        assert entries() == [("cache default: page:*", "default", 3, "300 keys deleted.")]
        text = text_of(client.get(f"{IN_ADMIN}keys/delete/", match))
        assert "No key in cache default matches page:*" in text
        for pattern in ("", "[a"):
            answer = client.post(f"{IN_ADMIN}keys/delete/", {**match, "pattern": pattern})
            assert "Escape a special" in text_of(answer) or "matches no key" in text_of(answer)
        assert get_cache().keys() == ["key"]

    def test_every_key(self, client: Client) -> None:
        clusters["default"].get_routing_client().set("anybody's", 1)
        match = {"where": "cluster:default", "pattern": "*"}
        text = text_of(client.get(f"{IN_ADMIN}keys/delete/", match))
        assert "match * : every key, including keys of other programs ." in text
        text = text_of(client.get(f"{IN_ADMIN}keys/delete/", {**match, "where": CACHE}))
        assert "1 key in cache default matches * : every key ." in text


class TestFlush:
    @pytest.fixture(autouse=True)
    def fill(self, client: Client) -> None:
        caches["default"].set_many({f"page:{n}": n for n in range(40)})

    def sizes(self, nodes: LocalNodes) -> list[int]:
        found = []
        for host in nodes.hosts.values():
            with redis.Redis(**host) as client:
                found.append(client.dbsize())
        return found

    def test_a_cluster(
        self, site: LocalNodes, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = text_of(client.get(f"{IN_ADMIN}flush/?cluster=default"))
        assert text.count("Every key of these nodes will be deleted") == 1
        assert "uses it: 41 keys." in text
        for typed in ("", "Default", "default 0"):
            flush = {"cluster": "default", "typed": typed}
            assert "Type 'default' to confirm." in text_of(client.post(f"{ALONE}flush/", flush))
        assert sum(self.sizes(site)) == 41
        with caplog.at_level(logging.INFO, "django_rb.admin"):
            client.post(f"{ALONE}flush/", {"cluster": "default", "typed": "default"})
        assert self.sizes(site) == [0, 0, 0, 0]
        said = "Flush: " + ", ".join(f"default {n}: emptied" for n in range(4))
        assert entries() == [("default", "default", 3, said)]
        assert caplog.messages == [f"default on default by user0: {said}"]

    def test_a_node(self, site: LocalNodes, client: Client) -> None:
        before = self.sizes(site)
        flush = {"cluster": "default", "host": "2", "typed": "default 2"}
        text = text_of(client.get(f"{IN_ADMIN}flush/?cluster=default&host=2"))
        assert (
            f"of this node will be deleted, whichever cache or program uses it: {before[2]} key"
            in text
        )
        assert "default 2 emptied" in text_of(client.post(f"{IN_ADMIN}flush/", flush))
        assert self.sizes(site) == [before[0], before[1], 0, before[3]]
        assert entries() == [("default 2", "default.2", 3, "Flush: default 2: emptied")]

    @pytest.mark.parametrize("query", ["", "cluster=x", "cluster=default&host=9"])
    def test_nothing_there(self, client: Client, query: str) -> None:
        assert client.get(f"{IN_ADMIN}flush/?{query}").status_code == 404

    def test_others_of_the_same_database_are_named(
        self, site: LocalNodes, client: Client
    ) -> None:
        other = {host_id: {**host, "db": 1} for host_id, host in site.hosts.items()}
        config = {"default": site.hosts, "same": site.hosts, "apart": other}
        with override_settings(
            RB_CLUSTERS={alias: {"HOSTS": hosts} for alias, hosts in config.items()}
        ):
            text = text_of(client.get(f"{IN_ADMIN}flush/?cluster=default"))
        assert "Other clusters use the same databases: same." in text
