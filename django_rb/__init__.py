"""django-rb: a Django site's cache, counters and limits over many Redis or Valkey nodes.

from django_rb import clusters

cluster = clusters["default"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .registry import clusters, get_redis_connection

__all__ = ["__version__", "clusters", "get_redis_connection"]


def __getattr__(name: str) -> Any:
    # Imported here, so that django_rb.engine can be imported without Django.
    if name == "clusters":
        from .registry import clusters  # noqa: PLC0415

        return clusters
    if name == "get_redis_connection":
        from .registry import get_redis_connection  # noqa: PLC0415

        return get_redis_connection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
