"""The middleware: every answer says what the limits said, and refusals are answered."""

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
    """Tells clients of their limits on every answer, also where a view raised an error.

    It answers what raises Ratelimited as a refused request is answered. Put it in front of
    caches of whole pages, so that what they keep says nothing of one client's limits.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
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
        """Answer Ratelimited, which a view may raise of its own accord."""
        if not isinstance(exception, Ratelimited):
            return None
        get_record(request).refusal = exception
        return answer(request, exception)
