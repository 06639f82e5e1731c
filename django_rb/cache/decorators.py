"""@cached: a function's results are cached, and computed by one caller for all."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import markcoroutinefunction
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .terms import get_terms

if TYPE_CHECKING:
    from .backend import RBCache

# Types whose repr() is the same in every process and different for different values.
_PLAIN = (bool, int, float, complex, bytes, Decimal, UUID, date, time, timedelta)
_WORD = re.compile(r"(?!None|True|False|nan|inf)[A-Za-z][\w-]*", re.ASCII)  # text as it is
_READABLE = re.compile(r"[\w.,:+@/=-]{0,150}", re.ASCII)

# What a result depends on: the name of a parameter, optionally with attributes ("self.pk"), or
# a function without parameters.
Dependency = str | Callable[[], object]


def cached(
    *,
    timeout: Any = DEFAULT_TIMEOUT,
    cache: str = "default",
    key: str | Callable[..., object] | None = None,
    vary: Dependency | Iterable[Dependency] | None = None,
    version: int | None = None,
    stale: Any = None,
    lock: Any = None,
    early: bool | float = False,
    background: bool = False,
    retry_after: Any = None,
) -> Callable[[Callable[..., Any]], CachedFunction]:
    """Return a decorator for functions, methods and coroutine functions.

    @cached(timeout=300, stale=60)
    def bestsellers(category, limit=10): ...

    bestsellers("poetry")             # computed once, then cached
    bestsellers.key("poetry")         # the key in the cache
    bestsellers.invalidate("poetry")  # the next call computes
    bestsellers.refresh("poetry")     # computes now, stores and returns

    Those of a coroutine function are awaited, but for `key`. The argument that is left out and
    the one that is given as its default are the same.

    Args:
        cache: the alias of a cache of django_rb.
        key: the key: a template with parameters, such as "books:{category}", or a function of
            the arguments. By default the function's dotted name and the arguments.
        vary: what the result depends on. If names of parameters are given, such as "self.pk" or
            "category", only these are part of the key; by default all are. The results of
            functions, such as `django.utils.translation.get_language`, are added to the key.
        version: the version of the key.

    For the other arguments see `RBCache.get_or_set`.

    Raises:
        TypeError: what is decorated is no function; or an argument of a call has no text of its
            own that could be part of a key.
    """
    get_terms(early, stale, lock, background, retry_after)  # raises if they are invalid
    options = {
        "stale": stale,
        "lock": 5 if lock is None else lock,
        "early": early,
        "background": background,
        "retry_after": retry_after,
    }

    def decorate(function: Callable[..., Any]) -> CachedFunction:
        make_key = KeyMaker(function, key, vary)
        kind: type[CachedFunction] = CachedFunction
        if inspect.iscoroutinefunction(function):
            kind = CachedCoroutineFunction
        return kind(function, cache, make_key, timeout, version, options)

    return decorate


class CachedFunction:
    """A function whose results are kept in a cache; see `cached`."""

    def __init__(
        self,
        function: Callable[..., Any],
        alias: str,
        make_key: Callable[..., str],
        timeout: Any,
        version: int | None,
        options: Mapping[str, Any],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._alias = alias
        self._make_key = make_key
        self._timeout = timeout
        self._version = version
        self._options = options

    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction:
        """Return the function bound to an object, for methods."""
        if instance is None:
            return self
        bound: CachedFunction = type(self)(
            functools.partial(self._function, instance),
            self._alias,
            functools.partial(self._make_key, instance),
            self._timeout,
            self._version,
            self._options,
        )
        functools.update_wrapper(bound, self._function)
        return bound

    def __repr__(self) -> str:
        return f"<cached {self._function!r}>"

    @property
    def cache(self) -> RBCache:
        """The cache.

        Raises:
            ImproperlyConfigured: there is none, or it is not an RBCache.
        """
        from .backend import get_cache  # noqa: PLC0415 (which knows this module)

        return get_cache(self._alias)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key in the cache for a call."""
        return self._make_key(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, or has returned."""
        return self.cache.get_or_set(
            self._make_key(*args, **kwargs),
            functools.partial(self._function, *args, **kwargs),
            self._timeout,
            self._version,
            **self._options,
        )

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        """Delete what is kept of a call; return whether there was something."""
        return self.cache.delete(self._make_key(*args, **kwargs), self._version)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function whatever is kept; keep and return what it returns."""
        return self.cache.refresh(
            self._make_key(*args, **kwargs),
            functools.partial(self._function, *args, **kwargs),
            self._timeout,
            self._version,
            stale=self._options["stale"],
            lock=self._options["lock"],
        )


class CachedCoroutineFunction(CachedFunction):
    """A coroutine function whose results are kept in a cache; see `cached`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        markcoroutinefunction(self)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, or has returned."""
        return await self.cache.aget_or_set(
            self._make_key(*args, **kwargs),
            functools.partial(self._function, *args, **kwargs),
            self._timeout,
            self._version,
            **self._options,
        )

    async def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Delete what is kept of a call; return whether there was something."""
        return await self.cache.adelete(self._make_key(*args, **kwargs), self._version)

    async def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function whatever is kept; keep and return what it returns."""
        return await self.cache.arefresh(
            self._make_key(*args, **kwargs),
            functools.partial(self._function, *args, **kwargs),
            self._timeout,
            self._version,
            stale=self._options["stale"],
            lock=self._options["lock"],
        )


class KeyMaker:
    """Makes the keys of a function's calls.

    Args:
        function: is called.
        key: see `cached`.
        vary: see `cached`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: str | Callable[..., object] | None,
        vary: Dependency | Iterable[Dependency] | None,
    ) -> None:
        if isinstance(function, staticmethod | classmethod | type) or not callable(function):
            raise TypeError(
                f"@cached can only decorate functions, not {function!r}. Put it below "
                "@staticmethod, @classmethod and @property."
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"@cached cannot store the values of the generator {function!r}. Return a "
                "list instead."
            )
        self._name = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        # Of each parameter, where all of them may be given by position.
        self._defaults: tuple[Any, ...] | None = None
        if all(parameter.kind <= parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
            self._defaults = tuple(parameter.default for parameter in parameters)
        self._key = key
        listed = (vary,) if isinstance(vary, str) or callable(vary) else tuple(vary or ())
        self._named = [part for part in listed if isinstance(part, str)]
        self._asked = [part for part in listed if not isinstance(part, str)]
        for name in self._named:
            if name.partition(".")[0] not in self._signature.parameters:
                raise TypeError(
                    f"vary contains {name!r}, but {self._name}() has no such parameter. Its "
                    f"parameters are: {', '.join(self._signature.parameters)}."
                )

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of a call."""
        asked = [f"{_text(depends(), self._name)}" for depends in self._asked]
        if callable(self._key):
            return ":".join((str(self._key(*args, **kwargs)), *asked))
        arguments = self._arguments_of(args, kwargs)
        if self._key is not None:
            return ":".join((self._key.format(**arguments), *asked))
        if self._named:
            parts = [f"{n}={_text(_look_up(arguments, n), self._name)}" for n in self._named]
        else:
            parts = [f"{n}={_text(value, self._name)}" for n, value in arguments.items()]
        text = ",".join((*parts, *asked))
        if not _READABLE.fullmatch(text):
            text = f"#{sha256(text.encode(errors='surrogatepass')).hexdigest()}"
        return f"{self._name}:{text}"

    def _arguments_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by parameter, those that are left out as their defaults."""
        if self._defaults is not None and not kwargs and len(args) <= len(self._defaults):
            values = (*args, *self._defaults[len(args) :])
            if all(value is not inspect.Parameter.empty for value in values):  # bind() is slow
                return dict(zip(self._signature.parameters, values, strict=True))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def _look_up(arguments: Mapping[str, Any], path: str) -> Any:
    name, *attributes = path.split(".")
    return functools.reduce(getattr, attributes, arguments[name])


def _text(value: object, function: str) -> str:
    """Return text for a value that is the same in every process."""
    text = _text_of_scalar(value)
    if text is not None:
        return text
    if isinstance(value, tuple | list):
        return f"[{','.join(_text(item, function) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(_text(item, function) for item in value))}}}"
    if isinstance(value, dict):
        pairs = (f"{_text(k, function)}:{_text(v, function)}" for k, v in value.items())
        return f"{{{','.join(sorted(pairs))}}}"
    meta, pk = getattr(value, "_meta", None), getattr(value, "pk", None)
    if meta is not None and pk is not None:  # a model's object
        return f"{meta.label_lower}:{_text(pk, function)}"
    raise TypeError(
        f"{function}() was called with a {type(value).__name__}, which cannot be part of a "
        "key. Give @cached a key= (a template, or a function of the arguments), or a vary= "
        "with the values that matter, such as vary=['self.pk', 'category']."
    )


def _text_of_scalar(value: object) -> str | None:
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, str):
        value = str(value)
        return value if _WORD.fullmatch(value) else repr(value)
    if value is None or type(value) in _PLAIN or isinstance(value, date):
        return repr(value)
    return None
