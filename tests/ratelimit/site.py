"""A site with limited views: its URLs, and how tests visit it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.test import RequestFactory
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_rb import clusters
from django_rb.ratelimit import UNSAFE, Ratelimited, RatelimitMixin, ratelimit

MIDDLEWARE = ["django_rb.ratelimit.middleware.RatelimitMiddleware"]


def get(address: str = "10.0.0.1", path: str = "/", **meta: Any) -> HttpRequest:
    """Return a request as views get it that are called by hand."""
    return with_user(RequestFactory().get(path, REMOTE_ADDR=address, **meta))


def post(data: dict[str, str] | None = None, **meta: Any) -> HttpRequest:
    return with_user(RequestFactory().post("/", data or {}, **meta))


def with_user(request: HttpRequest, user: Any = None) -> HttpRequest:
    request.user = user or AnonymousUser()

    async def auser() -> Any:
        return request.user

    request.auser = auser
    return request


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it in an event loop of its own, which no connection outlives."""

    async def main() -> Any:
        try:
            return await coroutine
        finally:
            await clusters["default"].aclose()

    return asyncio.run(main())


def page(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("page")


async def apage(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("page")


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404("nothing here")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"a", b"b"])


def raises_by_itself(request: HttpRequest) -> HttpResponse:
    raise Ratelimited


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def as_json(view: Any) -> Any:
    """Make responses of what a view returns, as frameworks do."""
    if iscoroutinefunction(view):

        async def awaited(request: HttpRequest) -> HttpResponse:
            return JsonResponse(await view(request))

        return awaited
    return lambda request: JsonResponse(view(request))


def data(request: HttpRequest) -> Any:
    return {"a": 1}


def nothing(request: HttpRequest) -> Any:
    return None


async def adata(request: HttpRequest) -> Any:
    return {"a": 1}


twice = ratelimit(key="ip", rate="2/d")
never = ratelimit(key="ip", rate="0/s")


class Mixed(RatelimitMixin, View):
    ratelimit_key = "ip"
    ratelimit_rate = "2/d"

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class AsyncMixed(RatelimitMixin, View):
    ratelimit_limits = [("ip", "2/d"), ("header:x-key", "5/d")]

    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


@method_decorator(twice, name="dispatch")
class Dispatched(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


@method_decorator(twice, name="dispatch")
class AsyncDispatched(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class Methods(View):
    @method_decorator(twice)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class Plain(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


class AsyncMethods(View):
    @method_decorator([twice, ratelimit(key="get:q", rate="5/d")])
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")

    async def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


urlpatterns = [
    path("sync/", twice(page)),
    path("async/", twice(apage)),
    path("never/", never(page)),
    path("anever/", never(apage)),
    path("soft/", ratelimit(key="ip", rate="2/d", block=False)(page)),
    path("stream/", twice(stream)),
    path("missing/", twice(missing)),
    path("raises/", raises_by_itself),
    path("forbidden/", forbidden),
    path("free/", page),
    path("unsafe/", ratelimit(key="ip", rate="1/d", method=UNSAFE)(page)),
    path("mixed/", Mixed.as_view()),
    path("amixed/", AsyncMixed.as_view()),
    path("dispatched/", Dispatched.as_view()),
    path("adispatched/", AsyncDispatched.as_view()),
    path("methods/", Methods.as_view()),
    path("amethods/", AsyncMethods.as_view()),
    path("wrapped/", twice(Plain.as_view())),
    path("json/", as_json(twice(data))),
    path("ajson/", as_json(twice(adata))),
    path("none/", twice(nothing)),
]


def too_many(request: HttpRequest, exception: Ratelimited) -> HttpResponseBase:
    return HttpResponse(f"slow down {exception.retry_after}", status=429)


async def atoo_many(request: HttpRequest, exception: Ratelimited) -> HttpResponseBase:
    return HttpResponse("slow down, asynchronously", status=429)


def by_method(group: str, request: HttpRequest) -> str:
    return str(request.method)


def not_a_key(request: HttpRequest) -> str:
    return ""
