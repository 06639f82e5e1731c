"""One test for a table of cases, where `pytest.mark.parametrize` would make many.

pytest takes some 5 ms for a test, whatever the test does; most cases take less.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest

Test = Callable[..., None]

# A case that is skipped would hide the others.
FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)


def for_each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test with each case; at the end, fail with all that failed.

    It takes what `pytest.mark.parametrize` takes. Fixtures are set up once for all cases, so
    none may leave something behind that the next one minds.
    """
    if isinstance(names, str):
        table = [{names: case} for case in cases]
    else:
        table = [dict(zip(names, case, strict=True)) for case in cases]
    assert table

    def decorate(test: Test) -> Test:
        @wraps(test)
        def run(*args: Any, **fixtures: Any) -> None:
            failures = []
            for case in table:
                try:
                    test(*args, **fixtures, **case)
                except FAILURES as error:
                    values = ", ".join(f"{name}={shown(case[name])}" for name in case)
                    told = "".join(traceback.format_exception(error))
                    failures.append(f"With {values}:\n{told}")
            if failures:
                count = f"{len(failures)} of {len(table)} cases failed."
                pytest.fail("\n\n".join([count, *failures]), pytrace=False)

        signature = inspect.signature(test)
        fixtures = [p for name, p in signature.parameters.items() if name not in table[0]]
        run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run

    return decorate


def shown(value: object) -> str:
    if inspect.isfunction(value) and value.__name__ == "<lambda>":  # its line of the table
        return inspect.getsource(value).splitlines()[0].strip()
    return f"{value!r:.200}"
