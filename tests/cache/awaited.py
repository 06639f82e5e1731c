"""A cache whose asynchronous methods are behind the names of the others.

So that one text of a test tells of both.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

from django_rb.cache import RBCache


class Loops:
    """An event loop per thread, all closed at the end."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._runners: list[asyncio.Runner] = []

    def run(self, awaitable: Any) -> Any:
        """Run something awaitable on the loop of the thread."""
        runner = getattr(self._local, "runner", None)
        if runner is None:
            runner = self._local.runner = asyncio.Runner()
            self._runners.append(runner)

        async def wait() -> Any:
            return await awaitable

        return runner.run(wait())

    def close(self) -> None:
        for runner in self._runners:
            runner.close()


class Awaited(RBCache):
    """An RBCache of which every method that has an asynchronous twin is that twin."""

    loops: Loops

    def __getattribute__(self, name: str) -> Any:
        # Django itself calls close(), also while a loop runs.
        if name != "close" and not name.startswith("_") and hasattr(RBCache, f"a{name}"):
            twin = object.__getattribute__(self, f"a{name}")
            return _called(twin, object.__getattribute__(self, "loops"))
        return object.__getattribute__(self, name)


def _called(twin: Callable[..., Any], loops: Loops) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(twin):
        return lambda *args, **kwargs: loops.run(twin(*args, **kwargs))
    if inspect.isasyncgenfunction(twin):
        return lambda *args, **kwargs: _iterate(twin(*args, **kwargs), loops)
    return lambda *args, **kwargs: _Lock(twin(*args, **kwargs), loops)


def _iterate(items: Any, loops: Loops) -> Iterator[Any]:
    while True:
        try:
            yield loops.run(anext(items))
        except StopAsyncIteration:
            return


class _Lock:
    def __init__(self, lock: Any, loops: Loops) -> None:
        self._lock = lock
        self._loops = loops

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._lock, name)
        if not callable(attribute):
            return attribute
        return lambda *args, **kwargs: self._loops.run(attribute(*args, **kwargs))

    def __enter__(self) -> _Lock:
        self._loops.run(self._lock.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loops.run(self._lock.__aexit__(*exc_info))
