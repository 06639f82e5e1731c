"""Draws ``mermaid`` blocks that are sequence diagrams, as SVG in the page, without a browser.

GitHub draws the same blocks with Mermaid itself. The part of its language that is known
here (https://mermaid.js.org/syntax/sequenceDiagram.html):

    sequenceDiagram
    participant A as Label
    A->>B: a message
    A-->>B: a reply (dashed)
    A-xB: a message that is lost
    Note over A: text
    Note over A,B: text
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_CHARACTER, _LINE, _ROW, _MARGIN, _BOX = 7.0, 17, 40, 12, 34
_PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
_MESSAGE = re.compile(r"(\w+)(->>|-->>|-x)(\w+): (.+)")
_NOTE = re.compile(r"Note over (\w+)(?:,(\w+))?: (.+)")


class Step(NamedTuple):
    """A message between two columns, or a note over some."""

    kind: str
    start: int
    end: int
    lines: list[str]

    @property
    def width(self) -> float:
        """Pixels that its text takes."""
        return max(map(len, self.lines)) * _CHARACTER + 2 * _MARGIN


def parse(text: str) -> tuple[list[str], list[Step]]:
    """Return a diagram's labels, and its steps.

    Raises:
        ValueError: a line is not of the known part of the language.
    """
    first, *lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if first != "sequenceDiagram":
        raise ValueError(f"Not a sequence diagram: {first!r}")
    columns: dict[str, int] = {}
    labels: list[str] = []
    steps: list[Step] = []
    for line in lines:
        if found := _PARTICIPANT.fullmatch(line):
            columns[found[1]] = len(labels)
            labels.append(found[2])
        elif found := _MESSAGE.fullmatch(line):
            start, arrow, end, said = found.groups()
            steps.append(Step(arrow, columns[start], columns[end], said.split("<br>")))
        elif found := _NOTE.fullmatch(line):
            start, last, said = found.groups()
            left, right = sorted((columns[start], columns[last or start]))
            steps.append(Step("note", left, right, said.split("<br>")))
        else:
            raise ValueError(f"Not understood in a sequence diagram: {line!r}")
    return labels, steps


def place(labels: list[str], steps: list[Step]) -> list[float]:
    """Return the middle of each column, so that all texts fit."""
    widths = [len(label) * _CHARACTER + 2 * _MARGIN for label in labels]
    gaps: list[float] = [(left + right) / 2 + _MARGIN for left, right in pairwise(widths)]
    first: float = widths[0] / 2
    for step in sorted(steps, key=lambda step: abs(step.end - step.start)):
        left, right = sorted((step.start, step.end))
        if left == right:
            first = max(first, step.width / 2) if left == 0 else first
            for gap in {left - 1, left} & set(range(len(gaps))):
                gaps[gap] = max(gaps[gap], step.width / 2 + _MARGIN)
        elif (missing := step.width - sum(gaps[left:right])) > 0:
            for gap in range(left, right):
                gaps[gap] += missing / (right - left)
    middles = [first + _MARGIN]
    for width in gaps:
        middles.append(middles[-1] + width)
    return middles


def draw(text: str, title: str) -> str:
    """Return a diagram as SVG, in the colour of the text around it."""
    labels, steps = parse(text)
    middles = place(labels, steps)
    y = float(_MARGIN + _BOX)
    body: list[str] = []
    for step in steps:
        y += _ROW + _LINE * (len(step.lines) - 1)
        body += _drawn(step, middles, y)
    height = y + _MARGIN * 2
    last: float = max((step.width for step in steps if step.end == len(labels) - 1), default=0)
    width = middles[-1] + max(len(labels[-1]) * _CHARACTER / 2, last / 2) + 2 * _MARGIN
    heads = [
        f'<line x1="{x:.0f}" y1="{_MARGIN + _BOX}" x2="{x:.0f}" y2="{height:.0f}" '
        f'stroke-opacity="0.3"/>'
        f'<rect x="{x - len(label) * _CHARACTER / 2 - _MARGIN:.0f}" y="{_MARGIN}" rx="5" '
        f'width="{len(label) * _CHARACTER + 2 * _MARGIN:.0f}" height="{_BOX}"/>'
        f"{_text(x, _MARGIN + _BOX / 2 + 5, label)}"
        for x, label in zip(middles, labels, strict=True)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(title)}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: {width:.0f}px; width: 100%" '
        'font-family="sans-serif" font-size="13" fill="none" stroke="currentColor">'
        f"{''.join(heads)}{''.join(body)}</svg>"
    )


def _drawn(step: Step, middles: list[float], y: float) -> Iterator[str]:
    left, right = middles[step.start], middles[step.end]
    above = (len(step.lines) - 1) * _LINE
    if step.kind == "note":
        centre = (left + right) / 2
        wide = max(step.width, right - left + 2 * _MARGIN)
        yield (
            f'<rect x="{centre - wide / 2:.0f}" y="{y - above - 16:.0f}" '
            f'width="{wide:.0f}" height="{above + 24}" fill="currentColor" '
            'fill-opacity="0.08" stroke-opacity="0.3"/>'
        )
        for number, line in enumerate(step.lines):
            yield _text(centre, y - above + number * _LINE, line)
        return
    for number, line in enumerate(step.lines):
        yield _text((left + right) / 2, y - above - 6 + number * _LINE, line)
    dash = ' stroke-dasharray="5 4"' if step.kind == "-->>" else ""
    way = 1 if right > left else -1
    tip = right if step.kind != "-x" else (left + 3 * right) / 4
    yield f'<line x1="{left:.0f}" y1="{y:.0f}" x2="{tip:.0f}" y2="{y:.0f}"{dash}/>'
    if step.kind == "-x":
        yield f'<path d="M{tip - 5:.0f} {y - 5} l10 10 m0 -10 l-10 10"/>'
    else:
        back = f"{tip - 8 * way:.0f}"
        yield f'<path d="M{back} {y - 4} L{tip:.0f} {y} L{back} {y + 4}"/>'


def _text(x: float, y: float, text: str) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" paint-order="stroke" '
        'stroke="var(--color-background-primary, none)" stroke-width="4" '
        f'fill="currentColor">{html.escape(text)}</text>'
    )


class Diagram(SphinxDirective):
    """A ``mermaid`` block; its accessible name is the heading above it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the picture."""
        titles = [""] + [title.astext() for title in self.state.document.findall(nodes.title)]
        try:
            picture = draw("\n".join(self.content), titles[-1])
        except (KeyError, ValueError) as error:
            raise self.error(str(error)) from error
        return [nodes.raw("", f'<div class="diagram">{picture}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("mermaid", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
