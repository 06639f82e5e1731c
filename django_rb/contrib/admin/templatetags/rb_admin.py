"""Filters that show numbers as the commands do; an unknown one is a dash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django import template

from ....engine.wording import escaped
from ....management.output import bytes_of, count_of, time_of

register = template.Library()
UNKNOWN = "\N{EN DASH}"


def _known(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: UNKNOWN if value is None or value == "" else show(value)


register.filter("rb_bytes", _known(bytes_of))
register.filter("rb_count", _known(count_of))
register.filter("rb_time", _known(time_of))
register.filter("rb_text", _known(escaped))
register.filter("rb_share", _known(lambda share: f"{100 * share:.1f} %"))
register.filter("rb_factor", _known(lambda factor: f"{factor:.2f}"))
register.filter("rb_ms", _known(lambda seconds: f"{1000 * seconds:.2f} ms"))


@register.filter
def rb_item(mapping: Mapping[Any, Any], key: Any) -> Any:
    """Return the value of a key in a mapping."""
    return mapping[key]
