"""The fields of answers: RateLimit-Policy, RateLimit and Retry-After.

The first two are those of draft-ietf-httpapi-ratelimit-headers, in the form they have had since
its 10th version: lists of strings with parameters (structured fields, RFC 9651). A policy has
its quota `q` and its window `w` in seconds; a token bucket has room for its quota, and fills in
its window. Its limit has what is left, `r`, and the seconds `t` for which that has to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .algorithms import Answer, Rule
from .limiter import Usage
from .meters import Meter, Question
from .policies import name_apart
from .record import Record, find_record

_LARGEST = 10**15 - 1  # of the integers of structured fields


def set_fields(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let an answer say what the limits of its request have said, if there are any."""
    record = find_record(request)
    if record is not None:
        tell(record, response)


def tell(record: Record, response: HttpResponseBase) -> None:
    """Let an answer say what limits have said."""
    if record.passed is not None:
        _set_passed(response, *record.passed)
    elif record.usages:
        _set_limits(response, record)
    refusal = record.refusal
    if refusal and refusal.retry_after is not None and not response.has_header("Retry-After"):
        response["Retry-After"] = str(refusal.retry_after)


def _set_passed(
    response: HttpResponseBase, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
    """Do what `_set_limits` does, of limits that all allow the request."""
    policies, limits, rules = _texts(tuple([question.meter for question in questions]))
    numbers: list[float] = []
    for (capacity, ticks), answer in zip(rules, answers, strict=True):
        numbers += min(capacity - answer[1], _LARGEST), min(-(-answer[2] // ticks), _LARGEST)
    response.headers["RateLimit-Policy"] = policies
    response.headers["RateLimit"] = limits % tuple(numbers)


@lru_cache(maxsize=256)
def _texts(meters: tuple[Meter, ...]) -> tuple[str, str, list[tuple[int, int]]]:
    """Return the policies of meters, a format for their limits, and capacities and ticks."""
    policies = ", ".join([_policy(meter.name, meter.rule) for meter in meters])
    names = [_quoted(meter.name).replace("%", "%%") for meter in meters]
    limits = ", ".join([f"{name};r=%d;t=%d" for name in names])
    return policies, limits, [(m.rule.capacity, m.rule.ticks_per_second) for m in meters]


def _set_limits(response: HttpResponseBase, record: Record) -> None:
    names = name_apart(name for name, _ in record.usages)
    usages = [usage for _, usage in record.usages]
    pairs = list(zip(names, usages, strict=True))
    response["RateLimit-Policy"] = ", ".join(
        [_policy(name, usage.limit.rule) for name, usage in pairs]
    )
    known = [_limit(name, usage) for name, usage in pairs if usage.error is None]
    if known:
        response["RateLimit"] = ", ".join(known)


@lru_cache(maxsize=256)
def _policy(name: str, rule: Rule) -> str:
    quota, window = min(rule.capacity, _LARGEST), min(rule.window, _LARGEST)
    return f"{_quoted(name)};q={quota};w={window}"


def _limit(name: str, usage: Usage) -> str:
    # Who is refused can use nothing until a request could be allowed again; others what is
    # left, until the limit is as if unused.
    seconds = usage.reset if usage.allowed else usage.retry_after
    left = f"{_quoted(name)};r={min(max(0, usage.remaining), _LARGEST)}"
    return left if math.isinf(seconds) else f"{left};t={min(math.ceil(seconds), _LARGEST)}"


@lru_cache(maxsize=256)
def _quoted(name: str) -> str:
    """Return a name as a string of structured fields, which is of ASCII."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in name)
    escaped = plain.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
