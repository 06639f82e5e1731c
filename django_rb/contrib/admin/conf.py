"""settings.RB_ADMIN, read each time that it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ...engine.wording import did_you_mean

SETTING = "RB_ADMIN"


@dataclass(frozen=True)
class Options:
    """What settings.RB_ADMIN says, with its keys in lower case.

    Attributes:
        show_pickles: whether values that nobody signed are unpickled to be shown, which runs
            code that whoever wrote them has chosen.
        timeout: seconds in which a node answers, or counts as silent.
        refresh: seconds from one look at the nodes to the next.
    """

    show_pickles: bool = False
    timeout: float = 1.0
    refresh: float = 2.0


def get_options() -> Options:
    """Return what settings.RB_ADMIN says.

    Raises:
        ImproperlyConfigured: naming the key, the value and the way out.
    """
    found: Any = getattr(settings, SETTING, {})
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(
            f"settings.{SETTING} is a {type(found).__name__}, not a dictionary such as "
            "{'TIMEOUT': 1.0}."
        )
    known = {field.name.upper(): field for field in fields(Options)}
    chosen: dict[str, Any] = {}
    for name, value in found.items():
        if name not in known:
            raise ImproperlyConfigured(
                f"settings.{SETTING}[{name!r}] is unknown. {did_you_mean(name, list(known))}"
            )
        is_flag = isinstance(known[name].default, bool)
        if is_flag and not isinstance(value, bool):
            raise ImproperlyConfigured(
                f"settings.{SETTING}[{name!r}] is {value!r}. Give True or False."
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_flag and not (is_number and 0.1 <= value <= 3600):
            raise ImproperlyConfigured(
                f"settings.{SETTING}[{name!r}] is {value!r}. Give seconds, 0.1 to 3600."
            )
        chosen[known[name].name] = value
    return Options(**chosen)
