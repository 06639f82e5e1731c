"""Keys and values as the pages show them, whatever somebody has stored."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import cached, get_cache
from django_rb.contrib.admin.values import MOST_SHOWN
from django_rb.testing import LocalNodes
from tests.tables import for_each

from .admin_site import IN_ADMIN, key_url, log_in, text_of

NASTY = "</code><script>alert(1)</script>"
ran: list[str] = []


class Bomb:
    """Tells when it is unpickled."""

    def __reduce__(self) -> Any:
        return ran.append, ("unpickled",)


def store(key: bytes, value: bytes) -> None:
    clusters["default"].get_routing_client().set(key, value)


def look(where: str, key: bytes) -> str:
    """Return what a page says of a key, having made sure that nothing on it runs."""
    answer = log_in("view").get(key_url("key/", where, key))
    html = answer.content.decode()
    assert "<script>alert" not in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)
    return text_of(answer)


def listed(where: str, pattern: str = "*") -> str:
    answer = log_in("view").get(f"{IN_ADMIN}keys/", {"where": where, "pattern": pattern})
    html = answer.content.decode()
    assert "<script>alert" not in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)
    return text_of(answer)


class TestKeys:
    @for_each(
        ("key", "shown"),
        [
            (NASTY.encode(), NASTY),
            (b"a\x1b[2Jb\nc\x00", r"a\x1b[2Jb\nc\x00"),
            (b"\xff\xfe binary", r"\xff\xfe binary"),
            ("\u202egnp.exe".encode(), r"\xe2\x80\xaegnp.exe"),
            (b'" onfocus="alert(1)', '" onfocus="alert(1)'),
            (b"", ""),
        ],
    )
    def test_whatever_a_key_is(self, site: LocalNodes, key: bytes, shown: str) -> None:
        site.flush()
        store(key, NASTY.encode())
        page = listed("cluster:default")
        assert f"{shown} string for ever" in page
        text = look("cluster:default", key)
        assert f"Key {shown} In cluster default" in " ".join(text.split()) or not shown
        assert f"Value {NASTY}" in text
        assert "never expires" in text

    def test_of_a_cache(self, site: LocalNodes) -> None:
        get_cache("json").set("page:1", 1, 100)
        get_cache("json").set("other", 1, None)
        caches["default"].set("page:1", 1)
        text = listed("cache:json", "page:*")
        assert re.search(r"page:1 string 1 min 3\d s \d+ B default \d 1 key", text)
        assert "other" not in text
        assert "local" not in text

    def test_a_key_that_is_typed(self, site: LocalNodes) -> None:
        caches["default"].set("page:1", 1)
        client = log_in("view")
        typed = {"where": "cache:default", "pattern": "page:1"}
        answer = client.get(f"{IN_ADMIN}keys/", typed)
        assert answer.headers["Location"] == key_url("key/", "cache%3Adefault", b":1:page:1")
        text = text_of(client.get(f"{IN_ADMIN}keys/", {**typed, "pattern": "page"}))
        assert "There is no key page in cache default. Search for *page*" in text
        text = text_of(client.get(f"{IN_ADMIN}keys/", {**typed, "pattern": "[a"}))
        assert "contains a '[' without a ']'" in text

    def test_page_by_page(self, site: LocalNodes) -> None:
        caches["default"].set_many({f"key:{n}": n for n in range(500)})
        client, url, found, pages = log_in("view"), f"{IN_ADMIN}keys/?pattern=key:*", set(), 0
        while url:
            answer = client.get(url)
            found |= set(re.findall(r">(key:\d+)<", answer.content.decode()))
            more = re.findall(r'href="([^"]+)">Next keys', answer.content.decode())
            url = more[0].replace("&amp;", "&") if more else ""
            pages += 1
        assert found == {f"key:{n}" for n in range(500)}
        assert 2 < pages < 10

    def test_rare_matches_are_found_in_one_go(self, site: LocalNodes) -> None:
        caches["default"].set_many({f"key:{n}": n for n in range(3000)})
        assert "key:7 string" in listed("cache:default", "key:[7]")

    @for_each("at", ["x", "0-x", "9-5", "0--1", "-", "0-1.x", "²-1"])
    def test_a_place_that_is_none(self, site: LocalNodes, at: str) -> None:
        assert log_in("view").get(f"{IN_ADMIN}keys/", {"at": at}).status_code == 200

    @pytest.mark.parametrize("query", ["where=cache:none", "where=x", "where=cache:local"])
    def test_a_cache_that_is_none(self, site: LocalNodes, query: str) -> None:
        assert log_in("view").get(f"{IN_ADMIN}keys/?{query}").status_code == 404

    def test_a_key_that_is_none(self, site: LocalNodes) -> None:
        assert "The key was not found on default" in look("cluster:default", b"none")
        assert log_in("view").get(f"{IN_ADMIN}keys/key/?key=%C3%A4").status_code == 404


class TestValues:
    def test_a_pickle_that_nobody_signed_is_not_unpickled(self, site: LocalNodes) -> None:
        store(b":1:bomb", pickle.dumps(Bomb()))
        for where in ("cache:default", "cluster:default", "cache:signed", "cache:json"):
            key = b"signed:1:bomb" if where == "cache:signed" else b":1:bomb"
            store(key, pickle.dumps(Bomb()))
            text = look(where, key)
            assert "unpickled" in text  # as the bytes that are stored
        assert "decoding it could run code" in look("cache:default", b":1:bomb")
        assert ran == []

    def test_a_pickle_is_shown_if_the_setting_says_so(self, site: LocalNodes) -> None:
        caches["default"].set("key", {"name": NASTY})
        with override_settings(RB_ADMIN={"SHOW_PICKLES": True}):
            text = look("cache:default", b":1:key")
        assert f"Value decoded as the cache does {{'name': '{NASTY}'}}" in text

    def test_a_signed_pickle_is_shown(self, site: LocalNodes) -> None:
        get_cache("signed").set("key", {"a": (1, 2)})
        assert "decoded as the cache does {'a': (1, 2)}" in look(
            "cache:signed", b"signed:1:key"
        )

    def test_what_another_key_signed_is_not(self, site: LocalNodes) -> None:
        get_cache("signed").set("key", {"a": (1, 2)})
        client: Any = clusters["default"].get_routing_client()
        store(b"signed:1:moved", client.get(b"signed:1:key"))
        store(b"signed:1:bomb", b"\xc1h" + bytes(32) + pickle.dumps(Bomb()))
        for key in (b"signed:1:moved", b"signed:1:bomb"):
            assert "it was not signed for this key with" in look("cache:signed", key)
        assert ran == []

    def test_json_and_numbers(self, site: LocalNodes) -> None:
        get_cache("json").set("key", {"names": ["ann", NASTY]})
        caches["default"].set("number", -7)
        assert f"{{'names': ['ann', '{NASTY}']}}" in look("cache:json", b"json:1:key")
        assert "decoded as the cache does -7" in look("cache:default", b":1:number")

    def test_what_cannot_be_read(self, site: LocalNodes) -> None:
        store(b"json:1:key", b"{")
        text = look("cache:json", b"json:1:key")
        assert "The cache cannot decode it: JSONDecodeError: " in text
        with override_settings(RB_ADMIN={"SHOW_PICKLES": True}):
            store(b":1:key", b"\x80\x05no pickle")
            assert "The cache cannot decode it: UnpicklingError" in look(
                "cache:default", b":1:key"
            )

    def test_large_values(self, site: LocalNodes) -> None:
        get_cache("json").set("key", "x" * 100_000)
        text = look("cache:json", b"json:1:key")
        assert f"The first {MOST_SHOWN:,} of " in text
        assert "97.7 KiB stored" in text
        assert len(text) < 2 * MOST_SHOWN
        store(b"json:1:large", b'"' + b"x" * 3_000_000 + b'"')
        assert "The first 1.00 MiB of 2.86 MiB, as stored." in look(
            "cache:json", b"json:1:large"
        )
        store(b"binary", bytes(range(256)) * 400)
        assert r"\x00\x01\x02" in look("cluster:default", b"binary")
        store(b"empty", b"")
        assert "It is empty." in look("cluster:default", b"empty")

    def test_computed_values(self, site: LocalNodes) -> None:
        @cached(timeout=100, stale=50, cache="json", key="sum")
        def compute() -> int:
            return 1

        compute()
        (key,) = [key for key in all_keys(site) if b"sum" in key]
        text = look("cache:json", key)
        said = (
            r"A computed value: fresh for 1 min 3\d s more; it took \d+\.\d\d ms to compute. 1$"
        )
        assert re.search(said, text)

    def test_other_types(self, site: LocalNodes) -> None:
        client = clusters["default"].get_routing_client()
        client.hset("hash", mapping={NASTY: b"\x1b[2J\xff"})
        client.rpush("list", *range(300))
        client.zadd("zset", {"ann": 1.5})
        assert rf"field value {NASTY} \x1b[2J\xff" in look("cluster:default", b"hash")
        text = look("cluster:default", b"list")
        assert "300 elements" in text
        assert "The first 100 of 300 elements." in text
        assert "member score ann 1.5" in look("cluster:default", b"zset")
        assert "list for ever" in listed("cluster:default", "lis*")


def all_keys(nodes: LocalNodes) -> list[bytes]:
    found: list[bytes] = []
    for host in nodes.hosts.values():
        with redis.Redis(**host) as client:
            found += client.keys("*")
    return found
