"""Keys that are alike."""

from __future__ import annotations

import pytest

from django_rb.management.key_patterns import PatternSums, pattern_of


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        (b"page:17:en", b"page:*:en"),
        (b":1:page:17:en", b":1:page:*:en"),
        (b"shop:2:page:17", b"shop:*:page:*"),
        (b"{user:7}:cart", b"{user:*}:cart"),
        (b":1:views.decorators.cache.cache_page..GET.0cc175b9c0f1.d41d8cd98f00.en", None),
        (b":1:django.contrib.sessions.cachedk3j9x", b":1:django.contrib.sessions.*"),
        (b"greeting", b"greeting"),
        (b"", b""),
        (b":1:", b":*:"),
        (b"\xff\x00<script>7</script>", b"*/script>"),
        (b"x" * 500, b"x" * 200 + b"*"),
    ],
)
def test_patterns(key: bytes, pattern: bytes | None) -> None:
    expected = (
        b":1:views.decorators.cache.cache_page..GET.*.*.en" if pattern is None else pattern
    )
    assert pattern_of(key) == expected


def test_sums_are_bounded() -> None:
    sums: PatternSums[int] = PatternSums()
    words = (
        f"{chr(97 + n // 676)}{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}" for n in range(12_000)
    )
    for word in words:
        sums.add(word.encode(), 1)
    assert list(sums.largest(2)) == [(b"*", 2000, 2000), (b"aaa", 1, 1)]
