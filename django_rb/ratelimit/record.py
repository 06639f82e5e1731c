"""What the limits of one request have said so far, kept with the request.

It lies in `request.META`, which a wrapper of the request (as that of Django REST framework) has
in common with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from django.http import HttpRequest

from .exceptions import Ratelimited
from .limiter import Usage

_META = "django_rb.ratelimit"


@dataclass(slots=True)
class Record:
    """What the limits of one request have said so far.

    Attributes:
        usages: by the name of the limit, in the order in which the limits were asked.
        refusal: why the request is refused, if it is.
        has_middleware: the middleware tells the client.
    """

    usages: list[tuple[str, Usage]] = field(default_factory=list)
    refusal: Ratelimited | None = None
    has_middleware: bool = False


def get_record(request: HttpRequest) -> Record:
    """Return a request's record, a new one if it has none yet."""
    return cast(Record, request.META.setdefault(_META, Record()))


def find_record(request: HttpRequest) -> Record | None:
    """Return a request's record, None if none of its views is limited."""
    return request.META.get(_META)
