"""Which nodes are away, as every page says it."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest

from django_rb import clusters
from django_rb.engine import HostInfo


def nodes_away(request: HttpRequest) -> dict[str, Callable[[], list[HostInfo]]]:
    """Let templates ask which nodes are away."""
    return {"nodes_away": find_nodes_away}


def find_nodes_away() -> list[HostInfo]:
    """Return the nodes that failed when they were last used. Nothing is asked for it."""
    found = {}
    for alias in clusters:  # of the same nodes
        cluster = clusters[alias]
        for host_id, health in cluster.health().items():
            if health.state != "up":
                found[host_id] = cluster.hosts[host_id]
    return [found[host_id] for host_id in sorted(found)]


def shows_toolbar(request: HttpRequest) -> bool:
    """Return whether a request is one for the debug toolbar: for a page, from this machine."""
    is_turned_page = request.method == "POST" and request.path.startswith("/reading-room/")
    if is_turned_page or request.path.startswith("/admin/"):
        return False
    return request.META.get("REMOTE_ADDR") in settings.INTERNAL_IPS
