"""Promises by themselves: settled by hand, chained, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from django_rb.engine import Promise
from django_rb.engine.errors import attach

ERROR = ValueError("no")


def states(promise: Promise[Any]) -> tuple[bool, bool, bool]:
    return promise.is_pending, promise.is_resolved, promise.is_rejected


def test_a_promise_is_pending_resolved_or_rejected() -> None:
    promise: Promise[Any] = Promise()
    assert states(promise) == (True, False, False)
    assert promise.reason is None
    assert repr(promise) == "<Promise (pending)>"

    promise.resolve(1)
    assert states(promise) == (False, True, False)
    assert (promise.value, promise.reason) == (1, None)
    assert repr(promise) == "<Promise 1>"

    promise = Promise()
    promise.reject(ERROR)
    assert states(promise) == (False, False, True)
    assert (promise.value, promise.reason) == (None, ERROR)
    assert repr(promise) == "<Promise ValueError('no') (rejected)>"


def test_a_pending_promise_has_no_value_and_says_when_it_will() -> None:
    promise: Promise[Any] = Promise()
    derived = promise.then(str)
    for pending in (promise, derived, Promise.all([promise])):
        with pytest.raises(RuntimeError, match=r"end of the `with` block .* client\.join\(\)"):
            _ = pending.value
    with pytest.raises(AttributeError, match="'Promise' object has no attribute 'valu'"):
        _ = promise.valu  # type: ignore[attr-defined]
    promise.resolve(None)
    assert promise.value is None
    assert derived.value == "None"


def test_resolved_and_rejected_make_settled_promises() -> None:
    assert states(Promise.resolved("x")) == (False, True, False)
    assert Promise.resolved("x").value == "x"
    assert states(Promise.rejected(ERROR)) == (False, False, True)
    assert Promise.rejected(ERROR).reason is ERROR


@pytest.mark.parametrize("first", ["resolve", "reject"])
@pytest.mark.parametrize("second", ["resolve", "reject"])
def test_a_promise_is_settled_once(first: str, second: str) -> None:
    promise: Promise[Any] = Promise()
    getattr(promise, first)(ERROR)
    with pytest.raises(RuntimeError, match="no longer pending"):
        getattr(promise, second)(ERROR)


def test_done_calls_back_in_order_and_returns_the_promise() -> None:
    promise: Promise[int] = Promise()
    calls: list[object] = []
    assert promise.done(lambda v: calls.append(("a", v)), calls.append) is promise
    promise.done(lambda v: calls.append(("b", v)))
    promise.resolve(1)
    promise.done(lambda v: calls.append(("late", v)))
    assert calls == [("a", 1), ("b", 1), ("late", 1)]


def test_done_calls_back_with_the_error() -> None:
    promise: Promise[int] = Promise()
    calls: list[object] = []
    promise.done(None, calls.append)
    promise.done(calls.append)
    promise.done()
    promise.reject(ERROR)
    promise.done(None, calls.append)
    assert calls == [ERROR, ERROR]


def test_done_works_as_a_decorator() -> None:
    promise: Promise[int] = Promise()
    calls: list[int] = []

    @promise.done
    def on_success(value: int) -> None:
        calls.append(value)

    promise.resolve(2)
    assert calls == [2]


@pytest.mark.parametrize("late", [False, True])
def test_then_gives_what_the_callback_makes_of_the_value(late: bool) -> None:
    promise: Promise[int] = Promise()
    if late:
        promise.resolve(2)
    derived = promise.then(lambda value: value + 1).then(lambda value: value * 10)
    if not late:
        assert derived.is_pending
        promise.resolve(2)
    assert derived.value == 30


def test_then_hands_on_what_it_has_no_callback_for() -> None:
    assert Promise.resolved(1).then(None, str).value == 1
    assert Promise.resolved(1).then().value == 1
    assert Promise.rejected(ERROR).then(str).reason is ERROR
    assert Promise.rejected(ERROR).then().then(str).reason is ERROR


def test_then_recovers_from_an_error() -> None:
    derived = Promise.rejected(ERROR).then(None, lambda error: f"was {error}")
    assert derived.is_resolved
    assert derived.value == "was no"


@pytest.mark.parametrize("start", [Promise.resolved(1), Promise.rejected(KeyError())])
def test_a_callback_that_raises_rejects_what_then_returned(start: Promise[Any]) -> None:
    def fail(_: object) -> None:
        raise ERROR

    derived = start.then(fail, fail)
    assert derived.reason is ERROR
    assert derived.then(str).reason is ERROR


def test_a_promise_that_a_callback_returns_is_followed() -> None:
    inner: Promise[int] = Promise()
    derived = Promise.resolved(1).then(lambda _: inner)
    assert derived.is_pending
    inner.resolve(7)
    assert derived.value == 7
    assert Promise.resolved(1).then(lambda _: Promise.rejected(ERROR)).reason is ERROR
    assert Promise.rejected(ERROR).then(None, lambda _: Promise.resolved(8)).value == 8


def test_a_promise_resolved_with_another_follows_it() -> None:
    for settle in ("resolve", "reject"):
        inner: Promise[Any] = Promise()
        outer: Promise[Any] = Promise()
        outer.resolve(inner)
        assert outer.is_pending
        getattr(inner, settle)(ERROR)
        assert (outer.value, outer.reason) == (inner.value, inner.reason)


def test_a_promise_cannot_wait_for_itself() -> None:
    promise: Promise[Any] = Promise()
    with pytest.raises(TypeError, match="itself"):
        promise.resolve(promise)
    assert promise.is_pending
    derived: Promise[Any] = promise.then(lambda _: derived)
    promise.resolve(1)
    assert isinstance(derived.reason, TypeError)


@pytest.mark.parametrize("settle", ["resolve", "reject"])
def test_a_callback_that_raises_keeps_no_other_from_its_call(settle: str) -> None:
    promise: Promise[Any] = Promise()
    calls: list[object] = []

    def fail(error: Exception) -> Any:
        def callback(_: object) -> None:
            raise error

        return callback

    promise.done(fail(ERROR), fail(ERROR))
    promise.done(fail(KeyError("too")), fail(KeyError("too")))
    promise.done(calls.append, calls.append)
    derived = promise.then(lambda v: v, lambda v: v)
    with pytest.raises(ValueError, match="no") as caught:
        getattr(promise, settle)(ERROR)
    assert caught.value is ERROR
    assert "Also failed: KeyError: 'too'" in caught.value.__notes__
    assert calls == [ERROR]
    assert derived.value is ERROR
    assert not promise.is_pending


def test_all_of_a_list_keeps_its_order() -> None:
    promises: list[Promise[int]] = [Promise() for _ in range(3)]
    whole = Promise.all(promises)
    for n in (2, 0, 1):
        assert whole.is_pending
        promises[n].resolve(n)
    assert whole.value == [0, 1, 2]


def test_all_of_a_dict_keeps_its_keys() -> None:
    promises: dict[str, Promise[int]] = {name: Promise() for name in "abc"}
    whole = Promise.all(promises)
    promises["c"].resolve(3)
    promises["a"].resolve(1)
    assert whole.is_pending
    promises["b"].resolve(2)
    assert list(whole.value.items()) == [("a", 1), ("b", 2), ("c", 3)]


def test_all_takes_what_is_no_promise_for_a_value() -> None:
    late: Promise[int] = Promise()
    mixed = Promise.all([1, late, None, Promise.resolved("x")])
    named = Promise.all({"a": 1, "b": late})
    late.resolve(2)
    assert mixed.value == [1, 2, None, "x"]
    assert named.value == {"a": 1, "b": 2}
    assert Promise.all([1, 2]).value == [1, 2]
    assert Promise.all(n for n in range(3)).value == [0, 1, 2]
    twice: Promise[int] = Promise()
    whole = Promise.all([twice, twice])
    twice.resolve(1)
    assert whole.value == [1, 1]


def test_all_of_nothing_is_there_at_once() -> None:
    assert Promise.all([]).value == []
    assert Promise.all({}).value == {}
    assert Promise.all(iter(())).value == []


def test_all_is_rejected_with_the_first_error() -> None:
    promises: list[Promise[int]] = [Promise() for _ in range(3)]
    whole, named = Promise.all(promises), Promise.all(dict(enumerate(promises)))
    promises[2].reject(ERROR)
    promises[0].reject(KeyError())
    promises[1].resolve(1)
    assert whole.reason is named.reason is ERROR
    assert Promise.all([Promise.rejected(ERROR), 1]).reason is ERROR


def test_all_may_be_nested() -> None:
    late: Promise[int] = Promise()
    whole = Promise.all({"a": Promise.all([late, 2]), "b": 3})
    late.resolve(1)
    assert whole.value == {"a": [1, 2], "b": 3}


def test_errors_that_are_raised_together_need_not_be_hashable() -> None:
    @dataclass
    class OwnError(Exception):
        code: int

    first, second = OwnError(1), OwnError(1)
    assert attach([first, second, first], []) is first
    assert len(first.__notes__) == 1
