"""Throttles for Django REST framework. Only this module needs it to be installed.

class Search(APIView):
    throttle_classes = [SearchThrottle]

class SearchThrottle(RatelimitThrottle):
    limits = [("user_or_ip", "10/s"), ("user_or_ip", "1000/h")]
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from .decorator import make_guard
from .exceptions import Ratelimited
from .guard import Guard
from .view_limits import NOT_GIVEN, Limits, make_view_limits


class LimitsUnavailable(APIException):  # type: ignore[misc]  # it has no types
    """A limit's node failed, and RATELIMIT_FAIL_OPEN is False."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The limits of this resource cannot be checked at the moment."
    default_code = "limits_unavailable"

    def __init__(self, wait: float | None) -> None:
        super().__init__()
        self.wait = wait  # which the framework makes Retry-After of


class RatelimitThrottle(BaseThrottle):  # type: ignore[misc]  # it has no types
    """The base class of throttles, whose limits are checked in parallel.

    Its users are those of the view's authentication. The framework responds to refused
    requests, with Retry-After; the middleware adds the header fields of the limits.

    Attributes:
        limits: as the decorator takes them.
        group: what is counted together; by default all views with this class.

    Raises:
        ImproperlyConfigured: where the class is written, if a limit is impossible; when it
            is first used, if there is none.
    """

    limits: ClassVar[Limits | None] = None
    group: ClassVar[str | None] = None

    _guard: ClassVar[Guard | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.limits is None:
            return
        cls.limits = list(cls.limits)  # which classes that inherit from it read again
        view_limits = make_view_limits(cls.limits, key=None, rate=NOT_GIVEN, group=cls.group)
        cls._guard = make_guard(view_limits, f"{cls.__module__}.{cls.__qualname__}")

    def __init__(self) -> None:
        self._refusal: Ratelimited | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Charge the limits; return whether all of them allow the request.

        Raises:
            LimitsUnavailable: a node failed, and none of the other limits refuses.
        """
        if self._guard is None:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} has no limit. Set limits = [('ip', '100/m')]."
            )
        self._refusal = self._guard.charge(cast(HttpRequest, request))
        if self._refusal is not None and self._refusal.unavailable:
            raise LimitsUnavailable(self._refusal.retry_after)
        return self._refusal is None

    def wait(self) -> float | None:
        """Return the seconds after which a refused request may be tried again."""
        return None if self._refusal is None else self._refusal.retry_after
