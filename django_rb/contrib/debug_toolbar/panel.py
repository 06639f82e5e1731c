"""The panel: the calls of a request to nodes, on a common time line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from debug_toolbar.panels import Panel
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine

from ...management.output import bytes_of
from .advice import advise, short
from .recording import Recording, Told

# With medium brightness, for contrast with white and black.
COLOURS = (
    "#3b82f6",
    "#d97706",
    "#0d9488",
    "#a855f7",
    "#db2777",
    "#65a30d",
    "#0891b2",
    "#92400e",
)
FAILED = "#ef4444"
_MOST_NODES = 64  # that are shown of a call
_LINE = 1000  # units of the time line
_THINNEST = 4  # the minimum width of a bar in units

# A separate engine, so that the panel needs no app and no setting for templates.
_engine = Engine(dirs=[str(Path(__file__).parent)], autoescape=True)


class RBPanel(Panel):
    """Shows the calls of a request: their keys, nodes, times, bytes and errors.

    DEBUG_TOOLBAR_PANELS = [..., "django_rb.contrib.debug_toolbar.RBPanel"]
    """

    is_async = True
    nav_title = "django-rb"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recording = Recording()

    @property
    def title(self) -> str:
        """The heading of the panel."""
        return f"django-rb: {self.nav_subtitle}"

    @property
    def nav_subtitle(self) -> str:
        """The text in the toolbar, below the name."""
        calls: Sequence[Told] = self.get_stats().get("calls", ())
        count = len(calls) + self.get_stats().get("left_out", 0)
        noun = "call" if count == 1 else "calls"
        text = f"{count} {noun} in {sum(call['seconds'] for call in calls) * 1000:.2f} ms"
        failed = sum(call["error"] is not None for call in calls)
        return f"{text}, {failed} failed" if failed else text

    @property
    def content(self) -> str:
        """The panel as HTML."""
        stats = self.get_stats()
        template = _engine.get_template("panel.html")
        return template.render(Context(view_of(stats), use_l10n=False))

    def enable_instrumentation(self) -> None:
        """Start recording the request's calls."""
        self._recording.start()

    def disable_instrumentation(self) -> None:
        """Stop recording."""
        self._recording.stop()

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        """Store what was recorded."""
        calls = self._recording.told()
        self.record_stats(
            {
                "calls": calls,
                "left_out": self._recording.left_out,
                "advice": list(advise(calls)),
            }
        )

    def generate_server_timing(self, request: HttpRequest, response: HttpResponse) -> None:
        """Add the time to the Server-Timing header, which browsers' tools show."""
        calls: Sequence[Told] = self.get_stats().get("calls", ())
        seconds = sum(call["seconds"] for call in calls)
        self.record_server_timing("calls", f"django-rb {len(calls)} calls", seconds * 1000)


def view_of(stats: Told) -> dict[str, Any]:
    """Return the context of the template."""
    calls: Sequence[Told] = stats.get("calls", ())
    began = min((call["at"] for call in calls), default=0.0)
    ended = max((call["at"] + call["seconds"] for call in calls), default=0.0)
    length = max(ended - began, 1e-6)

    def bar_of(told: Told) -> dict[str, str]:
        width = max(_THINNEST, told["seconds"] / length * _LINE)
        at = min((told["at"] - began) / length * _LINE, _LINE - width)
        return {"x": f"{max(0.0, at):.1f}", "width": f"{width:.1f}"}

    def node_of(told: Told) -> Told:
        is_failure = told["error"] and not told["is_question"]
        colour = COLOURS[told["host_id"] % len(COLOURS)]
        count = f" \N{MULTIPLICATION SIGN} {told['count']}" if told["count"] > 1 else ""
        return {
            **told,
            "at": _ms(told["at"] - began),
            "took": _ms(told["seconds"]),
            "out": _bytes(told["bytes_out"]),
            "in": _bytes(told["bytes_in"]),
            "commands": ", ".join(told["names"]) + count,
            "colour": FAILED if is_failure else colour,
            "bar": bar_of(told),
        }

    def call_of(number: int, told: Told) -> Told:
        nodes = [node_of(node) for node in told["nodes"][:_MOST_NODES]]
        more_nodes = len(told["nodes"]) - len(nodes)
        return {
            **told,
            "number": number,
            "at": _ms(told["at"] - began),
            "took": _ms(told["seconds"]),
            "place": short(told["caller"]),
            "more_keys": told["key_count"] - len(told["keys"]),
            "is_looked_up": bool(told["hits"] or told["misses"]),
            "bar": bar_of(told),
            "nodes": nodes or [{}],
            "more_nodes": more_nodes,
            "rows": max(1, len(nodes)) + bool(more_nodes),
        }

    return {
        "calls": [call_of(number, told) for number, told in enumerate(calls, start=1)],
        "advice": stats.get("advice", ()),
        "left_out": stats.get("left_out", 0),
        "length": _ms(length),
        "line": _LINE,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}\N{NO-BREAK SPACE}ms"


def _bytes(number: int) -> str:
    return bytes_of(number).replace(" ", "\N{NO-BREAK SPACE}")
