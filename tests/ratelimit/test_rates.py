"""Rates as they are written, and the settings of rate limits."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb.ratelimit import Limit, Limiter, Rate, limiter, parse_rate
from django_rb.ratelimit.conf import get_config


@pytest.mark.parametrize(
    ("rate", "count", "period", "text"),
    [
        # Every form of django-ratelimit.
        ("5/s", 5, 1, "5/s"),
        ("5/m", 5, 60, "5/m"),
        ("10/h", 10, 3600, "10/h"),
        ("20/d", 20, 86400, "20/d"),
        ("100/10m", 100, 600, "100/10m"),
        ("5/30s", 5, 30, "5/30s"),
        ("100/300", 100, 300, "100/5m"),
        ("5/", 5, 1, "5/s"),
        ("0/s", 0, 1, "0/s"),
        ((5, 60), 5, 60, "5/m"),
        ("5/minute", 5, 60, "5/m"),
        ("5/min", 5, 60, "5/m"),
        # And what is meant as clearly.
        ("5/second", 5, 1, "5/s"),
        ("10/hour", 10, 3600, "10/h"),
        ("1000/day", 1000, 86400, "1000/d"),
        ("5/2hours", 5, 7200, "5/2h"),
        ("5/M", 5, 60, "5/m"),
        ([5, 90], 5, 90, "5/90s"),
        (Rate(5, 86400), 5, 86400, "5/d"),
    ],
)
def test_a_rate_is_read_and_written(rate: object, count: int, period: int, text: str) -> None:
    parsed = parse_rate(rate)
    assert parsed == Rate(count, period)
    assert str(parsed) == text
    assert parse_rate(text) == parsed


def test_none_is_no_limit() -> None:
    assert parse_rate(None) is None


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ("", "'' is not a rate"),
        ("5", "'5' is not a rate. Write '100/m'"),
        ("/m", "is not a rate"),
        ("5/w", "is not a rate"),
        ("5/week", "the units are s, m, h and d"),  # django-ratelimit takes it for 5/s
        ("5 / m", "is not a rate"),
        ("5/m ", "is not a rate"),
        ("5/m\n", "is not a rate"),
        ("-5/m", "is not a rate"),
        ("5/-1m", "is not a rate"),
        ("5.5/m", "is not a rate"),
        ("\u0665/m", "is not a rate"),  # an Arabic digit
        ("9" * 5000 + "/s", "is not a rate"),
        ("site.rates.login", "is not a rate"),
        (5, "5 is not a rate"),
        (True, "True is not a rate"),
        (b"5/m", "is not a rate"),
        ((5,), "is not a rate"),
        ((5, 60, 1), "is not a rate"),
        ((5, 60.0), "for 60.0 seconds"),
        ((True, 60), "of True requests"),
        (("5", 60), "of '5' requests"),
        ((-1, 60), "of -1 requests: give a whole number, 0 or more"),
        ("5/0s", "for 0 seconds: give a whole number, 1 or more"),
        ((5, 0), "for 0 seconds"),
        ((5, -60), "for -60 seconds"),
        (f"{2**52 + 1}/s", "cannot be counted exactly"),
        (f"{2**52}/m", "cannot be counted exactly"),
        ((0, 2**53), "cannot be counted exactly"),
        ("redis://user:secret@host/", "is not a rate"),
    ],
)
def test_a_bad_rate_is_explained(rate: object, words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_rate(rate)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


BUCKET = {"algorithm": "token-bucket"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"algorithm": "leaky"},
            ImproperlyConfigured,
            "no algorithm 'leaky'. Known are",
        ),
        ({"algorithm": "fixed_window"}, ImproperlyConfigured, "Did you mean 'fixed-window'?"),
        ({"algorithm": ["x"]}, ImproperlyConfigured, "there is no algorithm"),
        (
            {"algorithm": "fixed-window", "burst": 5},
            ImproperlyConfigured,
            "burst: 5 is for a 'token-bucket' alone",
        ),
        (
            {"algorithm": "token-bucket", "burst": 0},
            ImproperlyConfigured,
            "number of 1 or more",
        ),
        ({"algorithm": "token-bucket", "burst": -1}, ImproperlyConfigured, "burst: -1 is not"),
        (
            {"algorithm": "token-bucket", "burst": 2.0},
            ImproperlyConfigured,
            "burst: 2.0 is not",
        ),
        ({"algorithm": "token-bucket", "burst": 2**52}, ImproperlyConfigured, "At most 7505"),
        ({"cost": -1}, ValueError, "-1 is not a cost. Give a whole number, 0 or more"),
        ({"cost": 1.5}, ValueError, "1.5 is not a cost"),
        ({"cost": True}, ValueError, "True is not a cost"),
        ({"cost": None}, ValueError, "None is not a cost"),
        ({"key": 7}, TypeError, "7 cannot be the key of a limit. Give text or bytes"),
        ({"key": None}, TypeError, "None cannot be the key"),
        ({"rate": None}, ImproperlyConfigured, "The rate None is no limit"),
        ({"rate": "5/x"}, ImproperlyConfigured, "'5/x' is not a rate"),
    ],
)
def test_a_bad_limit_is_explained_before_anything_is_sent(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"key": "key", "rate": "10/m", **options}
    for ask in (limiter.hit, limiter.peek):
        with pytest.raises(error) as raised:
            ask(**given)
        assert words in str(raised.value)


def test_a_limit_takes_no_rate_that_was_not_parsed() -> None:
    with pytest.raises(TypeError, match=r"'5/m' is not a Rate. parse_rate\(\) makes one"):
        Limit("key", "5/m")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CLUSTER", "nope", "There is no cluster 'nope', settings.RATELIMIT_CLUSTER,"),
        ("PREFIX", "", "settings.RATELIMIT_PREFIX: '' is not a text"),
        ("PREFIX", "{a}", "has no '{', as a hash tag would put all limits on one node"),
        ("PREFIX", b"rl", "is not a text"),
        ("PREFIX", "é", "is not a text of ASCII"),
        ("FAIL_OPEN", "no", "settings.RATELIMIT_FAIL_OPEN: 'no' is neither True nor False"),
        ("FAIL_OPEN", None, "None is neither True nor False"),
        ("TIMEOUT", 0, "settings.RATELIMIT_TIMEOUT: 0 is not a time in seconds above 0"),
        ("TIMEOUT", "1s", "'1s' is not a time"),
        ("TIMEOUT", True, "True is not a time"),
        ("TIMEOUT", float("nan"), "nan is not a time"),
        ("ALGORITHM", "window", "settings.RATELIMIT_ALGORITHM: there is no algorithm 'window'"),
    ],
)
def test_a_bad_setting_is_explained(name: str, value: object, words: str) -> None:
    with (
        override_settings(**{f"RATELIMIT_{name}": value}),
        pytest.raises(ImproperlyConfigured) as raised,
    ):
        get_config()
    assert words in str(raised.value)


def test_numbers_may_be_texts_of_digits() -> None:
    with override_settings(
        RATELIMIT_TIMEOUT="0.5",
        RATELIMIT_TRUSTED_PROXIES="1",
        RATELIMIT_IPV4_MASK="24",
        RATELIMIT_IPV6_MASK="56",
    ):
        config = get_config()
    assert (config.timeout, config.ipv4_mask, config.ipv6_mask) == (0.5, 24, 56)
    assert config.trusted_proxies.hops == 1


def test_settings_are_followed_when_tests_change_them() -> None:
    assert get_config().fail_open
    with override_settings(RATELIMIT_FAIL_OPEN=False):
        assert not get_config().fail_open
    assert get_config().fail_open


@pytest.mark.parametrize(
    ("options", "words"),
    [({"prefix": "{"}, "prefix: '{' is not"), ({"timeout": -1}, "timeout: -1 is not a time")],
)
def test_a_bad_option_of_a_limiter_is_explained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        Limiter(**options)
    assert words in str(raised.value)
