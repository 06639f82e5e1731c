"""The header fields of responses: RateLimit-Policy, RateLimit and Retry-After.

The first two are those of draft-ietf-httpapi-ratelimit-headers, in the form they have had since
its 10th version: lists of strings with parameters (structured fields, RFC 9651). A policy has
its quota `q` and its window `w` in seconds; a token bucket has room for its quota, and fills in
its window. Its limit has what is left, `r`, and the seconds `t` for which that has to do.
"""

from __future__ import annotations

import math
from functools import lru_cache

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .algorithms import Rule
from .record import Record, find_record

_LARGEST = 10**15 - 1  # of the integers of structured fields


def set_fields(request: HttpRequest, response: HttpResponseBase) -> None:
    """Set the header fields of a response from the limits of its request, if it has any."""
    record = find_record(request)
    if record is not None:
        tell(record, response)


def tell(record: Record, response: HttpResponseBase) -> None:
    """Set the header fields of a response from a record of limits."""
    if record.said:
        policies = _policies(tuple([(name, rule) for name, rule, _, _ in record.said]))
        response.headers["RateLimit-Policy"] = policies
        limits = [
            _limit(name, remaining, seconds)
            for name, _, remaining, seconds in record.said
            if remaining is not None
        ]
        if limits:
            response.headers["RateLimit"] = ", ".join(limits)
    refusal = record.refusal
    if refusal and refusal.retry_after is not None and not response.has_header("Retry-After"):
        response["Retry-After"] = str(refusal.retry_after)


@lru_cache(maxsize=256)
def _policies(rules: tuple[tuple[str, Rule], ...]) -> str:
    return ", ".join(
        f"{_quoted(name)};q={min(rule.capacity, _LARGEST)};w={min(rule.window, _LARGEST)}"
        for name, rule in rules
    )


def _limit(name: str, remaining: int, seconds: float) -> str:
    left = f"{_quoted(name)};r={min(max(0, remaining), _LARGEST)}"
    return left if seconds == math.inf else f"{left};t={min(math.ceil(seconds), _LARGEST)}"


@lru_cache(maxsize=256)
def _quoted(name: str) -> str:
    """Return a name as a string of structured fields, which is of ASCII."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in name)
    escaped = plain.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
