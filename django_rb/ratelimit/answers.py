"""The responses to refused requests."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib import import_module
from typing import Any, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils.cache import patch_vary_headers
from django.utils.html import escape
from django.utils.module_loading import import_string
from django.views import defaults

from ..engine.wording import clause, masked
from .conf import View, get_config
from .exceptions import Ratelimited, say_when
from .record import find_record

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_JSON = ("application/problem+json", "application/json")
_TEMPLATE_SUFFIXES = (".html", ".htm", ".txt")

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{title}</title>
</head>
<body>
  <h1>{title}</h1><p>{detail}</p>
</body>
</html>
"""


def answer(request: HttpRequest, refusal: Ratelimited) -> HttpResponseBase:
    """Return the response to a refused request.

    Raises:
        Ratelimited: the view was not called by Django; or the site has its own handler403, and
            neither RATELIMIT_VIEW nor a template.
    """
    view = _view_for(request, refusal)
    if view is None:
        return _own_answer(request, refusal)
    if iscoroutinefunction(view):
        view = async_to_sync(view)
    return cast(HttpResponseBase, view(request, refusal))


async def aanswer(request: HttpRequest, refusal: Ratelimited) -> HttpResponseBase:
    """Do what `answer` does, for an async view."""
    view = _view_for(request, refusal)
    if view is None:
        if _find_template(refusal) is None:
            return _own_answer(request, refusal)
        # Context processors may ask a database, which they cannot in an event loop.
        return await sync_to_async(_own_answer)(request, refusal)
    if not iscoroutinefunction(view):  # the site's own code, which may block
        view = sync_to_async(view)
    return cast(HttpResponseBase, await view(request, refusal))


def is_template(view: View) -> bool:
    """Return whether RATELIMIT_VIEW names a template, and not a view."""
    return isinstance(view, str) and ("/" in view or view.endswith(_TEMPLATE_SUFFIXES))


def import_view(view: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return the view that RATELIMIT_VIEW names.

    Raises:
        ImproperlyConfigured: there is none.
    """
    if isinstance(view, str):
        try:
            view = import_string(view)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"settings.RATELIMIT_VIEW: {masked(view)} cannot be imported: "
                f"{clause(error)}. Use a view (request, exception), or a template such as "
                "'too_many.html'."
            ) from error
    if not callable(view):
        raise ImproperlyConfigured(
            f"settings.RATELIMIT_VIEW: {masked(view)} is not a view (request, exception)."
        )
    return view


def _view_for(request: HttpRequest, refusal: Ratelimited) -> Callable[..., Any] | None:
    """Return the site's view for refused requests; None if it has none."""
    if isinstance(request, HttpRequest) and request.resolver_match is None:
        raise refusal  # not Django, but a test or another function has called the view
    if refusal.unavailable:
        return None
    view = get_config().view
    if view is not None and not is_template(view):
        return import_view(view)
    # Django REST framework makes a 403 of what its views raise, and asks no handler.
    may_raise = view is None and isinstance(request, HttpRequest)
    if may_raise and not _has_middleware(request) and _has_own_handler(request):
        raise refusal
    return None


def _has_middleware(request: HttpRequest) -> bool:
    record = find_record(request)
    return record is not None and record.has_middleware


def _has_own_handler(request: HttpRequest) -> bool:
    """Return whether the site has a handler403, which may know what Ratelimited is."""
    urlconf = getattr(request, "urlconf", None) or getattr(settings, "ROOT_URLCONF", None)
    if isinstance(urlconf, str):
        urlconf = import_module(urlconf)
    handler = getattr(urlconf, "handler403", None)
    own = defaults.permission_denied
    return handler not in {None, own, f"{own.__module__}.{own.__name__}"}


def _own_answer(request: HttpRequest, refusal: Ratelimited) -> HttpResponse:
    status = HTTPStatus(refusal.status_code)
    detail = _detail(refusal)
    kind = request.get_preferred_type(["text/html", *_JSON])
    if kind in _JSON:
        response: HttpResponse = _problem(status, detail, refusal, str(kind))
    else:
        response = HttpResponse(_page(request, status, detail, refusal), status=status)
    patch_vary_headers(response, ["Accept"])
    return response


def _detail(refusal: Ratelimited) -> str:
    if refusal.unavailable:
        return "The limits of this page cannot be checked at the moment. Try again later."
    seconds = refusal.retry_after
    return "This request is over a limit." if seconds is None else say_when(seconds)


def _problem(status: HTTPStatus, detail: str, refusal: Ratelimited, kind: str) -> JsonResponse:
    """Return what RFC 9457 calls problem details, of a type of the rate limits' draft."""
    name = "temporary-reduced-capacity" if refusal.unavailable else "quota-exceeded"
    problem: dict[str, object] = {
        "type": _PROBLEMS + name,
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "violated-policies": refusal.policies,
    }
    return JsonResponse(problem, status=status, content_type=kind)


def _find_template(refusal: Ratelimited) -> Any:
    """Return the site's template for a refusal, None if it has none."""
    status, view = refusal.status_code, get_config().view
    is_named = status == HTTPStatus.TOO_MANY_REQUESTS and is_template(view)
    try:
        return get_template(str(view) if is_named else f"{status}.html")
    except TemplateDoesNotExist:
        if is_named:
            raise
        return None


def _page(request: HttpRequest, status: HTTPStatus, detail: str, refusal: Ratelimited) -> str:
    template = _find_template(refusal)
    if template is None:
        return _PAGE.format(title=escape(status.phrase), detail=escape(detail))
    context = {
        "exception": refusal,
        "retry_after": refusal.retry_after,
        "usages": refusal.usages,
    }
    return cast(str, template.render(context, request))
