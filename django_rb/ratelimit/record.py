"""What the limits of one request have said so far, kept with the request.

It lies in `request.META`, which a wrapper of the request (as that of Django REST framework) has
in common with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.http import HttpRequest

from .algorithms import Rule
from .exceptions import Ratelimited

_META = "django_rb.ratelimit"


# What one limit said: its name, its rule, what is left of it (None if its node failed), and the
# seconds for which that has to do. No two limits of a request have the same name.
Said = tuple[str, Rule, int | None, float]


@dataclass(slots=True)
class Record:
    """What the limits of one request have said so far.

    Attributes:
        said: what they said, in the order in which they were asked.
        refusal: why the request is refused, if it is.
        has_middleware: the middleware tells the client.
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
