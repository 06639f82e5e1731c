"""The middleware: it adds the state of limits to responses, and responds to refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .answers import answer
from .exceptions import Ratelimited
from .fields import set_fields
from .record import get_record

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class RatelimitMiddleware:
    """Adds the state of limits to every response, also if a view raised an error.

    It turns Ratelimited into the response for refused requests. Put it before caches of whole
    pages, so that the pages they store do not contain one client's limits.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Return the response to a request."""
        if self._is_async:
            return self._acall(request)
        get_record(request).has_middleware = True
        response = cast(HttpResponseBase, self.get_response(request))
        set_fields(request, response)
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        get_record(request).has_middleware = True
        response = await cast(Awaitable[HttpResponseBase], self.get_response(request))
        set_fields(request, response)
        return response

    def process_exception(
        self, request: HttpRequest, exception: Exception, *args: Any
    ) -> HttpResponseBase | None:
        """Return the response for Ratelimited, which views may also raise themselves."""
        if not isinstance(exception, Ratelimited):
            return None
        get_record(request).refusal = exception
        return answer(request, exception)
