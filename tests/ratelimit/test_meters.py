"""What is worked out once for all requests of a view is what the limiter works out for each."""

from __future__ import annotations

import asyncio

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from django_rb.ratelimit import Limit, Rate, limiter
from django_rb.ratelimit.fields import set_fields
from django_rb.ratelimit.guard import Guard
from django_rb.ratelimit.meters import Question
from django_rb.ratelimit.policies import NOT_GIVEN, LimitOptions, make_policies
from django_rb.ratelimit.record import get_record

GROUPS = ["page", "ü", "{page}", "#page", "%d %b", "p" * 300]


def ask(guard: Guard, request: HttpRequest) -> Question:
    (question,) = guard._find(request)
    return question


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("cost", [0, 1, 7])
def test_a_question_is_what_the_limiter_asks(group: str, cost: int) -> None:
    policies = make_policies(None, key="get:q", rate="5/m", group=group, cost=cost)
    question = ask(Guard(policies, "view"), RequestFactory().get("/?q=%00%7B*"))
    limit = question.limit
    rule = limit.rule
    key = rule.make_key("rl", limit.key)
    command = rule.script.evalsha % (len(key), key, rule.encode(b"hit", cost))
    assert (question.key, question.command) == (key, command)


@pytest.mark.usefixtures("cluster")
def test_answers_say_the_same_however_they_are_noted() -> None:
    limits = [
        LimitOptions(key="ip", rate=(10**9, 3600 * n), name=name)
        for n, name in enumerate(['100 %"', "ip", "ip"], 1)
    ]
    guard = Guard(make_policies(limits, key=None, rate=NOT_GIVEN, group="named"), "view")
    request, told = RequestFactory().get("/"), []
    for _ in range(2):  # connections are open the second time
        request = RequestFactory().get("/")
        assert guard.charge(request) is None
    record = get_record(request)
    assert record.passed is not None
    for _ in range(2):
        response = HttpResponse()
        set_fields(request, response)
        told.append((response["RateLimit-Policy"], response["RateLimit"]))
        assert [usage.used for _, usage in record.usages] == [2, 2, 2]
    assert told[0] == told[1]
    assert record.passed is None


@pytest.mark.usefixtures("cluster")
def test_async_views_ask_the_same_short_way() -> None:
    guard = Guard(make_policies(None, key="ip", rate="1/d"), "view")
    request, refused = RequestFactory().get("/"), RequestFactory().get("/")
    assert asyncio.run(guard.acharge(request)) is None
    record = get_record(request)
    assert record.passed is not None
    assert [usage.used for _, usage in record.usages] == [1]
    assert asyncio.run(guard.acharge(refused)) is get_record(refused).refusal is not None


BURSTS = [
    # rate, burst, the policy, and what is left after one request
    ("60/m", 5, "q=5;w=5", 4),
    ("60/m", 100, "q=100;w=100", 99),
    ("7/m", 2, "q=2;w=18", 1),
    ("7/m", None, "q=7;w=60", 6),
]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("rate", "burst", "policy", "left"), BURSTS)
def test_the_fields_of_a_bucket_fit_together(
    rate: str, burst: int | None, policy: str, left: int
) -> None:
    limit = LimitOptions(
        key="ip", rate=rate, burst=burst, algorithm="token-bucket", name=f"{rate} {burst}"
    )
    guard = Guard(make_policies([limit], key=None, rate=NOT_GIVEN), "view")
    request = RequestFactory().get("/")
    assert guard.charge(request) is None
    for _ in range(2):  # in the short way, and from usages
        response = HttpResponse()
        set_fields(request, response)
        assert response["RateLimit-Policy"].endswith(f";{policy}")
        assert f";r={left};" in response["RateLimit"]
        assert get_record(request).usages[0][1].limit.capacity == left + 1


def test_a_bucket_that_allows_nothing_has_room_for_nothing() -> None:
    limit = Limit("key", Rate(0, 60), algorithm="token-bucket", burst=5)
    assert (limit.capacity, limit.rule.window) == (0, 60)


@pytest.mark.usefixtures("cluster")
def test_what_a_second_view_is_told_comes_after_the_first() -> None:
    rates = ["3/d", "9/d"]
    guards = [Guard(make_policies(None, key="ip", rate=rate), "both") for rate in rates]
    for guard in guards:  # connections are open the second time
        guard.charge(RequestFactory().get("/"))
    request, response = RequestFactory().get("/"), HttpResponse()
    for guard in guards:
        assert guard.charge(request) is None
    set_fields(request, response)
    assert response["RateLimit-Policy"] == '"ip";q=3;w=86400, "ip-2";q=9;w=86400'
    assert response["RateLimit"].startswith('"ip";r=1;t=')
    assert '"ip-2";r=7;t=' in response["RateLimit"]


@pytest.mark.usefixtures("cluster")
def test_settings_may_change() -> None:
    guard = Guard(make_policies(None, key="ip", rate="5/m"), "view")
    request = RequestFactory().get("/", HTTP_X_FORWARDED_FOR="10.0.0.2")
    before = ask(guard, request).key
    with override_settings(RATELIMIT_PREFIX="other"):
        assert ask(guard, request).key == before.replace(b"rl:", b"other:", 1)
    with override_settings(RATELIMIT_TRUSTED_PROXIES=1):
        assert ask(guard, request).key != before
    guard.charge(request)
    ping = b"*1\r\n$4\r\nPING\r\n"
    assert limiter.try_commands([before], [ping]) == [b"PONG"]
    with override_settings(RATELIMIT_TIMEOUT=1):
        assert limiter.try_commands([before], [ping]) is None
    assert ask(guard, request).key == before
