"""Pages that show keys, and the value of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from ...management.base import name_of
from ...management.entries import Entry, find
from ...management.keys import from_argument, readable
from ...management.scanning import Nodes
from .conf import get_options
from .found import FoundKey, FoundPage, cursors_from_text, cursors_to_text, find_page
from .pages import Pages
from .shown import in_address, node_name
from .values import read_value
from .where import Where, asked, choices, from_text, get_where, to_text

_GLOB = frozenset("*?[\\")
UNKNOWN_OWNERS = "No node of this Redis Cluster answers, so the owner of a key is unknown."


@dataclass(frozen=True)
class KeyView:
    """A key for the templates."""

    found: FoundKey
    text: str
    node: str
    url: str


def keys(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show the keys of a cache or a cluster that match a pattern, page by page.

    If the pattern is an existing key, redirect to its page.
    """
    where = get_where(asked(request, "where"))
    typed = asked(request, "pattern") or "*"
    options = get_options()
    page, problem = FoundPage([], {}, {}), ""
    try:
        if not _GLOB & set(typed) and (found := _look_up(where, typed)) is not None:
            return redirect(pages.url(request, "key", where=where.text, key=to_text(found)))
        pattern = where.keyspace.pattern(typed)
        cursors = cursors_from_text(asked(request, "at"))
        page = find_page(where, pattern, cursors, options.timeout)
    except CommandError as error:
        problem = str(error)
    more = cursors_to_text(page.cursors)
    same = {"where": where.text, "pattern": typed}
    return pages.render(
        request,
        "keys.html",
        "Keys",
        choices=choices(),
        where=where,
        pattern=typed,
        is_pattern=bool(_GLOB & set(typed)),
        keys=[_view(pages, request, where, found) for found in page.keys],
        is_first=not asked(request, "at"),
        more_url=more and pages.url(request, "keys", **same, at=more),
        wider_url=pages.url(request, "keys", where=where.text, pattern=f"*{typed}*"),
        problem=problem,
        errors={name_of((where.alias, host)): error for host, error in page.errors.items()},
        delete_url=pages.url(request, "delete_keys", **same),
        overview_url=pages.url(request, "overview"),
    )


def key(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show the value of a key."""
    where, stored = get_where(asked(request, "where")), from_text(asked(request, "key"))
    options = get_options()
    entry, value, problem = None, None, ""
    nodes = Nodes(where.keyspace.clusters, options.timeout)
    if not where.is_known:
        problem = UNKNOWN_OWNERS
    else:
        entry, problem = find_entry(nodes, where, stored)
    if entry is not None:
        shows = options.show_pickles
        value = read_value(nodes, entry, where, stored, show_pickles=shows)
        problem = next((str(error) for error in nodes.failures.values()), "")
    same = {"where": where.text, "key": to_text(stored)}
    node = entry and node_name(entry.node)
    return pages.render(
        request,
        "key.html",
        "Key",
        where=where,
        text=where.keyspace.readable(stored),
        stored=stored_text(where, stored),
        entry=entry,
        value=value,
        problem=problem,
        node_url=node and pages.url(request, "node", in_address(node)),
        node_name=entry and name_of(entry.node),
        keys_url=pages.url(request, "keys", where=where.text),
        expiry_url=pages.url(request, "expiry", **same),
        delete_url=pages.url(request, "delete_key", **same),
        overview_url=pages.url(request, "overview"),
    )


def find_entry(nodes: Nodes, where: Where, stored: bytes) -> tuple[Entry | None, str]:
    """Return the entry of a key on its owner, or None and the reason."""
    owner = where.alias, where.cluster.get_host_for_key(stored)
    entries = find(nodes, {owner: where.cluster.get_address(owner[1])}, stored)
    if entries:
        return entries[0], ""
    if owner in nodes.failures:
        return None, f"Its node {name_of(owner)} failed: {nodes.failures[owner]}"
    return None, f"The key was not found on {name_of(owner)}, its node."


def stored_text(where: Where, stored: bytes) -> str:
    """Return the stored key, if it differs from the cache's own key."""
    return readable(stored) if where.keyspace.cache is not None else ""


def _look_up(where: Where, typed: str) -> bytes | None:
    """Return the stored key for what was entered, if it exists."""
    if not where.is_known:
        raise CommandError(UNKNOWN_OWNERS)
    (stored,) = where.keyspace.stored([from_argument(typed)])
    nodes = Nodes(where.keyspace.clusters, get_options().timeout)
    entry, _ = find_entry(nodes, where, stored)
    return None if entry is None and not nodes.failures else stored


def _view(pages: Pages, request: HttpRequest, where: Where, found: FoundKey) -> KeyView:
    query: dict[str, Any] = {"where": where.text, "key": to_text(found.stored)}
    return KeyView(
        found,
        where.keyspace.readable(found.stored),
        name_of((where.alias, found.host_id)),
        pages.url(request, "key", **query),
    )
