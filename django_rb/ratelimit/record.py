"""The results of the limits of one request so far, stored with the request.

They are in `request.META`, which is shared by wrappers of the request (such as that of Django
REST framework).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.http import HttpRequest

from .algorithms import Rule
from .exceptions import Ratelimited

_META = "django_rb.ratelimit"


# The result of one limit: its name, its rule, what remains (None if its node failed), and for
# how many seconds that has to last. No two limits of a request have the same name.
Said = tuple[str, Rule, int | None, float]


@dataclass(slots=True)
class Record:
    """The results of the limits of one request so far.

    Attributes:
        said: the results, in the order in which the limits were checked.
        refusal: why the request is refused, if it is.
        has_middleware: the middleware adds the results to the response.
    """

    said: list[Said] = field(default_factory=list)
    refusal: Ratelimited | None = None
    has_middleware: bool = False


def get_record(request: HttpRequest) -> Record:
    """Return a request's record, a new one if it has none yet."""
    record = find_record(request)
    if record is None:
        record = request.META[_META] = Record()
    return record


def find_record(request: HttpRequest) -> Record | None:
    """Return a request's record, None if none of its views is limited."""
    return request.META.get(_META)
