"""What people see of the commands: tables, units and progress."""

from __future__ import annotations

import threading
from io import StringIO

import pytest
from django.core.management.base import OutputWrapper

from django_rb.management import output
from django_rb.management.output import (
    CLEAR_LINE,
    Progress,
    bytes_of,
    count_of,
    format_table,
    table_width,
    time_of,
)


class TestTable:
    def test_what_does_not_fit_goes_on_below(self) -> None:
        host = "cache-0001.abcdef.0001.eu-central-1.cache.example-cloud.internal:6379"
        table = format_table(
            ("NODE", "ADDRESS", "DATABASE", "KEYS"),
            [("a-rather-long-alias 0", host, 0, 12), ("b 1", "127.0.0.1:1", 0, 5)],
        )
        lines = table.splitlines()
        assert max(map(len, lines)) == 80
        assert len(lines) == 4
        start, end = lines[0].index("ADDRESS"), lines[0].index("DATABASE")
        assert lines[1][start:end].strip() + lines[2][start:end].strip() == host
        assert lines[1].endswith(" 12")
        assert lines[3].endswith("  5")

    def test_colours_take_no_room(self) -> None:
        table = format_table(("A", "B"), [("x", "bad")], {"bad": lambda text: f"<{text}>"})
        assert table == "A  B\nx  <bad>"

    def test_colours_are_found_in_every_column(self) -> None:
        paint = {"bad": lambda text: f"<{text}>"}
        table = format_table(("A", "B", "N"), [("bad", "x", 1), ("good", "x", 22)], paint)
        assert table == "A     B   N\n<bad>   x   1\ngood  x  22"

    def test_text_may_go_to_the_right(self) -> None:
        table = format_table(("A", "SIZE"), [("x", "1 B"), ("y", "12.3 KiB")], right=("SIZE",))
        assert table == "A      SIZE\nx       1 B\ny  12.3 KiB"

    def test_a_wider_terminal_has_more_room(self) -> None:
        rows = [("x" * 60, "y" * 60)]
        assert len(format_table(("A", "B"), rows, width=122).splitlines()) == 2
        assert table_width(("A", "B"), rows) == 122
        assert len(format_table(("A", "B"), rows).splitlines()) > 2

    def test_what_cannot_fit_is_shown_all_the_same(self) -> None:
        header = [f"HEADER{n}" for n in range(40)]
        lines = format_table(header, [["value"] * 40]).splitlines()
        assert "".join(lines[0].split()) == "HEAD" * 40


class TestUnits:
    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0, "0"),
            (9069, "9,069"),
            (99_999, "99,999"),
            (100_000, "100 k"),
            (123_456, "123 k"),
            (999_499, "999 k"),
            (999_500, "1.00 M"),
            (4_560_000, "4.56 M"),
            (12_340_000_000, "12.3 G"),
        ],
    )
    def test_counts(self, number: int, text: str) -> None:
        assert count_of(number) == text

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1.00 KiB"),
            (1_482_752, "1.41 MiB"),
            (10 * 1024**2 - 1, "10.0 MiB"),
            (100 * 1024**2 - 1, "100 MiB"),
            (1024**3 - 1, "1.00 GiB"),
            (256 * 1024**3, "256 GiB"),
            (5 * 1024**6, "5120 PiB"),
        ],
    )
    def test_bytes(self, number: int, text: str) -> None:
        assert bytes_of(number) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0 s"),
            (59.9, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600 + 4 * 60, "1 h 4 min"),
            (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"),
            (412 * 86400, "412 d 0 h"),
        ],
    )
    def test_times(self, seconds: float, text: str) -> None:
        assert time_of(seconds) == text


class Screen(OutputWrapper):
    """Standard error, of which a test says whether it is a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.text = StringIO()
        self.is_terminal = is_terminal
        super().__init__(self.text)

    def isatty(self) -> bool:
        return self.is_terminal


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time, as the one item of a list."""
        clock = [1000.0]
        monkeypatch.setattr(output, "monotonic", lambda: clock[0])
        return clock

    def test_a_bar_on_a_terminal(self, clock: list[float]) -> None:
        screen = Screen(is_terminal=True)
        with Progress(screen, "Scanning", 2000, "keys") as progress:
            clock[0] += 12
            progress.add(500)
            progress.add(1)  # too soon to be drawn
        assert screen.text.getvalue().split(CLEAR_LINE) == [
            "",
            "Scanning [....................] 0 of 2,000 keys (0%), 0 s",
            "Scanning [#####...............] 500 of 2,000 keys (25%), 12 s",
            "",
        ]
        assert progress.done == 501

    def test_it_makes_room_and_comes_back(self, clock: list[float]) -> None:
        screen = Screen(is_terminal=True)
        with Progress(screen, "Scanning", None, "keys") as progress:
            progress.clear()
            progress.clear()
            screen.write("page:1")
            progress.add(1)
        assert screen.text.getvalue().split(CLEAR_LINE) == [
            "",
            "Scanning: 0 keys, 0 s",
            "page:1\n",
            "Scanning: 1 keys, 0 s",
            "",
        ]

    def test_lines_elsewhere_and_only_for_long_work(self, clock: list[float]) -> None:
        screen = Screen(is_terminal=False)
        with Progress(screen, "Deleting", 300, "keys") as progress:
            for _ in range(3):
                clock[0] += 3
                progress.add(100)
        assert screen.text.getvalue() == "Deleting: 200 of 300 keys (67%), 6 s\n"

    def test_more_than_was_thought(self, clock: list[float]) -> None:
        screen = Screen(is_terminal=True)
        with Progress(screen, "Scanning", 10, "keys") as progress:
            clock[0] += 1
            progress.add(15)
        assert f"[{'#' * 20}] 15 of 10 keys (100%)" in screen.text.getvalue()

    def test_a_bar_fits_the_terminal(self, clock: list[float]) -> None:
        screen = Screen(is_terminal=True)
        with Progress(screen, "Scanning " + "x" * 100, 10, "keys"):
            pass
        assert max(map(len, screen.text.getvalue().split(CLEAR_LINE))) == 79

    def test_any_thread_may_add(self) -> None:
        with Progress(None, "Scanning", None, "keys") as progress:

            def work() -> None:
                for _ in range(1000):
                    progress.add(1)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert progress.done == 4000
