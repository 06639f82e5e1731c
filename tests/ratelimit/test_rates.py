"""Rates as they are written, and the settings of rate limits."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb.ratelimit import (
    Limit,
    Limiter,
    Rate,
    Ratelimited,
    limiter,
    parse_rate,
    ratelimit,
)
from django_rb.ratelimit.conf import get_config
from tests.ratelimit.site import get, page
from tests.tables import for_each


@for_each(
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


@for_each(
    ("rate", "words"),
    [
        ("", "'' is not a rate"),
        ("5", "'5' is not a rate. Use '100/m'"),
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


class Int8(int):
    """An integer that overflows, as those of numpy do, in all that is computed with it."""

    def _overflow(self, *others: object) -> int:
        raise OverflowError

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _overflow
    __floordiv__ = __rfloordiv__ = __neg__ = _overflow


class Index:
    """An integer that is no child of int."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


@pytest.mark.parametrize("integer", [Int8, Index])
def test_integers_of_any_type_become_pythons(integer: Any) -> None:
    rate = Rate(integer(100), integer(120))
    assert rate == parse_rate((integer(100), integer(120))) == Rate(100, 120)
    bucket = Limit("key", rate, integer(3), "token-bucket", integer(100))
    assert bucket == Limit("key", Rate(100, 120), 3, "token-bucket", 100)
    numbers = (rate.count, rate.period, bucket.cost, bucket.burst, bucket.capacity)
    assert {type(number) for number in numbers} == {int}


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("integer", [Int8, Index])
def test_limits_with_integers_of_any_type_are_the_same_limits(integer: Any) -> None:
    one, other = limiter.hit("key", "100/m", 3, burst=100), None
    for name in (limiter.hit, limiter.peek):
        other = name("key", (integer(100), integer(60)), integer(3), burst=integer(100))
        assert (other.limit, other.used) == (one.limit, 6)
    assert limiter.reset("key", (integer(100), integer(60)), burst=integer(100))
    view = ratelimit(key="ip", rate=(integer(9), integer(60)), cost=integer(9))(page)
    assert view(get())["RateLimit-Policy"] == '"ip";q=9;w=60'
    with pytest.raises(Ratelimited):
        view(get())


def test_periods_and_timeouts_may_be_timedeltas() -> None:
    assert parse_rate((100, timedelta(minutes=10))) == Rate(100, 600)
    assert str(Rate(5, timedelta(days=2))) == "5/2d"  # type: ignore[arg-type]
    for period in (timedelta(seconds=1.5), timedelta(0), timedelta(seconds=-60)):
        with pytest.raises(ImproperlyConfigured, match=f"A rate for {period} seconds: give"):
            parse_rate((5, period))
    assert Limiter(timeout=timedelta(milliseconds=500)).timeout == 0.5
    with pytest.raises(ImproperlyConfigured, match="timeout: 0:00:00 is not a time in seconds"):
        Limiter(timeout=timedelta(0))


@for_each("timeout", [2, Int8(2), Decimal(2), Fraction(2), timedelta(seconds=2)])
def test_a_timeout_becomes_a_number_of_pythons(timeout: Any) -> None:
    assert Limiter(timeout=timeout).timeout == 2.0
    with override_settings(RATELIMIT_TIMEOUT=timeout):
        seconds = get_config().timeout
    assert (type(seconds), seconds) == (float, 2.0)


BUCKET = {"algorithm": "token-bucket"}


@for_each(
    ("options", "error", "words"),
    [
        (
            {"algorithm": "leaky"},
            ImproperlyConfigured,
            "no algorithm 'leaky'. Choices are",
        ),
        ({"algorithm": "fixed_window"}, ImproperlyConfigured, "Did you mean 'fixed-window'?"),
        ({"algorithm": ["x"]}, ImproperlyConfigured, "there is no algorithm"),
        (
            {"algorithm": "fixed-window", "burst": 5},
            ImproperlyConfigured,
            "burst: 5 can only be used with the algorithm 'token-bucket'",
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
        (
            {"algorithm": "token-bucket", "burst": 2**52},
            ImproperlyConfigured,
            "The maximum is 7505",
        ),
        ({"cost": -1}, ValueError, "-1 is not a cost. Give a whole number, 0 or more"),
        ({"cost": 1.5}, ValueError, "1.5 is not a cost"),
        ({"cost": True}, ValueError, "True is not a cost"),
        ({"cost": None}, ValueError, "None is not a cost"),
        ({"key": 7}, TypeError, "7 cannot be the key of a limit. Use a str or bytes"),
        ({"key": None}, TypeError, "None cannot be the key"),
        ({"rate": None}, ImproperlyConfigured, "The rate None means no limit"),
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
    with pytest.raises(TypeError, match=r"'5/m' is not a Rate. Use parse_rate\(\)"):
        Limit("key", "5/m")  # type: ignore[arg-type]


@for_each(
    ("name", "value", "words"),
    [
        ("CLUSTER", "nope", "There is no cluster 'nope', settings.RATELIMIT_CLUSTER,"),
        ("PREFIX", "", "settings.RATELIMIT_PREFIX: '' is not a string"),
        (
            "PREFIX",
            "{a}",
            "must not contain '{', as a hash tag would put all limits on one node",
        ),
        ("PREFIX", b"rl", "is not a string"),
        ("PREFIX", "é", "is not a string of ASCII"),
        ("FAIL_OPEN", "no", "settings.RATELIMIT_FAIL_OPEN: 'no' is neither True nor False"),
        ("FAIL_OPEN", None, "None is neither True nor False"),
        ("TIMEOUT", 0, "settings.RATELIMIT_TIMEOUT: 0 is not a time in seconds above 0"),
        ("TIMEOUT", "1s", "'1s' is not a time"),
        ("TIMEOUT", True, "True is not a time"),
        ("TIMEOUT", float("nan"), "nan is not a time"),
        ("TIMEOUT", Decimal("nan"), "is not a time"),
        ("TIMEOUT", Decimal("snan"), "is not a time"),
        ("TIMEOUT", 10**400, "is not a time"),
        ("TIMEOUT", float("inf"), "inf is not a time"),
        ("TIMEOUT", 1j, "is not a time"),
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
