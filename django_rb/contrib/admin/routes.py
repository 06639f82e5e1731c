"""The routes of the pages."""

from __future__ import annotations

from django.urls import URLPattern, path

from . import browser, changes, overview, rankings
from .pages import Pages, View

_ROUTES: tuple[tuple[str, str, View, str], ...] = (
    ("", "overview", overview.overview, "view"),
    ("node/<str:name>/", "node", overview.node, "view"),
    ("slow-log/", "slow_log", overview.slow_log, "view"),
    ("hot-keys/", "hot_keys", rankings.hot_keys, "view"),
    ("large-keys/", "large_keys", rankings.large_keys, "view"),
    ("keys/", "keys", browser.keys, "view"),
    ("keys/key/", "key", browser.key, "view"),
    ("keys/key/expiry/", "expiry", changes.expiry, "change"),
    ("keys/key/delete/", "delete_key", changes.delete_key, "delete"),
    ("keys/delete/", "delete_keys", changes.delete_keys, "delete"),
    ("flush/", "flush", changes.flush, "flush"),
)


def make_urls(pages: Pages) -> list[URLPattern]:
    """Return the routes of the pages, to be included under a namespace."""
    return [
        path(route, pages.guarded(view, permission), name=pages.route(name))
        for route, name, view, permission in _ROUTES
    ]
