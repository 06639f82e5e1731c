"""What keeps passwords out of the local variables that error reports show, and out of repr().

Debug pages, error trackers and `traceback` with `capture_locals` print the variables of
every frame that an error came through. Where settings and passwords are among them, the
frames stay, so that one sees the way, and forget their variables.
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

# Only our own frames and those of redis-py: a credential provider or a router of the
# site's keeps its variables.
_PACKAGES = frozenset({__name__.partition(".")[0], "redis"})

# Options of redis-py's connections, and rb's names for those of TLS, that are secret.
_SECRET_OPTIONS = frozenset({"password", "ssl_password"})


class HiddenText(str):
    """A text whose repr() does not show it, nor that of a dictionary or list it is in."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hidden(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options of connections as they are, but printing them shows no password."""
    concealed: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and (inner := hidden(value)) is not value:
            concealed[name] = inner
        elif name in _SECRET_OPTIONS and isinstance(value, str):
            concealed[name] = HiddenText(value)
    return {**options, **concealed} if concealed else options


def revealed(value: Any) -> Any:
    """Return what was hidden, or options with something hidden, as it was given."""
    if isinstance(value, HiddenText):
        return str(value)
    if type(value) is dict:
        return {name: revealed(each) for name, each in value.items()}
    return value


def hides_locals(function: Callable[P, T]) -> Callable[P, T]:
    """Let no error show the arguments of a function, or the variables of what it calls.

    Of a coroutine function: nor of what it awaits.
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
    """Yield an error and what led to it, up to what the caller was handling already."""
    seen = {id(handled)}
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__]
