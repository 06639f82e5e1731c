"""Django REST framework: its views under the decorator, and the throttle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from rest_framework.authentication import BaseAuthentication
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from django_rb.ratelimit import ratelimit
from django_rb.ratelimit.drf import RatelimitThrottle
from django_rb.testing import LocalNodes
from tests.ratelimit.site import MIDDLEWARE, twice


class ByHeader(BaseAuthentication):  # type: ignore[misc]
    def authenticate(self, request: Request) -> Any:
        name = request.META.get("HTTP_NAME")
        return (SimpleNamespace(pk=name, is_authenticated=True), None) if name else None


class Throttle(RatelimitThrottle):
    limits = [("user_or_ip", "2/d"), {"key": "get:q", "rate": "9/d"}]


class Endpoint(APIView):  # type: ignore[misc]
    authentication_classes = [ByHeader]
    throttle_classes = [Throttle]

    def get(self, request: Request) -> Response:
        return Response("data")


class Method(APIView):  # type: ignore[misc]
    authentication_classes = [ByHeader]

    @method_decorator(ratelimit(key="user", rate="2/d"))
    def get(self, request: Request) -> Response:
        return Response("data")


def data(request: Request) -> Response:
    return Response("data")


def other(request: Request) -> Response:
    return Response("other")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse("forbidden", status=403)


urlpatterns = [
    path("throttle/", Endpoint.as_view()),
    path("method/", Method.as_view()),
    path("inside/", api_view(["GET"])(twice(data))),
    path("outside/", twice(api_view(["GET"])(data))),
    path("other/", twice(api_view(["GET"])(other))),
]


@pytest.fixture(autouse=True, params=[[], MIDDLEWARE], ids=["alone", "middleware"])
def middleware(nodes: LocalNodes, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=request.param,
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    ):
        yield request.param


def visit(path: str, times: int = 1, **headers: str) -> list[Any]:
    client = Client()
    return [
        client.get(path, HTTP_ACCEPT="application/json", **headers)  # type: ignore[arg-type]
        for _ in range(times)
    ]


@pytest.mark.parametrize("path", ["/method/", "/inside/", "/outside/"])
def test_the_decorator(path: str) -> None:
    answers = visit(path, 3, HTTP_NAME="ann")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer["RateLimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0"]
    assert answers[2].json()["violated-policies"] == ["user" if "method" in path else "ip"]
    if "method" in path:
        assert visit(path, HTTP_NAME="bob")[0].status_code == 200
        assert visit(path)[0].status_code == 200


def test_the_decorator_where_a_view_is_called_by_hand() -> None:
    """The framework would make a 403 of what is raised inside of it."""
    view = api_view(["GET"])(ratelimit(key="ip", rate="0/s")(data))
    assert view(APIRequestFactory().get("/")).status_code == 429


def test_views_that_are_decorated_outside_are_counted_apart() -> None:
    assert [answer.status_code for answer in visit("/outside/", 3)] == [200, 200, 429]
    assert visit("/other/")[0].status_code == 200


def test_the_decorator_inside_where_the_site_has_a_handler403(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The framework would make a 403 of what is raised for that handler."""
    monkeypatch.setattr(sys.modules[__name__], "handler403", forbidden, raising=False)
    answer = visit("/inside/", 3)[2]
    assert answer.status_code == 429
    assert answer.json()["violated-policies"] == ["ip"]


def test_the_throttle(middleware: list[str]) -> None:
    answers = visit("/throttle/", 3, HTTP_NAME="ann")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2]["Retry-After"]) > 0
    assert "throttled" in answers[2].json()["detail"]
    assert visit("/throttle/", HTTP_NAME="bob")[0].status_code == 200
    if middleware:
        assert answers[2]["RateLimit"].startswith('"user_or_ip";r=0;t=')
        assert answers[0]["RateLimit-Policy"].endswith('"get:q";q=9;w=86400')


@pytest.mark.parametrize("is_open", [True, False])
def test_the_throttle_where_a_node_fails(is_open: bool) -> None:
    nowhere = {"default": {"HOSTS": ["redis://127.0.0.1:1"]}}
    with override_settings(RB_CLUSTERS=nowhere, RATELIMIT_FAIL_OPEN=is_open):
        (answer,) = visit("/throttle/")  # nobody is logged in: UNAUTHENTICATED_USER is None
    assert answer.status_code == (200 if is_open else 503)
    if not is_open:
        assert answer["Retry-After"] == "1"
        assert "cannot be checked" in answer.json()["detail"]


def test_a_forged_address_is_not_believed() -> None:
    class ByAddress(RatelimitThrottle):
        limits = [("ip", "1/d")]

    Endpoint.throttle_classes = [ByAddress]
    try:
        answers = [visit("/throttle/", HTTP_X_FORWARDED_FOR=f"1.1.1.{n}") for n in range(2)]
    finally:
        Endpoint.throttle_classes = [Throttle]
    assert [answer.status_code for (answer,) in answers] == [200, 429]


def test_mistakes() -> None:
    with pytest.raises(ImproperlyConfigured, match="'x' is not a rate"):
        type("Mistaken", (RatelimitThrottle,), {"limits": [("ip", "x")]})
    with pytest.raises(ImproperlyConfigured, match="RatelimitThrottle has no limit"):
        RatelimitThrottle().allow_request(None, None)


def test_the_framework_is_not_needed(middleware: list[str]) -> None:
    if middleware:
        return
    code = (
        "import sys; sys.modules['rest_framework'] = None\n"
        "from django.conf import settings; settings.configure()\n"
        "import django_rb.ratelimit, django_rb.ratelimit.middleware"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
