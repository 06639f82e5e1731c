"""The output of management commands for people: tables, units, and progress.

All output goes through a `Screen`, which escapes what could move a terminal's cursor, or hide
or reorder text: error replies, fields of INFO and keys may contain anything.
"""

from __future__ import annotations

import json
import shutil
import textwrap
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import zip_longest
from time import monotonic
from types import TracebackType
from typing import Self

from django.core.management.base import OutputWrapper

from ..engine.wording import escaped

WIDTH = 80
HEIGHT = 24
NARROWEST = 4  # the minimum width of a table's columns on any terminal

BAR_CELLS = 20
REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0

Style = Callable[[str], str]
Paint = Mapping[str, Style]


class Shown(str):
    """Text for a screen that is already escaped, and may contain our own colour codes."""


CLEAR_LINE = Shown("\r\x1b[K")
CLEAR_SCREEN = Shown("\x1b[2J\x1b[H")


class Screen(OutputWrapper):
    """A command's standard output or standard error.

    Text is escaped, except for line breaks, before it is coloured, unless it is `Shown`. If
    text may contain line breaks that are not ours, escape each line separately.
    """

    def write(  # type: ignore[override]
        self, msg: str = "", style_func: Style | None = None, ending: str | None = None
    ) -> None:
        """Write a text and, unless it ends with one, a line break."""
        text = msg if isinstance(msg, Shown) else escaped(msg, keep="\n")
        super().write(text, style_func, ending)


def painted(text: object, style: Style) -> Shown:
    """Return a line in a colour."""
    return Shown(style(escaped(text)))


def as_json(document: object, indent: int | None = None) -> str:
    """Return a JSON document, in printable ASCII.

    Raises:
        ValueError: it contains an infinite number, or NaN, which JSON does not have.
    """
    text = json.dumps(document, indent=indent, allow_nan=False)
    return text.replace("\x7f", r"\u007f")  # the only one that json does not escape


def width_of(screen: OutputWrapper) -> int:
    """Return the width of a terminal in characters; 80 if it is not a terminal."""
    return shutil.get_terminal_size((WIDTH, HEIGHT)).columns if screen.isatty() else WIDTH


def height_of(screen: OutputWrapper) -> int:
    """Return the height of a terminal in lines."""
    return shutil.get_terminal_size((WIDTH, HEIGHT)).lines


def sliced(text: str, width: int) -> list[str]:
    """Return a text in lines of this width."""
    return [text[at : at + width] for at in range(0, len(text), width)] or [""]


def table_width(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> int:
    """Return the width of a table in characters if no cell is wrapped."""
    widths = [
        max(len(escaped(cell)) for cell in column) for column in zip(header, *rows, strict=True)
    ]
    return sum(widths) + 2 * (len(widths) - 1)


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str | int]],
    paint: Paint | None = None,
    *,
    right: Collection[str] = (),
    width: int = WIDTH,
) -> Shown:
    """Return a table of at most `width` characters; text that does not fit is wrapped.

    Args:
        rows: columns that contain an int are right-aligned.
        paint: colours for cells by their text.
        right: headers of other right-aligned columns.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(escaped(cell)) for cell in column) for column in columns]
    gaps = 2 * (len(widths) - 1)
    while sum(widths) + gaps > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    to_the_right = [
        column[0] in right or any(isinstance(cell, int) for cell in column)
        for column in columns
    ]
    lines = []
    for row in (header, *rows):
        texts = [escaped(cell) for cell in row]
        colors = [(paint or {}).get(text, str) for text in texts]
        wrapped = [
            textwrap.wrap(text, width, break_on_hyphens=False)
            for text, width in zip(texts, widths, strict=True)
        ]
        for parts in zip_longest(*wrapped, fillvalue=""):
            cells = [
                " " * (width - len(part)) + color(part)
                if is_right
                else color(part) + " " * (width - len(part))
                for part, width, is_right, color in zip(
                    parts, widths, to_the_right, colors, strict=True
                )
            ]
            lines.append("  ".join(cells).rstrip())
    return Shown("\n".join(lines))


def count_of(number: int) -> str:
    """Return a count as text: ``9,069``, ``123 k``, ``4.56 M``."""
    if number < 100_000:
        return f"{number:,}"
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P"))


def bytes_of(number: int) -> str:
    """Return a number of bytes as text: ``12.3 MiB``."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    """Return a number with three digits and its unit."""
    unit, *larger = units
    for next_unit in larger:
        if round(number) < 1000:
            break
        number, unit = number / step, next_unit
    if unit == units[0] or number >= 99.95:
        return f"{number:.0f} {unit}"
    return f"{number:.{2 if number < 9.995 else 1}f} {unit}"


def time_of(seconds: float) -> str:
    """Return a duration as text: ``3 d 4 h``, ``12 s``."""
    whole = int(seconds)
    for size, unit, smaller, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {small_unit}"
    return f"{whole} s"


class Progress:
    """The progress of long work: a bar on a terminal, otherwise a line every few seconds.

    with self.progress("Scanning", 27_000, "keys") as progress:
        progress.add(100)

    Any thread may call `add`. Before something else is written to the same terminal,
    `clear` removes the bar; the next `add` draws it again. At the end it is removed.

    Args:
        screen: the output; None for none.
        what: the work, as in "Scanning".
        total: how much there is to do; None if unknown.
        unit: what is counted, in the plural.
    """

    cells = BAR_CELLS

    def __init__(
        self, screen: OutputWrapper | None, what: str, total: int | None, unit: str
    ) -> None:
        self._screen = screen
        self._what, self._total, self._unit = what, total, unit
        self._is_terminal = screen is not None and screen.isatty()
        self._lock = threading.Lock()
        self._began = monotonic()
        self._shown = self._began if not self._is_terminal else float("-inf")
        self._is_drawn = False
        self.done = 0

    def __enter__(self) -> Self:
        self.add(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def add(self, count: int) -> None:
        """Add to what is done."""
        with self._lock:
            self.done += count
            now = monotonic()
            pause = REDRAW_SECONDS if self._is_terminal else LINE_SECONDS
            if self._screen is None or now - self._shown < pause:
                return
            self._shown = now
            if self._is_terminal:
                self._is_drawn = True
                line = f"{CLEAR_LINE}{self._bar(now)}"[: len(CLEAR_LINE) + WIDTH - 1]
                self._screen.write(Shown(line), str, ending="")
            else:
                self._screen.write(f"{self._what}: {self._text(now)}", str)
            self._screen.flush()

    def clear(self) -> None:
        """Remove the bar, so that something else can be written."""
        with self._lock:
            if self._is_drawn and self._screen is not None:
                self._is_drawn = False
                self._shown = float("-inf")
                self._screen.write(CLEAR_LINE, str, ending="")
                self._screen.flush()

    def _share(self) -> float | None:
        return min(1.0, self.done / self._total) if self._total else None

    def _bar(self, now: float) -> str:
        share = self._share()
        if share is None:
            return f"{self._what}: {self._text(now)}"
        done = "#" * int(share * self.cells)
        return f"{self._what} [{done:.<{self.cells}}] {self._text(now)}"

    def _text(self, now: float) -> str:
        share = self._share()
        of_all = "" if share is None else f" of {self._total:,}"
        percent = "" if share is None else f" ({share:.0%})"
        return f"{self.done:,}{of_all} {self._unit}{percent}, {time_of(now - self._began)}"


class RateProgress(Progress):
    """Progress with bytes, units per second, and the remaining time.

    Attributes:
        size: bytes; to be increased by the code that does the work.
    """

    cells = 12
    size = 0

    def _text(self, now: float) -> str:
        rate = self.done / max(now - self._began, 0.001)
        speed = f"{rate:,.{0 if rate >= 10 else 1}f}/s"
        text = f"{count_of(self.done)} {self._unit}, {bytes_of(self.size)}, {speed}"
        share = self._share()
        if share is None or not rate or self._total is None:
            return text
        left = max(0, self._total - self.done) / rate
        return f"{share:.0%}, {text}, {time_of(left)} left"
