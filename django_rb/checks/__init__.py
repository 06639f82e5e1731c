"""The messages of `manage.py check`. docs/checks.md describes each id and its solution.

E001 to W015 and, with --deploy, W101 to W104 depend only on the settings and do not connect to
nodes. E201 to W212 depend on the replies of nodes to `manage.py check --tag rb_connect`.

The functions that are registered here import the checks when they run: checks need redis-py,
which would slow down the start of processes that run no checks.
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
    """Report problems with clusters, caches and limits."""
    from . import from_settings, limits  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    checks = (*from_settings.CHECKS, *limits.SETTINGS_CHECKS)
    return shown(message for check in checks for message in check())


@register(Tags.urls)
def check_views(app_configs: AppConfigs = None, **kwargs: Any) -> list[CheckMessage]:
    """Report problems with limited views."""
    from . import limits  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    return shown(message for check in limits.VIEWS_CHECKS for message in check())


@register(Tags.security, deploy=True)
def check_deployment(app_configs: AppConfigs = None, **kwargs: Any) -> list[CheckMessage]:
    """Report insecure access to nodes, and calls that wait for dead ones."""
    from . import deployment  # noqa: PLC0415
    from .site import shown  # noqa: PLC0415

    return shown(deployment.check_deployment())


def __getattr__(name: str) -> Any:
    if name == "check_live_nodes":
        from .connecting import check_live_nodes  # noqa: PLC0415

        return check_live_nodes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
