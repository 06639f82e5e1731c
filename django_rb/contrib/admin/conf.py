"""settings.RB_ADMIN, read each time it is needed."""

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
    """The options in settings.RB_ADMIN, in lower case.

    Attributes:
        show_pickles: whether unsigned values are unpickled to be shown, which can execute any
            code of whoever wrote them.
        timeout: seconds in which a node has to answer.
        refresh: seconds between updates of the overview.
    """

    show_pickles: bool = False
    timeout: float = 1.0
    refresh: float = 2.0


def get_options() -> Options:
    """Return the options in settings.RB_ADMIN.

    Raises:
        ImproperlyConfigured: with the key, the value and what to do.
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
