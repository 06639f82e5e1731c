"""Which client a request comes from, behind proxies and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings

from django_rb.ratelimit.addresses import address_key, client_address, parse_address
from tests.tables import for_each


@pytest.fixture(autouse=True)
def _cluster() -> Iterator[None]:
    """Nothing is asked of it."""
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": ["redis://127.0.0.1:1"]}}):
        yield


def address(peer: str | None, forwarded: str | None = None, trusted: Any = None) -> str:
    request = RequestFactory().get("/")
    request.META.pop("REMOTE_ADDR")
    if peer is not None:
        request.META["REMOTE_ADDR"] = peer
    if forwarded is not None:
        request.META["HTTP_X_FORWARDED_FOR"] = forwarded
    with override_settings(RATELIMIT_TRUSTED_PROXIES=trusted):
        return str(client_address(request))


@for_each("trusted", [None, 0, [], ["192.0.2.0/24"], ["unix"]])
def test_a_header_is_not_believed_unless_a_proxy_is_trusted(trusted: Any) -> None:
    assert address("10.0.0.1", "1.2.3.4", trusted) == "10.0.0.1"


@for_each(
    ("hops", "forwarded", "found"),
    [
        (1, "1.2.3.4", "1.2.3.4"),
        (1, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (2, "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        (2, "1.2.3.4", "1.2.3.4"),
        (1, "", "10.0.0.1"),
        (1, None, "10.0.0.1"),
        (1, "1.2.3.4,", "10.0.0.1"),
        (1, "1.2.3.4, unknown", "10.0.0.1"),
        (2, "1.2.3.4, unknown, 10.0.0.2", "10.0.0.2"),
        (1, "1.2.3.4:5678", "1.2.3.4"),
        (1, "[2001:db8::1]:443", "2001:db8::1"),
        (1, " [2001:db8::1] ", "2001:db8::1"),
        (1, "fe80::1%eth0", "fe80::1"),
        (1, "::ffff:1.2.3.4", "1.2.3.4"),
        (3, ",,,,", "10.0.0.1"),
        (1, "\x00\xff<script>", "10.0.0.1"),
        (1, "1.2.3.4 5.6.7.8", "10.0.0.1"),
        (1, "999.1.1.1", "10.0.0.1"),
        (1, "01.02.03.04", "10.0.0.1"),
        (1, "[::1", "10.0.0.1"),
        (1, "%", "10.0.0.1"),
        (9, "x" * 60_000, "10.0.0.1"),
    ],
)
def test_hops(hops: int, forwarded: str | None, found: str) -> None:
    assert address("10.0.0.1", forwarded, hops) == found


@for_each(
    ("peer", "forwarded", "found"),
    [
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2, 2001:db8::9", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.2.3.4, rubbish, 10.0.0.2", "10.0.0.2"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("5.5.5.5", "1.2.3.4", "5.5.5.5"),
        ("", "1.2.3.4", None),
    ],
)
def test_networks(peer: str, forwarded: str, found: str | None) -> None:
    trusted = ["10.0.0.0/8", "2001:db8::/32"]
    if found is None:
        with pytest.raises(ImproperlyConfigured, match="unix"):
            address(peer, forwarded, trusted)
    else:
        assert address(peer, forwarded, trusted) == found


@for_each(
    ("network", "found"),
    [
        ("::ffff:10.0.0.0/104", "1.2.3.4"),
        ("::ffff:10.0.0.1", "1.2.3.4"),
        ("::ffff:0.0.0.0/96", "1.2.3.4"),
        ("::ffff:11.0.0.0/104", "10.0.0.1"),
        ("::/0", "10.0.0.1"),
    ],
)
def test_networks_of_ipv4_in_the_form_of_ipv6(network: str, found: str) -> None:
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert address(peer, "1.2.3.4", [network]) == found


@for_each("peer", [None, "", "unix:", "localhost"])
def test_a_unix_socket(peer: str | None) -> None:
    with pytest.raises(ImproperlyConfigured, match="RATELIMIT_TRUSTED_PROXIES to 1"):
        address(peer, "1.2.3.4")
    assert address(peer, "6.6.6.6, 1.2.3.4", 1) == "1.2.3.4"
    assert address(peer, "6.6.6.6, 1.2.3.4, 10.0.0.2", ["unix", "10.0.0.0/8"]) == "1.2.3.4"
    # A proxy that names nobody, or rubbish, is no error: those clients are one.
    assert address(peer, None, 1) == "None"
    assert address(peer, "rubbish", ["unix"]) == "None"
    request = RequestFactory().get("/", REMOTE_ADDR="")
    with override_settings(RATELIMIT_TRUSTED_PROXIES=1):
        assert address_key(request) == "unknown"


@for_each(
    ("peer", "settings", "key"),
    [
        ("10.1.2.3", {}, "10.1.2.3"),
        ("10.1.2.3", {"RATELIMIT_IPV4_MASK": 24}, "10.1.2.0"),
        ("10.1.2.3", {"RATELIMIT_IPV4_MASK": 0}, "0.0.0.0"),
        ("2001:db8:1:2:3:4:5:6", {}, "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", {}, "2001:db8:1:2::"),
        ("2001:db8:1:3::", {}, "2001:db8:1:3::"),
        ("2001:db8:1:2::6", {"RATELIMIT_IPV6_MASK": 48}, "2001:db8:1::"),
        ("2001:db8:1:2::6", {"RATELIMIT_IPV6_MASK": 128}, "2001:db8:1:2::6"),
        ("::ffff:10.1.2.3", {}, "10.1.2.3"),
        ("[::FFFF:10.1.2.3]:80", {}, "10.1.2.3"),
        ("fe80::1%eth0", {}, "fe80::"),
        ("64:ff9b::10.1.2.3", {}, "10.1.2.3"),
        ("[64:FF9B::a01:203]:443", {}, "10.1.2.3"),
        ("64:ff9b::10.1.2.3", {"RATELIMIT_IPV4_MASK": 24}, "10.1.2.0"),
        ("64:ff9b::10.1.2.3", {"RATELIMIT_IPV6_MASK": 128}, "10.1.2.3"),
        ("64:ff9b::1:10.1.2.3", {}, "64:ff9b::"),
        ("64:ff9b:1::10.1.2.3", {}, "64:ff9b:1::"),
    ],
)
def test_networks_are_one_client(peer: str, settings: dict[str, int], key: str) -> None:
    with override_settings(**settings):
        assert address_key(RequestFactory().get("/", REMOTE_ADDR=peer)) == key
    proxied = RequestFactory().get("/", REMOTE_ADDR="::1", HTTP_X_FORWARDED_FOR=peer)
    with override_settings(**settings, RATELIMIT_TRUSTED_PROXIES=1):
        assert address_key(proxied) == key


def test_an_address_that_a_translator_made_is_no_proxy_of_the_sites() -> None:
    """Anybody may send from it: it stands for a private address only if the site says so."""
    assert address("64:ff9b::10.0.0.1", "1.2.3.4", ["10.0.0.0/8"]) == "64:ff9b::a00:1"
    assert address("64:ff9b::10.0.0.1", "1.2.3.4", ["64:ff9b::/96"]) == "1.2.3.4"


@for_each("text", ["", " ", "1.2.3", "1.2.3.4:", "1.2.3.4:x", ":::", "[]", "-1"])
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@for_each(
    ("name", "value", "text"),
    [
        ("TRUSTED_PROXIES", -1, "-1 is neither a number of proxies"),
        ("TRUSTED_PROXIES", True, "is neither a number of proxies"),
        ("TRUSTED_PROXIES", "10.0.0.0/8", "nor a list of their networks"),
        ("TRUSTED_PROXIES", ["10.0.0.1/8"], "'10.0.0.1/8' is not a network"),
        ("TRUSTED_PROXIES", ["proxy"], "'proxy' is not a network"),
        ("IPV4_MASK", 33, "33 is not a number of bits from 0 to 32"),
        ("IPV6_MASK", "/64", "'/64' is not a number of bits from 0 to 128"),
        ("ENABLE", "no", "'no' is neither True nor False"),
        ("VIEW", "view", "'view' is neither the path of a view"),
        ("VIEW", 7, "7 is neither the path of a view"),
    ],
)
def test_mistakes_in_settings(name: str, value: Any, text: str) -> None:
    with (
        override_settings(**{f"RATELIMIT_{name}": value}),
        pytest.raises(ImproperlyConfigured, match=f"^settings.RATELIMIT_{name}: .*{text}"),
    ):
        client_address(RequestFactory().get("/"))
