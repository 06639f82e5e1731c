"""The site's own functions that return a request's key or rate."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.module_loading import import_string

from ..engine.wording import clause, masked

# The dotted paths that views name, for `manage.py check`: they are imported when they are
# first used, since the module with the view may be half imported where it names them.
named_paths: set[str] = set()


class RequestFunction:
    """A function ``(group, request)``, or the dotted path of one. It may be async.

    A path's module has to exist when the view is decorated; the function is looked up in it
    when it is first called.

    Args:
        given: the function, or its path.
        whose: what it is for, in errors.

    Raises:
        ImproperlyConfigured: it cannot be called so, or there is nothing at its path.
    """

    def __init__(self, given: Callable[..., Any] | str, whose: str) -> None:
        self._whose = whose
        self._function: Callable[..., Any] | None = None
        if isinstance(given, str):
            self.name = given
            self._check_path(given)
            named_paths.add(given)
        else:
            self.name = getattr(given, "__name__", type(given).__name__)
            self._function = self._checked(given)

    def __call__(self, group: str, request: HttpRequest) -> Any:
        """Return the function's result for a request."""
        said = self.resolve()(group, request)
        return async_to_sync(_wait)(said) if inspect.isawaitable(said) else said

    async def acall(self, group: str, request: HttpRequest) -> Any:
        """Return the function's result for a request, awaited if the function is async."""
        said = self.resolve()(group, request)
        return await said if inspect.isawaitable(said) else said

    def resolve(self) -> Callable[..., Any]:
        """Return the function.

        Raises:
            ImproperlyConfigured: there is none at its path.
        """
        if self._function is None:
            try:
                self._function = self._checked(import_string(self.name))
            except ImportError as error:
                raise self._mistake(f"cannot be imported: {clause(error)}.") from error
        return self._function

    @cached_property
    def dotted_name(self) -> str:
        """Return where the function is defined, be it given itself or by a path.

        Raises:
            ImproperlyConfigured: there is none at its path.
        """
        function = self.resolve()
        while isinstance(function, partial):
            function = function.func
        if not hasattr(function, "__qualname__"):
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"

    @property
    def is_resolved(self) -> bool:
        """Whether the function is known; one given by its path is imported when first used."""
        return self._function is not None

    def is_namesake(self, other: RequestFunction) -> bool:
        """Return whether another one is a different function with the same dotted name."""
        if self.dotted_name != other.dotted_name:
            return False
        return _without_partial(self.resolve()) != _without_partial(other.resolve())

    def _check_path(self, path: str) -> None:
        module = path.rpartition(".")[0]
        try:
            found = find_spec(module) if all(path.split(".")) else None
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise self._mistake("cannot be imported: there is no such module.")

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise self._mistake("is not a function.")
        try:
            inspect.signature(function).bind("group", None)
        except TypeError as error:
            raise self._mistake(
                f"cannot be called with (group, request): {clause(error)}. Write it as "
                "def function(group, request)."
            ) from error
        except ValueError:  # a builtin without a signature
            pass
        return function

    def _mistake(self, text: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{self._whose}: {masked(self.name)} {text}")


def _without_partial(function: Callable[..., Any]) -> object:
    """Return what identifies a function: itself, and the arguments of partial(), if any."""
    if not isinstance(function, partial):
        return function
    if not (function.args or function.keywords):
        return function.func
    return function.func, function.args, function.keywords


async def _wait(said: Awaitable[Any]) -> Any:
    return await said
