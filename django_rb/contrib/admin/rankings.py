"""Pages that find the largest keys, and those that are used most."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from ...management.base import NodeName, name_of
from ...management.big import fetch_big
from ...management.hot import UNITS, HotKeys, fetch_hot
from ...management.keys import readable
from ...management.scanning import Nodes
from .conf import get_options
from .pages import Pages
from .where import Where, asked, choices, get_where, to_text

SAMPLE = 10_000  # keys that are measured
SECONDS = 3.0  # for which requests are observed
TOP = 20


def large_keys(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show which keys of a sample take the most memory, after the form is submitted."""
    where, found = _where(request), None
    nodes = Nodes(where.keyspace.clusters, get_options().timeout)
    if asked(request, "look"):
        # All keys of a cluster: for only some of them, it could take long to find a sample.
        found = fetch_big(where.keyspace, nodes, b"*", sample=SAMPLE, top=TOP)
    return pages.render(
        request,
        "large_keys.html",
        "Large keys",
        **_shared(pages, request, where, nodes),
        found=found,
        sample=SAMPLE,
        keys=[
            (one, *_key(pages, request, where, one.node, one.key))
            for one in (found.keys if found else ())
        ],
        patterns=[(one, one.size / found.size, readable(one.pattern)) for one in found.patterns]
        if found
        else [],
    )


def hot_keys(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show which keys are used most in the seconds after the form is submitted."""
    where, found = _where(request), None
    nodes = Nodes(where.keyspace.clusters, get_options().timeout)
    if asked(request, "look"):
        found = fetch_hot(where.keyspace, nodes, seconds=SECONDS, top=TOP)
    return pages.render(
        request,
        "hot_keys.html",
        "Hot keys",
        **_shared(pages, request, where, nodes),
        found=found,
        **(_show_hot(pages, request, where, found) if found else {}),
    )


def _show_hot(
    pages: Pages, request: HttpRequest, where: Where, found: HotKeys
) -> dict[str, Any]:
    sources = []
    for source, unit in UNITS.items():
        keys = [
            (one, *_key(pages, request, where, one.node, one.key))
            for one in found.keys
            if one.source == source
        ]
        alike = [(one, readable(one.pattern)) for one in found.patterns if one.source == source]
        if keys:
            sources.append((unit, keys, alike))
    return {
        "sources": sources,
        "slots": [
            (one, name_of(one.node), " ".join(map(readable, one.keys))) for one in found.slots
        ],
        "told": {name_of(node): told for node, told in found.nodes.items()},
    }


def _where(request: HttpRequest) -> Where:
    """Return the selected cluster, by default the first."""
    clusters = [text for text, _ in choices()[-1][1]]
    return get_where(asked(request, "where") or next(iter(clusters), ""))


def _shared(pages: Pages, request: HttpRequest, where: Where, nodes: Nodes) -> dict[str, Any]:
    return {
        "where": where,
        "choices": choices()[-1:],
        "errors": {name_of(node): str(error) for node, error in nodes.failures.items()},
        "overview_url": pages.url(request, "overview"),
    }


def _key(
    pages: Pages, request: HttpRequest, where: Where, node: NodeName, key: bytes
) -> tuple[str, str, str]:
    """Return a key as text, its node, and the URL of its page."""
    url = pages.url(request, "key", where=where.text, key=to_text(key))
    return where.keyspace.readable(key), name_of(node), url
