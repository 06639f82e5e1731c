"""Which HTTP methods are limited."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPMethod
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from ..engine.wording import did_you_mean, masked

# All methods; None and (None,) mean the same, as in django-ratelimit.
ALL: Final = (None,)
UNSAFE: Final = ("DELETE", "PATCH", "POST", "PUT")

Methods = str | Sequence[str | None] | None

_WORDS = {"ALL": ALL, "ANY": ALL, "UNSAFE": UNSAFE}

# The methods of HTTP itself, and those extensions that read and write documents: WebDAV
# (RFC 4918), REPORT (RFC 3253), SEARCH (RFC 5323) and QUERY.
_KNOWN = (
    *(method.value for method in HTTPMethod),
    *("COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "UNLOCK"),
    *("QUERY", "REPORT", "SEARCH"),
)


def parse_methods(method: object) -> frozenset[str] | None:
    """Return a set of methods, None for all.

    Args:
        method: a method, `ALL` or `UNSAFE` or their names, None for all; or several of these.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    several = method if isinstance(method, list | tuple | set | frozenset) else [method]
    named: set[str | None] = set()
    for one in several:
        named.update(_parse_one(one))
    if not named:
        raise _mistake(method)
    if None in named:
        return None
    if "GET" in named:
        named.add("HEAD")  # views handle it like GET
    return frozenset(filter(None, named))


def _parse_one(method: object) -> Sequence[str | None]:
    if method is None:
        return ALL
    if not isinstance(method, str):
        raise _mistake(method)
    name = method.upper()
    if name in _WORDS:
        return _WORDS[name]
    if name not in _KNOWN:
        raise _mistake(method, did_you_mean(name, (*_KNOWN, *_WORDS)))
    return (name,)


def _mistake(method: object, way_out: str = "") -> ImproperlyConfigured:
    shown = masked(method) if isinstance(method, str) else repr(method)
    return ImproperlyConfigured(
        f"ratelimit(method=…): {shown} is neither an HTTP method, a list of them, ALL nor "
        f"UNSAFE. {way_out}".rstrip()
    )
