"""What requests are counted by: the client's address, the user, a field, or a function."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.request import HttpHeaders

from ..engine.wording import did_you_mean, masked
from .addresses import address_key
from .functions import RequestFunction

# A kind and a value of it, so that an address never equals a user name. The encoded kind
# contains its own end.
Value = tuple[bytes, bytes]


def _kind(text: str) -> bytes:
    kind = text.encode(errors="surrogatepass")
    return b"%d:%b" % (len(kind), kind)


_IP, _USER = _kind("ip"), _kind("user")
_ANONYMOUS: Value = _kind("anonymous"), b""  # differs from the key of every user

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


class RequestKey(Protocol):
    """Reads from a request what it is counted by."""

    name: str

    def read(self, group: str, request: HttpRequest) -> Value:
        """Return it."""

    async def aread(self, group: str, request: HttpRequest) -> Value:
        """Return it, for an async view."""


class _OfRequest:
    """A key that is read from a request without I/O."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, group: str, request: HttpRequest) -> Value:
        raise NotImplementedError

    async def aread(self, group: str, request: HttpRequest) -> Value:
        return self.read(group, request)


class _Address(_OfRequest):
    def read(self, group: str, request: HttpRequest) -> Value:
        return _IP, address_key(request).encode()


class _Field(_OfRequest):
    def __init__(self, name: str, source: str, field: str) -> None:
        super().__init__(name)
        self._source = source
        self._field = field
        self._kind = _kind(f"field:{field}")

    def read(self, group: str, request: HttpRequest) -> Value:
        fields = request.GET if self._source == "get" else request.POST
        return self._kind, _encoded(fields.get(self._field, ""))


class _Header(_OfRequest):
    def __init__(self, name: str, header: str) -> None:
        super().__init__(name)
        self._name = HttpHeaders.to_wsgi_name(header)
        self._kind = _kind(f"header:{header.lower()}")

    def read(self, group: str, request: HttpRequest) -> Value:
        return self._kind, _encoded(request.META.get(self._name, ""))


class _User:
    """The user; with `or_address`, the client's address if nobody is logged in."""

    def __init__(self, name: str, *, or_address: bool) -> None:
        self.name = name
        self._or_address = or_address

    def read(self, group: str, request: HttpRequest) -> Value:
        return self._of(_attribute_of(request, "user"), request)

    async def aread(self, group: str, request: HttpRequest) -> Value:
        return self._of(await _attribute_of(request, "auser")(), request)

    def _of(self, user: Any, request: HttpRequest) -> Value:
        # Django REST framework can be set up to use None for users who are not logged in.
        if self._or_address and (user is None or not user.is_authenticated):
            return _IP, address_key(request).encode()
        if user is None or user.pk is None:
            return _ANONYMOUS
        return _USER, _encoded(str(user.pk))


class FunctionKey:
    """The result of one of the site's functions for a request."""

    def __init__(self, function: RequestFunction) -> None:
        self.name = function.name
        self.function = function

    def read(self, group: str, request: HttpRequest) -> Value:
        """Return the function's result."""
        return self._value(self.function(group, request))

    async def aread(self, group: str, request: HttpRequest) -> Value:
        """Do what `read` does, for an async view."""
        return self._value(await self.function.acall(group, request))

    @cached_property
    def _kind(self) -> bytes:
        # Two functions have separate counters, even if they return the same.
        return _kind(f"function:{self.function.dotted_name}")

    def _value(self, said: object) -> Value:
        if said is None:
            raise ImproperlyConfigured(
                f"ratelimit(key=…): {self.name!r} returned None. Return a str or bytes. If a "
                "request should not be limited, use a function as the rate, and return None "
                "there."
            )
        return self._kind, _encoded(said)


_SIMPLE = ("ip", "user", "user_or_ip")
_BY_ADDRESS = ("ip", "user_or_ip")


def parse_key(key: object) -> RequestKey:
    """Return a key for the argument of the decorator.

    Args:
        key: "ip", "user", "user_or_ip", "get:field", "post:field", "header:name", a function
            ``(group, request)`` or its dotted path.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    if isinstance(key, str):
        return _parse_text(key)
    if callable(key):
        return FunctionKey(RequestFunction(key, "ratelimit(key=…)"))
    if key is None:
        raise _mistake(
            "The key is missing. Give 'ip', 'user', 'user_or_ip', 'get:field', 'post:field', "
            "'header:name' or a function (group, request)."
        )
    raise _mistake(f"{masked(key)} is neither a str nor a function (group, request).")


def is_by_address(key: RequestKey) -> bool:
    """Return whether requests are counted by the client's address."""
    return key.name in _BY_ADDRESS and not isinstance(key, FunctionKey)


@lru_cache(maxsize=256)
def _parse_text(key: str) -> RequestKey:
    if key == "ip":
        return _Address(key)
    if key in _SIMPLE:
        return _User(key, or_address=key == "user_or_ip")
    source, colon, field = key.partition(":")
    if colon:
        return _parse_field(key, source, field)
    if "." in key:
        return FunctionKey(RequestFunction(key, "ratelimit(key=…)"))
    raise _mistake(f"There is no key {masked(key)}. {did_you_mean(key, _SIMPLE)}")


def _parse_field(key: str, source: str, field: str) -> RequestKey:
    if source not in {"get", "post", "header"}:
        known = ("get:", "post:", "header:")
        raise _mistake(f"There is no key {masked(key)}. {did_you_mean(source + ':', known)}")
    if not field:
        raise _mistake(f"{key!r} contains no field. Use {source}:name.")
    if source != "header":
        return _Field(key, source, field)
    if not _TOKEN.fullmatch(field):
        raise _mistake(f"{masked(field)} is not the name of a header. Use 'header:x-api-key'.")
    return _Header(key, field)


def _attribute_of(request: HttpRequest, name: str) -> Any:
    try:
        return getattr(request, name)
    except AttributeError as error:
        raise ImproperlyConfigured(
            f"A limit by user requires request.{name}. Add "
            "'django.contrib.auth.middleware.AuthenticationMiddleware' to "
            "settings.MIDDLEWARE, after SessionMiddleware."
        ) from error


def _encoded(value: object) -> bytes:
    # A header may contain bytes that are not text, and a form lone surrogates.
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


def _mistake(text: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"ratelimit(key=…): {text}")
