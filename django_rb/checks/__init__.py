"""What `manage.py check` can say. Each id is described in docs/checks.md, with its cure.

E001 to W015 and, with --deploy, W101 to W104 are read off the settings and connect to
nothing. E201 to W212 are what nodes say when `manage.py check --tag rb_connect` asks them.

What is registered here imports the checks when it is run: they need redis-py, and a process
that starts without them is not to wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, register

if TYPE_CHECKING:
    from .connecting import check_live_nodes

__all__ = ["check_deployment", "check_live_nodes", "check_settings", "check_views"]

AppConfigs = Sequence[AppConfig] | None


@register(Tags.caches)
def check_settings(app_configs: AppConfigs = None, **kwargs: Any) -> list[CheckMessage]:
    """Report what is amiss with clusters, caches and limits."""
    from . import from_settings, limits  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    checks = (*from_settings.CHECKS, *limits.SETTINGS_CHECKS)
    return shown(message for check in checks for message in check())


@register(Tags.urls)
def check_views(app_configs: AppConfigs = None, **kwargs: Any) -> list[CheckMessage]:
    """Report what is amiss with limited views."""
    from . import limits  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    return shown(message for check in limits.VIEWS_CHECKS for message in check())


@register(Tags.security, deploy=True)
def check_deployment(app_configs: AppConfigs = None, **kwargs: Any) -> list[CheckMessage]:
    """Report nodes that others can read, write or stand in for, and those not left alone."""
    from . import deployment  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    return shown(deployment.check_deployment())


def __getattr__(name: str) -> Any:
    if name == "check_live_nodes":
        from .connecting import check_live_nodes  # noqa: PLC0415

        return check_live_nodes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
