"""Threads that time nodes one after the other."""

from __future__ import annotations

import threading

import pytest

from django_rb.management import status
from django_rb.management.status import Turns
from tests.helpers import wait_until


class Visitor:
    """A thread that takes a turn and keeps it until it is told to go."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._may_go = threading.Event()
        self.is_in = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        with self._turns.take():
            self.is_in.set()
            self._may_go.wait(30)

    def go(self) -> None:
        self._may_go.set()
        self._thread.join()


class TestTurns:
    def test_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(status, "TURN_SECONDS", 60)
        turns = Turns()
        first = Visitor(turns)
        assert first.is_in.wait(20)
        second = Visitor(turns)
        assert not second.is_in.wait(0.2)
        first.go()
        assert second.is_in.wait(20)
        second.go()

    def test_nobody_waits_for_one_that_takes_long(self) -> None:
        turns = Turns()
        visitors = [Visitor(turns) for _ in range(5)]
        wait_until(lambda: all(visitor.is_in.is_set() for visitor in visitors), 20)
        for visitor in visitors:
            visitor.go()

    def test_one_that_took_long_takes_no_turn_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns = Turns()
        slow = Visitor(turns)
        assert slow.is_in.wait(20)
        monkeypatch.setattr(status, "TURN_SECONDS", 60)
        second = Visitor(turns)
        assert second.is_in.wait(20)
        slow.go()
        third = Visitor(turns)
        assert not third.is_in.wait(0.2)
        second.go()
        assert third.is_in.wait(20)
        third.go()
