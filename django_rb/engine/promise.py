"""Promises: the values that commands will have once their batch has run.

The names are rb's; the rules for chains are those of ECMAScript's promises
(https://tc39.es/ecma262/#sec-promise-objects), but callbacks are called at once, and a
promise may be settled by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

PENDING, RESOLVED, REJECTED = "pending", "resolved", "rejected"


class Promise(Generic[T]):
    """A value that is not there yet.

    with cluster.map() as client:
        promise = client.get("page:1")
    promise.value

    Attributes:
        value: what it was resolved with; None before that.
        reason: the error it was rejected with; None otherwise.
    """

    __slots__ = ("_callbacks", "_errbacks", "_state", "_unhandled", "reason", "value")

    def __init__(self, unhandled: list[Promise[Any]] | None = None) -> None:
        self.value: T | None = None
        self.reason: BaseException | None = None
        self._state = PENDING
        self._callbacks: list[Callable[[Any], object]] = []
        self._errbacks: list[Callable[[Any], object]] | None = None
        # Where a rejection is noted that nobody handles; shared with derived promises.
        self._unhandled = unhandled

    @staticmethod
    def resolved(value: T) -> Promise[T]:
        """Return a promise that has a value already."""
        promise: Promise[T] = Promise()
        promise.resolve(value)
        return promise

    @staticmethod
    def rejected(reason: BaseException) -> Promise[Any]:
        """Return a promise that has failed already."""
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

        What is no promise counts as a value. The first rejection rejects the whole.
        """
        if isinstance(promises, Mapping):
            keys = list(promises)
            return _all(list(promises.values())).then(lambda v: dict(zip(keys, v, strict=True)))
        return _all(list(promises))

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
        """Settle it with a value; with another promise, with whatever becomes of that.

        Raises:
            TypeError: `value` is this very promise.
            RuntimeError: it is settled already.
        """
        if value is self:
            raise TypeError("A promise cannot be resolved with itself.")
        if isinstance(value, Promise):
            value.done(self.resolve, self.reject)
            return
        self._settle(RESOLVED)
        self.value = value
        callbacks, self._callbacks = self._callbacks, []
        self._errbacks = None
        for callback in callbacks:
            callback(value)

    def reject(self, reason: BaseException) -> None:
        """Settle it with an error.

        Raises:
            RuntimeError: it is settled already.
        """
        self._settle(REJECTED)
        self.reason = reason
        errbacks, self._errbacks = self._errbacks, None
        self._callbacks = []
        if errbacks:
            for errback in errbacks:
                errback(reason)
        elif self._unhandled is not None:
            self._unhandled.append(self)

    def done(
        self,
        on_success: Callable[[T], object] | None = None,
        on_failure: Callable[[Any], object] | None = None,
    ) -> Promise[T]:
        """Call back with the value or the error, at once if it is there; return itself.

        An error that goes to an `on_failure` counts as handled.
        """
        if self._state == PENDING:
            if on_success is not None:
                self._callbacks.append(on_success)
            if on_failure is not None:
                if self._errbacks is None:
                    self._errbacks = []
                self._errbacks.append(on_failure)
        elif self._state == RESOLVED:
            if on_success is not None:
                on_success(self.value)  # type: ignore[arg-type]
        elif on_failure is not None:
            if self._unhandled is not None and self in self._unhandled:
                self._unhandled.remove(self)
            on_failure(self.reason)
        return self

    def then(
        self,
        success: Callable[[T], Any] | None = None,
        failure: Callable[[Any], Any] | None = None,
    ) -> Promise[Any]:
        """Return a promise for what a callback makes of the value or the error.

        Without a callback for it, the value or the error is passed on. A callback that
        raises rejects the promise that is returned.
        """
        derived: Promise[Any] = Promise(self._unhandled)

        def on_success(value: T) -> None:
            _call(derived, success, value, derived.resolve)

        def on_failure(reason: BaseException) -> None:
            _call(derived, failure, reason, derived.reject)

        self.done(on_success, on_failure)
        return derived

    def _settle(self, state: str) -> None:
        if self._state != PENDING:
            raise RuntimeError("The promise is no longer pending.")
        self._state = state

    def __repr__(self) -> str:
        if self._state == PENDING:
            return f"<{type(self).__name__} (pending)>"
        if self._state == REJECTED:
            return f"<{type(self).__name__} {self.reason!r} (rejected)>"
        return f"<{type(self).__name__} {self.value!r}>"


def _call(
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


def _all(items: list[Any]) -> Promise[list[Any]]:
    promises = [item for item in items if isinstance(item, Promise)]
    whole: Promise[list[Any]] = Promise(
        next((p._unhandled for p in promises if p._unhandled is not None), None)  # noqa: SLF001
    )
    missing = len(promises)

    def on_success(_: object) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0 and whole.is_pending:
            whole.resolve([item.value if isinstance(item, Promise) else item for item in items])

    def on_failure(reason: BaseException) -> None:
        if whole.is_pending:
            whole.reject(reason)

    if not promises:
        whole.resolve(items)
    for promise in promises:
        promise.done(on_success, on_failure)
    return whole
