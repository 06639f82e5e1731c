"""docs/when-a-node-dies.md tells what these tests bring about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.faults import AT_ONCE, DIES_AFTER, FAULTS
from tests.faults.operations import OPERATIONS, Caller
from tests.faults.rig import CONNECT_TIMEOUT, FAULTY, SOCKET_TIMEOUT, Rig
from tests.faults.test_faults import warm_up

PAGE = Path(__file__).resolve().parents[2] / "docs/when-a-node-dies.md"
# Rows with tests of their own: test_tls.py and test_health.py.
OTHERS = {"wrong certificate", "any that `fails`, for the third time in a row"}

TAKES = {
    "at once": AT_ONCE,
    "when it dies": 2 * DIES_AFTER,
    "`socket_timeout`": SOCKET_TIMEOUT,
    "`socket_connect_timeout`": CONNECT_TIMEOUT,
}


def rows() -> dict[str, list[str]]:
    """Return the rows of the table of faults by their first cell."""
    table = PAGE.read_text().partition("| fault |")[2].partition("\n\n")[0]
    cells = [re.split(r" ?\| ?", line)[1:-1] for line in table.splitlines()[2:]]
    return {fault: rest for fault, *rest in cells}


def test_the_page_names_every_fault() -> None:
    assert set(rows()) == set(FAULTS) | OTHERS


@pytest.mark.parametrize("name", FAULTS)
def test_the_page_says_what_is_raised_and_when(name: str) -> None:
    sees, after, _ = rows()[name]
    fault = FAULTS[name]
    errors = fault.error if isinstance(fault.error, tuple) else (fault.error,)
    named = set(re.findall(r"`(\w+(?:Error|Response|Busy))`", sees))
    if set(fault.fates.values()) == {"well"}:
        assert named == set()
        assert sees.startswith("no error")
    else:
        assert named == {error.__name__ for error in errors}
        if not fault.is_answer:
            assert ("no error" in sees) == (fault.fates["reads"] != "fails")
        assert fault.takes == TAKES[after]


@pytest.mark.parametrize("name", FAULTS)
def test_the_page_says_what_is_in_the_log(
    name: str, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    fault = FAULTS[name]
    expected = rows()[name][2]
    proxied = (FAULTY,) if fault.proxied else ()
    with rig.cluster(*proxied, times_out=fault.is_silence):
        caller = Caller()
        warm_up(caller, rig)
        with fault.inflict(rig):
            OPERATIONS["set_many"].run(caller, rig.data)
        records = [record for record in caplog.records if record.name == "django_rb.health"]
    if "`" in expected:
        (record,) = records
        assert record.getMessage().startswith(f"Node {FAULTY} {expected.strip('`')}: ")
    else:
        assert records == []
