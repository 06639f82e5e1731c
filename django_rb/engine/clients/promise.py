"""Promises for the results of commands whose batch has not run yet.

The names are rb's. Chaining follows ECMAScript's promises
(https://tc39.es/ecma262/#sec-promise-objects), but callbacks are called at once, and any code
may settle a promise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

T = TypeVar("T")

PENDING, RESOLVED, REJECTED = "pending", "resolved", "rejected"


class Unhandled(dict["Promise[Any]", list[BaseException]]):
    """Rejected promises whose error no callback handled, and the errors, in order.

    Attributes:
        run: a coroutine function that settles pending promises, when one is awaited.
    """

    run: Callable[[], Awaitable[None]] | None = None


class Promise(Generic[T]):
    """The future result of a command.

    with cluster.map() as client:
        promise = client.get("page:1")
    promise.value

    Attributes:
        value: the result; None if the promise was rejected. Reading it while the promise is
            pending raises a RuntimeError.
        reason: the error that it was rejected with, or None.
    """

    __slots__ = ("_callbacks", "_errbacks", "_state", "_unhandled", "reason", "value")

    value: T
    reason: BaseException | None
    _callbacks: list[Callable[[Any], object]] | None
    _errbacks: list[Callable[[Any], object]] | None

    def __init__(self, unhandled: Unhandled | None = None) -> None:
        self.reason = None
        self._state = PENDING
        self._callbacks = None
        self._errbacks = None
        # Collects rejections that no callback handles; shared with derived promises.
        self._unhandled = unhandled

    if not TYPE_CHECKING:  # else type checkers would accept any attribute

        def __getattr__(self, name: str) -> NoReturn:
            """Explain why a pending promise has no value; called for missing attributes."""
            if name == "value":
                raise RuntimeError(
                    "The promise is pending: it has no value yet. Read it after the end of "
                    "the `with` block in which it was made, or after client.join(). (If an "
                    "exception ended the block, nothing was sent. On event loops, await "
                    "the promise.)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @staticmethod
    def resolved(value: T) -> Promise[T]:
        """Return a promise that is resolved with a value."""
        promise: Promise[T] = Promise()
        promise.resolve(value)
        return promise

    @staticmethod
    def rejected(reason: BaseException) -> Promise[Any]:
        """Return a promise that is rejected with an error."""
        promise: Promise[Any] = Promise()
        promise.reject(reason)
        return promise

    @overload
    @staticmethod
    def all(  # type: ignore[overload-overlap]
        promises: Mapping[Any, Any],
    ) -> Promise[dict[Any, Any]]: ...

    @overload
    @staticmethod
    def all(promises: Iterable[Any]) -> Promise[list[Any]]: ...

    @staticmethod
    def all(promises: Mapping[Any, Any] | Iterable[Any]) -> Promise[Any]:
        """Return a promise for the values of many: a list for a list, a dict for a dict.

        Other objects count as values. The first rejection rejects the returned promise.
        """
        if isinstance(promises, Mapping):
            keys = list(promises)
            return _all(
                list(promises.values()), lambda values: dict(zip(keys, values, strict=True))
            )
        return _all(list(promises), lambda values: values)

    @property
    def is_pending(self) -> bool:
        """Whether it has neither a value nor an error yet."""
        return self._state == PENDING

    @property
    def is_resolved(self) -> bool:
        """Whether it has its value."""
        return self._state == RESOLVED

    @property
    def is_rejected(self) -> bool:
        """Whether it has failed."""
        return self._state == REJECTED

    def resolve(self, value: Any) -> None:
        """Settle it with a value; given another promise, with the result of that.

        Raises:
            TypeError: `value` is this very promise.
            RuntimeError: it is settled already.
            Exception: a callback has raised it; all others were called as well.
        """
        if isinstance(value, Promise):
            self._follow(value)
            return
        if self._state != PENDING:
            raise RuntimeError("The promise is no longer pending.")
        self._state = RESOLVED
        self.value = value
        if self._errbacks is not None:
            self._errbacks = None
        callbacks = self._callbacks
        if callbacks is not None:
            self._callbacks = None
            _call_all(callbacks, value)

    def reject(self, reason: BaseException) -> None:
        """Settle it with an error.

        Raises:
            RuntimeError: it is settled already.
            Exception: a callback has raised it; all others were called as well.
        """
        if self._state != PENDING:
            raise RuntimeError("The promise is no longer pending.")
        self._state = REJECTED
        self.value = None  # type: ignore[assignment]
        self.reason = reason
        self._callbacks = None
        errbacks = self._errbacks
        if errbacks is not None:
            self._errbacks = None
            _call_all(errbacks, reason)
        elif self._unhandled is not None:
            self._unhandled[self] = [reason]

    def done(
        self,
        on_success: Callable[[T], object] | None = None,
        on_failure: Callable[[Any], object] | None = None,
    ) -> Promise[T]:
        """Add callbacks for the value and the error; return the promise itself.

        A callback is called at once if the promise is settled already. An error for which
        there is an `on_failure` counts as handled.
        """
        if self._state == PENDING:
            if on_success is not None:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(on_success)
            if on_failure is not None:
                if self._errbacks is None:
                    self._errbacks = []
                self._errbacks.append(on_failure)
        elif self._state == RESOLVED:
            if on_success is not None:
                on_success(self.value)
        elif on_failure is not None:
            if self._unhandled is not None:
                self._unhandled.pop(self, None)
            on_failure(self.reason)
        return self

    def then(
        self,
        success: Callable[[T], Any] | None = None,
        failure: Callable[[Any], Any] | None = None,
    ) -> Promise[Any]:
        """Return a promise for what a callback returns for the value or the error.

        Without a callback, the value or the error is passed on. If a callback returns a
        promise, its result counts. If a callback raises, the returned promise is rejected.
        """
        derived: Promise[Any] = Promise(self._unhandled)

        def on_success(value: T) -> None:
            _call_back(derived, success, value, derived.resolve)

        def on_failure(reason: BaseException) -> None:
            _call_back(derived, failure, reason, derived.reject)

        self.done(on_success, on_failure)
        return derived

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the value, or raise the error.

        With a client for event loops, this sends all pending commands first.
        """
        if self._state == PENDING:
            yield from self._wait().__await__()
        if self._state == REJECTED:
            if self._unhandled is not None:
                self._unhandled.pop(self, None)
            assert self.reason is not None
            raise self.reason
        return self.value

    async def _wait(self) -> None:
        if self._unhandled is not None:
            if self._unhandled.run is None:
                raise RuntimeError(
                    "The promise is pending, and awaiting it sends nothing. Await promises of "
                    "cluster.amap(), afanout() or aall(), inside the block, or after it if no "
                    "exception ended it."
                )
            await self._unhandled.run()
        if self._state == PENDING:
            future = asyncio.get_running_loop().create_future()

            def wake(_: object) -> None:
                if not future.done():
                    future.set_result(None)

            self.done(wake, wake)
            await future

    def _follow(self, other: Promise[Any]) -> None:
        if other is self:
            raise TypeError("A promise cannot be resolved with itself.")
        if self._unhandled is None:  # else an unhandled error would get lost
            self._unhandled = other._unhandled
        other.done(self.resolve, self.reject)

    def __repr__(self) -> str:
        if self._state == PENDING:
            return f"<{type(self).__name__} (pending)>"
        if self._state == REJECTED:
            return f"<{type(self).__name__} {self.reason!r} (rejected)>"
        return f"<{type(self).__name__} {self.value!r}>"


_SPECIAL = (Exception, Promise)


def settle_each(
    promises: Sequence[Promise[Any]], values: Sequence[Any]
) -> tuple[list[Exception], bool]:
    """Settle promises of a client; a value that is an exception rejects its promise.

    Returns the exceptions of callbacks, and whether a promise was rejected.
    """
    raised: list[Exception] = []
    is_rejecting = False
    # The fast path: without callbacks, most values need no call of resolve().
    special = {kind for kind in set(map(type, values)) if issubclass(kind, _SPECIAL)}
    for promise, value in zip(promises, values, strict=True):
        if (
            promise._callbacks is None  # noqa: SLF001
            and promise._state is PENDING  # noqa: SLF001
            and type(value) not in special
        ):
            promise._state = RESOLVED  # noqa: SLF001
            promise.value = value
            continue
        try:
            if isinstance(value, Exception):
                is_rejecting = True
                promise.reject(value)
            else:
                promise.resolve(value)
        except Exception as error:  # noqa: BLE001 (the other promises are settled first)
            raised.append(error)
    return raised, is_rejecting


def _call_all(callbacks: list[Callable[[Any], object]], argument: Any) -> None:
    """Call all callbacks, then raise what the first of those that failed raised."""
    first: Exception | None = None
    for callback in callbacks:
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001 (the other callbacks are called first)
            if first is None:
                first = error
            else:
                first.add_note(f"Also failed: {type(error).__name__}: {error}")
    if first is not None:
        raise first


def _call_back(
    derived: Promise[Any],
    callback: Callable[[Any], Any] | None,
    argument: Any,
    otherwise: Callable[[Any], None],
) -> None:
    if callback is None:
        otherwise(argument)
        return
    try:
        outcome = callback(argument)
        if outcome is derived:
            raise TypeError("A promise cannot be resolved with itself.")
    except Exception as error:  # noqa: BLE001 (it is the derived promise's outcome)
        derived.reject(error)
    else:
        derived.resolve(outcome)


def _all(items: list[Any], make: Callable[[list[Any]], Any]) -> Promise[Any]:
    promises = [item for item in items if isinstance(item, Promise)]
    unhandled: Unhandled | None = next(
        (p._unhandled for p in promises if p._unhandled is not None),  # noqa: SLF001
        None,
    )
    whole: Promise[Any] = Promise(unhandled)
    missing = len(promises)

    def on_success(_: object) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0 and whole.is_pending:
            values = [item.value if isinstance(item, Promise) else item for item in items]
            whole.resolve(make(values))

    def on_failure(reason: BaseException) -> None:
        if whole.is_pending:
            whole.reject(reason)
        elif unhandled is not None and whole in unhandled:
            unhandled[whole].append(reason)

    if not promises:
        whole.resolve(make(items))
    for promise in promises:
        promise.done(on_success, on_failure)
    return whole
