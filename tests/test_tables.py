"""Tests of tables fail where a case fails, and name it."""

from __future__ import annotations

import pytest

from tests.tables import for_each


def test_every_case_that_fails_is_shown() -> None:
    seen = []

    @for_each(("number", "is_small"), [(1, True), (20, True), (3, False), (40, False)])
    def check(number: int, is_small: bool) -> None:
        seen.append(number)
        assert (number < 10) is is_small

    with pytest.raises(pytest.fail.Exception) as caught:
        check()
    assert seen == [1, 20, 3, 40]
    told = str(caught.value)
    assert told.startswith("2 of 4 cases failed.")
    assert "With number=20, is_small=True:\n" in told
    assert "With number=3, is_small=False:\n" in told
    assert "assert (20 < 10) is True" in told
    assert "number=40" not in told


def test_a_lambda_is_shown_as_it_is_written() -> None:
    @for_each(
        "call",
        [
            lambda: None,
            lambda: 1 / 0,
            lambda: pytest.fail("for a reason"),
            lambda: pytest.skip("for another one"),
        ],
    )
    def check(call: object) -> None:
        assert callable(call)
        call()

    with pytest.raises(pytest.fail.Exception) as caught:
        check()
    assert "With call=lambda: 1 / 0,:\n" in str(caught.value)
    assert "Failed: for a reason\n" in str(caught.value)
    assert "Skipped: for another one\n" in str(caught.value)


@for_each("number", [1, 2])
def test_fixtures_are_given(request: pytest.FixtureRequest, number: int) -> None:
    assert "number" not in request.fixturenames
    assert number in {1, 2}
