"""Keeping passwords out of repr() and out of the local variables that error reports show.

Debug pages, error trackers and `traceback` with `capture_locals` print the local variables of
every frame of a traceback. Frames that handle settings and passwords stay in the traceback,
but their variables are cleared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import wraps
from inspect import iscoroutinefunction
from traceback import walk_tb
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Only our own frames and those of redis-py are cleared. Those of the site's own classes, such
# as a credential provider or a router, keep their variables.
_PACKAGES = frozenset({__name__.partition(".")[0], "redis"})

# The secret options of redis-py's connections, TLS options under rb's names included.
_SECRET_OPTIONS = frozenset({"password", "ssl_password"})


class HiddenText(str):
    """A string whose repr() is '***', also inside a dictionary or list."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hidden(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the same options with passwords that repr() does not show."""
    concealed: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and (inner := hidden(value)) is not value:
            concealed[name] = inner
        elif name in _SECRET_OPTIONS and isinstance(value, str):
            concealed[name] = HiddenText(value)
    return {**options, **concealed} if concealed else options


def revealed(value: Any) -> Any:
    """Return a value, or options, with hidden passwords as plain strings again."""
    if isinstance(value, HiddenText):
        return str(value)
    if type(value) is dict:
        return {name: revealed(each) for name, each in value.items()}
    return value


def hides_locals(function: Callable[P, T]) -> Callable[P, T]:
    """Clear the local variables of a function, and of what it calls, when it raises.

    This is a decorator; for a coroutine function, also those of what it awaits.
    """
    if iscoroutinefunction(function):
        awaited: Any = _hides_locals_awaited(function)
        return wraps(function)(awaited)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        handled = sys.exception()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            _forget_locals(error, handled)
            del args, kwargs
            raise

    return wrapper


def _hides_locals_awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            _forget_locals(error, handled)
            del args, kwargs
            raise

    return wrapper


def _forget_locals(error: BaseException, handled: BaseException | None) -> None:
    for each in _chain(error, handled):
        for frame, _ in walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
                with suppress(RuntimeError):  # it has not ended
                    frame.clear()


def _chain(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its causes and its contexts, but not what the caller was handling."""
    seen = {id(handled)}
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__]
