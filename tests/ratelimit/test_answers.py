"""Answers in the cases that a view of the usual kind does not have."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist
from django.template.loaders.locmem import Loader as Locmem
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.asyncio import async_unsafe

from django_rb import clusters
from django_rb.ratelimit import Limit, Limiter, Rate, Ratelimited, Usage, get_usage, ratelimit
from django_rb.ratelimit.fields import set_fields
from django_rb.ratelimit.guard import _decide
from django_rb.ratelimit.middleware import RatelimitMiddleware
from django_rb.testing import LocalNodes
from tests.ratelimit.site import MIDDLEWARE, apage, get, page, run, too_many, twice

NOBODY = {"default": {"HOSTS": ["redis://127.0.0.1:1"]}}

soft = ratelimit(key="ip", rate="1/d", block=False)

urlpatterns = [path("", twice(page)), path("async/", twice(apage)), path("soft/", soft(page))]


def handler403(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if isinstance(exception, Ratelimited):
        return HttpResponse(f"own {exception.policies}", status=429)
    return HttpResponse("forbidden", status=403)


class TestOwnHandler:
    """A site that tells Ratelimited apart in its handler403, as django-ratelimit shows."""

    @pytest.fixture(autouse=True)
    def _site(self, nodes: LocalNodes) -> Iterator[None]:
        with override_settings(ROOT_URLCONF=__name__):
            yield

    def answer(self) -> Any:
        return [Client().get("/") for _ in range(3)][2]

    def test_it_answers(self) -> None:
        assert self.answer().content == b"own ['ip']"

    def test_the_setting_comes_first(self) -> None:
        with override_settings(RATELIMIT_VIEW=too_many):
            assert self.answer().content.startswith(b"slow down")

    def test_a_template_comes_first(self) -> None:
        with override_settings(RATELIMIT_VIEW="no.html"), pytest.raises(TemplateDoesNotExist):
            self.answer()

    def test_the_middleware_comes_first(self) -> None:
        with override_settings(MIDDLEWARE=MIDDLEWARE):
            assert b"Try again" in self.answer().content


def test_pages_in_the_cache_say_nothing_of_a_clients_limits(nodes: LocalNodes) -> None:
    caching = [
        *MIDDLEWARE,
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=caching):
        first, second = Client().get("/"), Client().get("/")
    assert first.has_header("RateLimit")
    assert second.content == first.content
    assert not second.has_header("RateLimit")


@async_unsafe
def of_a_database(request: HttpRequest) -> dict[str, str]:
    return {"name": "ann"}


@pytest.mark.parametrize("path", ["/never/", "/anever/"])
def test_context_processors_of_a_template_may_ask_a_database(
    path: str, nodes: LocalNodes
) -> None:
    templates = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "context_processors": [f"{__name__}.of_a_database"],
            "loaders": [(f"{Locmem.__module__}.Loader", {"429.html": "later, {{ name }}"})],
        },
    }

    async def visit() -> Any:
        return await AsyncClient().get(path)

    with override_settings(ROOT_URLCONF="tests.ratelimit.site", TEMPLATES=[templates]):
        answer = run(visit())
    assert (answer.status_code, answer.content) == (429, b"later, ann")


class TestNodesDown:
    @pytest.fixture(autouse=True)
    def _site(self) -> Iterator[None]:
        with override_settings(ROOT_URLCONF=__name__, RB_CLUSTERS=NOBODY):
            yield
        clusters.reset()

    def visits(self, path: str) -> Any:
        async def visit() -> Any:
            return await AsyncClient().get(path)

        return [Client().get(path), run(visit())]

    @pytest.mark.parametrize("path", ["/", "/async/"])
    def test_open_by_default(
        self, path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # One that has not warned of this node yet.
        monkeypatch.setattr("django_rb.ratelimit.guard.limiter", Limiter())
        for answer in self.visits(path):
            assert answer.status_code == 200
            assert answer["RateLimit-Policy"] == '"ip";q=2;w=86400'
            assert not answer.has_header("RateLimit")  # nobody knows what is left
        assert any(
            record.name == "django_rb.ratelimit" and record.levelno == logging.WARNING
            for record in caplog.records
        )

    @pytest.mark.parametrize("path", ["/", "/async/"])
    @override_settings(RATELIMIT_FAIL_OPEN=False, RATELIMIT_VIEW=too_many)
    def test_closed(self, path: str) -> None:
        for answer in self.visits(path):
            assert answer.status_code == 503
            assert b"cannot be checked at the moment" in answer.content
            assert int(answer["Retry-After"]) >= 1
        problem = Client().get(path, HTTP_ACCEPT="application/json").json()
        assert problem["type"].endswith("#temporary-reduced-capacity")
        assert problem["status"] == 503

    @override_settings(RATELIMIT_FAIL_OPEN=False)
    def test_a_limit_that_only_tells_is_closed_but_not_shut(self) -> None:
        (answer, _) = self.visits("/soft/")
        assert answer.status_code == 200
        assert answer.wsgi_request.limited is True

    def test_called_by_hand(self) -> None:
        with override_settings(RATELIMIT_FAIL_OPEN=False), pytest.raises(Ratelimited) as caught:
            twice(page)(get())
        assert caught.value.unavailable
        assert caught.value.status_code == 503

    def test_usage(self) -> None:
        assert get_usage(get(), group="g", key="ip", rate="0/s") is None
        with override_settings(RATELIMIT_FAIL_OPEN=False):
            assert get_usage(get(), group="g", key="ip", rate="9/s") == {
                "count": 0,
                "limit": 0,
                "should_limit": True,
                "time_left": -1,
            }


def test_what_a_view_raises_itself_says_when_to_come_back() -> None:
    middleware = RatelimitMiddleware(page)
    request = get()
    request.resolver_match = object()  # type: ignore[assignment]
    refusal = Ratelimited(usages=[usage(0, 60.0, retry_after=30.2)])
    assert middleware.process_exception(request, ValueError()) is None
    response = middleware.process_exception(request, refusal)
    assert response is not None
    set_fields(request, response)
    assert response["Retry-After"] == "31"


@pytest.mark.usefixtures("nodes")
def test_an_error_says_what_it_is_about() -> None:
    assert str(Ratelimited()) == "This request is over a limit."
    assert str(Ratelimited("Too many tries.")) == "Too many tries."
    with pytest.raises(Ratelimited) as caught:
        ratelimit(limits=[("ip", "0/s"), ("get:q", "0/s")], group="g")(page)(get())
    assert str(caught.value) == "This request is over a limit (ip, get:q)."
    waiting = [usage(0, 60.0, retry_after=30.2)]
    assert str(Ratelimited(usages=waiting, policies=["ip"])) == (
        "This request is over a limit (ip). Try again in 31 seconds."
    )
    failed = usage(5, 0.0, retry_after=1.0)._replace(error=OSError("gone"))
    assert str(Ratelimited(usages=[failed], policies=["ip"])) == (
        "The limits of this request cannot be checked at the moment. Try again in 1 second."
    )


def test_the_middleware_is_async_where_the_site_is() -> None:
    assert iscoroutinefunction(RatelimitMiddleware(apage))
    assert not iscoroutinefunction(RatelimitMiddleware(page))


def fields(*usages: tuple[str, Usage]) -> HttpResponse:
    request, response = get(), HttpResponse()
    for name, usage in usages:  # as by decorators that do not stand upon each other
        _decide(request, [name], [usage])
    set_fields(request, response)
    return response


def usage(
    remaining: int, reset: float, *, rate: tuple[int, int] = (5, 60), retry_after: float = 0.0
) -> Usage:
    limit = Limit("", Rate(*rate))
    return Usage(limit, retry_after == 0, 5 - remaining, remaining, reset, retry_after)


def test_the_fields_are_those_of_the_draft() -> None:
    answer = fields(
        ("burst", usage(4, 9.1, rate=(100, 60))),
        ("daily", usage(0, 60.0, rate=(1000, 86400), retry_after=30.2)),
        ("daily", usage(0, 60.0, retry_after=math.inf)),
    )
    assert answer["RateLimit-Policy"] == (
        '"burst";q=100;w=60, "daily";q=1000;w=86400, "daily-2";q=5;w=60'
    )
    assert answer["RateLimit"] == '"burst";r=4;t=10, "daily";r=0;t=31, "daily-2";r=0'


def test_names_are_strings_of_structured_fields() -> None:
    answer = fields(('a"b\\c\r\né', usage(1, 1.0, rate=(10**15 + 7, 1))))
    assert answer["RateLimit-Policy"] == r'"a\"b\\c???";q=999999999999999;w=1'


def test_numbers_are_integers_of_structured_fields() -> None:
    answer = fields(("slow", usage(0, 2.0**60, rate=(1, 2**52), retry_after=2.0**60)))
    assert answer["RateLimit"] == '"slow";r=0;t=999999999999999'


def test_a_page_has_no_markup_of_others() -> None:
    from django_rb.ratelimit.answers import answer

    request = get()
    request.resolver_match = object()  # type: ignore[assignment]
    page = answer(request, Ratelimited("<script>", policies=["<script>"]))
    assert isinstance(page, HttpResponse)
    assert b"<script>" not in page.content
    assert b"<h1>Too Many Requests</h1><p>This request is over a limit.</p>" in page.content


def test_a_view_that_does_not_import_is_told(nodes: LocalNodes) -> None:
    with (
        override_settings(ROOT_URLCONF="tests.ratelimit.site", RATELIMIT_VIEW="no.such"),
        pytest.raises(
            ImproperlyConfigured, match=r"RATELIMIT_VIEW: 'no\.such' cannot be imported"
        ),
    ):
        Client().get("/never/")
