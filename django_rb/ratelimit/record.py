"""What the limits of one request have said so far, kept with the request.

It lies in `request.META`, which a wrapper of the request (as that of Django REST framework) has
in common with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from django.http import HttpRequest

from .algorithms import Answer
from .exceptions import Ratelimited
from .limiter import Usage, make_usage
from .meters import Question

_META = "django_rb.ratelimit"


@dataclass(slots=True)
class Record:
    """What the limits of one request have said so far.

    Attributes:
        passed: what the limits were asked and have answered, if they were asked once and all
            of them allow the request, as they mostly do.
        refusal: why the request is refused, if it is.
        has_middleware: the middleware tells the client.
    """

    passed: tuple[Sequence[Question], Sequence[Answer]] | None = None
    refusal: Ratelimited | None = None
    has_middleware: bool = False
    _usages: list[tuple[str, Usage]] = field(default_factory=list)

    @property
    def usages(self) -> list[tuple[str, Usage]]:
        """What was said, by the name of the limit, in the order in which limits were asked."""
        if self.passed is not None:
            passed, self.passed = self.passed, None
            self._usages += _read(*passed)
        return self._usages

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Note that limits were asked, all of which allow the request."""
        if self.passed is None and not self._usages:
            self.passed = questions, answers
        else:
            self.usages.extend(_read(questions, answers))


def _read(questions: Sequence[Question], answers: Sequence[Answer]) -> list[tuple[str, Usage]]:
    return [
        (question.meter.name, make_usage(question.limit, answer))
        for question, answer in zip(questions, answers, strict=True)
    ]


def get_record(request: HttpRequest) -> Record:
    """Return a request's record, a new one if it has none yet."""
    record = find_record(request)
    if record is None:
        record = request.META[_META] = Record()
    return record


def find_record(request: HttpRequest) -> Record | None:
    """Return a request's record, None if none of its views is limited."""
    return request.META.get(_META)
