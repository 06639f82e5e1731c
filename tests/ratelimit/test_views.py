"""Limited views as Django serves them: functions, classes, sync and async."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import AsyncClient, Client, override_settings

from django_rb.testing import LocalNodes
from tests.ratelimit.site import MIDDLEWARE, run
from tests.tables import for_each

SITE = "tests.ratelimit.site"

VIEWS = [
    "sync",
    "async",
    "mixed",
    "amixed",
    "dispatched",
    "adispatched",
    "methods",
    "amethods",
    "wrapped",
    "stream",
]


@pytest.fixture(autouse=True, params=[[], MIDDLEWARE], ids=["alone", "middleware"])
def middleware(nodes: LocalNodes, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    with override_settings(ROOT_URLCONF=SITE, MIDDLEWARE=request.param):
        yield request.param


def visit(view: str, times: int = 1, **headers: Any) -> list[Any]:
    client = Client()
    return [client.get(f"/{view}/", **headers) for _ in range(times)]


def avisit(view: str, times: int = 1, **headers: Any) -> list[Any]:
    async def visits() -> list[Any]:
        client = AsyncClient()
        return [await client.get(f"/{view}/", **headers) for _ in range(times)]

    answers: list[Any] = run(visits())
    return answers


@pytest.mark.parametrize("visit", [visit, avisit])
@for_each("view", VIEWS)
def test_the_limit_is_the_limit(view: str, visit: Any) -> None:
    answers = visit(view, 3)

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    policies = answers[0]["RateLimit-Policy"].split(", ")
    assert policies[0] == '"ip";q=2;w=86400'
    for answer, left in zip(answers, (1, 0, 0), strict=True):
        assert answer["RateLimit-Policy"].split(", ") == policies
        name, r, t = answer["RateLimit"].split(", ")[0].split(";")
        assert (name, r) == ('"ip"', f"r={left}")
        assert 0 < int(t.removeprefix("t=")) <= 2 * 86400
    assert not answers[1].has_header("Retry-After")
    assert 0 < int(answers[2]["Retry-After"]) <= 2 * 86400
    assert f"t={answers[2]['Retry-After']}" in answers[2]["RateLimit"]


@pytest.mark.parametrize("visit", [visit, avisit])
@pytest.mark.parametrize("view", ["json", "ajson"])
def test_what_a_framework_makes_a_response_of(
    view: str, visit: Any, middleware: list[str]
) -> None:
    """The decorator has no response to write the fields into: the middleware has one."""
    for answer in visit(view, 2):
        assert answer.json() == {"a": 1}
        assert answer.has_header("RateLimit") == bool(middleware)


@pytest.mark.parametrize("visit", [visit, avisit])
def test_a_view_that_returns_none_gets_djangos_own_error(visit: Any) -> None:
    with pytest.raises(ValueError, match="didn't return an HttpResponse object"):
        visit("none")


def test_views_are_counted_apart_and_so_are_addresses() -> None:
    visit("sync", 3)

    assert visit("mixed")[0].status_code == 200
    assert visit("sync", REMOTE_ADDR="10.9.9.9")[0].status_code == 200
    assert visit("dispatched", 2)[1].status_code == 200
    assert visit("wrapped")[0].status_code == 200


def test_other_methods_are_free() -> None:
    client = Client()
    assert [client.post("/methods/").status_code for _ in range(3)] == [200] * 3
    assert [client.get("/unsafe/").status_code for _ in range(3)] == [200] * 3
    assert [client.put("/unsafe/").status_code for _ in range(2)] == [200, 429]


def test_a_view_that_is_not_limited_says_nothing() -> None:
    (answer,) = visit("free")
    assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & set(answer.headers)


def test_a_limit_that_does_not_block() -> None:
    answers = visit("soft", 3)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.wsgi_request.limited for answer in answers] == [False, False, True]
    assert answers[2]["RateLimit"].startswith('"ip";r=0;t=')
    assert not answers[2].has_header("Retry-After")


@pytest.mark.parametrize(("view", "visit"), [("never", visit), ("anever", avisit)])
def test_never_has_no_time_to_try_again(view: str, visit: Any) -> None:
    (answer,) = visit(view)
    assert answer.status_code == 429
    assert answer["RateLimit-Policy"] == '"ip";q=0;w=1'
    assert answer["RateLimit"] == '"ip";r=0'
    assert not answer.has_header("Retry-After")


@pytest.mark.parametrize("visit", [visit, avisit])
def test_an_error_of_the_view_is_told_by_the_middleware(
    visit: Any, middleware: list[str]
) -> None:
    answers = visit("missing", 3)
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert answers[0].has_header("RateLimit") is bool(middleware)
    assert answers[2]["RateLimit"].startswith('"ip";r=0;t=')


@pytest.mark.parametrize("visit", [visit, avisit])
def test_what_a_view_raises_itself(visit: Any, middleware: list[str]) -> None:
    (answer,) = visit("raises")
    assert answer.status_code == (429 if middleware else 403)
    assert visit("forbidden")[0].status_code == 403


@for_each(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/problem+json, text/html;q=0.5", "application/problem+json"),
        ("application/*", "application/problem+json"),
        ("text/html,application/json;q=0.9", "text/html"),
        ("*/*", "text/html"),
        ("image/png", "text/html"),
        ("", "text/html"),
        ("nonsense;;;q=x, /", "text/html"),
    ],
)
def test_the_kind_of_answer_is_the_clients_choice(accept: str, kind: str) -> None:
    answer = visit("sync", 3, HTTP_ACCEPT=accept)[2]
    assert answer["Content-Type"].partition(";")[0] == kind
    assert answer["Vary"] == "Accept"
    if kind != "text/html":
        assert answer.json() == {
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Too Many Requests",
            "status": 429,
            "detail": f"Try again in {answer['Retry-After']} seconds.",
            "violated-policies": ["ip"],
        }
    else:
        assert f"Try again in {answer['Retry-After']} seconds." in answer.content.decode()


@pytest.mark.parametrize("visit", [visit, avisit])
@pytest.mark.parametrize("view", ["sync", "async"])
def test_a_view_of_the_sites_own_answers(view: str, visit: Any) -> None:
    from tests.ratelimit import site

    for setting, text in (
        (f"{SITE}.too_many", "slow down "),
        (site.too_many, "slow down "),
        (f"{SITE}.atoo_many", "slow down, asynchronously"),
    ):
        with override_settings(RATELIMIT_VIEW=setting):
            answer = visit(view, 3, HTTP_ACCEPT="application/json")[2]
        assert answer.status_code == 429
        assert answer.content.decode().startswith(text)
        assert answer.has_header("Retry-After")
        assert answer.has_header("RateLimit")


def templates(**pages: str) -> list[dict[str, Any]]:
    loader = ("django.template.loaders.locmem.Loader", pages)
    return [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [loader]},
        }
    ]


def test_a_template_of_the_sites_own_answers() -> None:
    pages = {
        "429.html": "own {{ retry_after }} {{ exception.status_code }}",
        "slow.html": "<i>{{ x }}",
    }
    with override_settings(TEMPLATES=templates(**pages)):
        answer = visit("sync", 3)[2]
        assert answer.content.decode() == f"own {answer['Retry-After']} 429"
        assert visit("sync", HTTP_ACCEPT="application/json")[0].json()["status"] == 429
        with override_settings(RATELIMIT_VIEW="slow.html"):
            assert visit("sync")[0].content == b"<i>"
            assert visit("sync")[0].status_code == 429


@override_settings(RATELIMIT_ENABLE=False)
@for_each("view", [*VIEWS, "never"])
def test_limits_are_switched_off(view: str) -> None:
    answers = visit(view, 3)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert not answers[0].has_header("RateLimit-Policy")


def test_times_are_rounded_up() -> None:
    from django_rb.ratelimit import Limit, Rate, Ratelimited, Usage

    def refusal(*waits: float) -> Ratelimited:
        limit = Limit("", Rate(1, 1))
        return Ratelimited(usages=[Usage(limit, False, 1, 0, 1.0, wait) for wait in waits])

    assert refusal(0.01).retry_after == 1
    assert refusal(2.0).retry_after == 2
    assert refusal(1.2, 2.1).retry_after == 3
    assert refusal(1.2, math.inf).retry_after is None
    assert Ratelimited().retry_after is None
    assert Ratelimited().status_code == 429
