"""django-rb: a Django site's cache, counters and limits over many Redis or Valkey nodes.

from django_rb import clusters

cluster = clusters["default"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .registry import clusters

__all__ = ["__version__", "clusters"]


def __getattr__(name: str) -> Any:
    # Late, so that django_rb.engine can be imported where there is no Django.
    if name == "clusters":
        from .registry import clusters  # noqa: PLC0415

        return clusters
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
