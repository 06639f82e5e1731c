"""Everything that Python, Django and error trackers show of an error."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.conf import settings
from django.test import RequestFactory, override_settings
from django.views.debug import (
    DEBUG_ENGINE,
    ExceptionReporter,
    SafeExceptionReporterFilter,
)

from django_rb.engine import failures_of

# Django parses the two templates of its pages for each page, which takes a quarter of the time.
_once_parsed = functools.cache(DEBUG_ENGINE.from_string)

urlpatterns: list[Any] = []  # a debug page shows the view that a request was for


class _OurSettings(SafeExceptionReporterFilter):
    """Shows only the settings that may contain a password of ours, as Django shows them.

    With all two hundred settings, a page takes twice as long.
    """

    def get_safe_settings(self) -> dict[str, Any]:
        names = ("CACHES", "RB_CLUSTERS")
        return {name: self.cleanse_setting(name, getattr(settings, name)) for name in names}


def caught(action: Callable[[], Any]) -> BaseException:
    """Return what an action raises."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 (whatever it is)
        return error
    raise AssertionError("Nothing was raised.")


def report(error: BaseException) -> str:
    """Return all that can be shown of an error, its failures, and what led to them."""
    return "\n".join(_parts(error))


def _parts(error: BaseException) -> Iterator[str]:
    for each in _family(error):
        yield f"{each} {each!r} {each.args} {vars(each)}"
        yield from getattr(each, "__notes__", ())
        yield from traceback.TracebackException.from_exception(
            each, capture_locals=True
        ).format()
        yield from _frames(each)
        for failure in failures_of(each):
            yield f"{failure} {failure!r} {failure.error}"
    yield from _debug_pages(error)


def _family(error: BaseException) -> list[BaseException]:
    """Return an error and every other that it knows, suppressed or not."""
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and not any(each is other for other in found):
            found.append(each)
            pending += [each.__cause__, each.__context__]
            pending += [failure.error for failure in failures_of(each)]
    return found


def _frames(error: BaseException) -> Iterator[str]:
    """Yield the variables of each frame at full length."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name, value in frame.f_locals.items():
            yield f"{frame.f_code.co_name}: {name} = {value!r}"


def _debug_pages(error: BaseException) -> Iterator[str]:
    """Yield Django's technical 500 page, as shown with DEBUG and as mailed without.

    The page with DEBUG shows the most of the error, and the mailed text has all settings.
    """
    parsing = mock.patch.object(DEBUG_ENGINE, "from_string", _once_parsed)
    with parsing, override_settings(DEBUG=True, ROOT_URLCONF=__name__):
        request = RequestFactory().get("/")
        request.exception_reporter_filter = _OurSettings()
        reporter = ExceptionReporter(request, type(error), error, error.__traceback__)
        yield reporter.get_traceback_html()
    with parsing, override_settings(DEBUG=False, ROOT_URLCONF=__name__):
        reporter = ExceptionReporter(None, type(error), error, error.__traceback__)
        yield reporter.get_traceback_text()
