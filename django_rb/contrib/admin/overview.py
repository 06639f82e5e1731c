"""Pages that show the state of the nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse

from ... import conf
from ...engine import Cluster
from ...management.base import at_once, known_clusters, name_of
from ...management.looks import take_look
from ...management.scanning import run_pipelines
from .conf import get_options
from .pages import Pages
from .shown import in_address, info_sections, replicas_of, view_clusters
from .slow import MOST, fetch_slow, read_slow


def overview(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show all nodes of all clusters."""
    options = get_options()
    chosen = known_clusters(conf.get_aliases(), options.timeout)
    look = take_look(chosen, options.timeout)
    found = view_clusters(look, chosen)
    nodes = [node for cluster in found for node in cluster.nodes]
    return pages.render(
        request,
        _template(request, "overview"),
        "Nodes",
        clusters=found,
        answered=sum(node.status.error is None for node in nodes),
        total=len(nodes),
        urls={n.name: pages.url(request, "node", in_address(n.name)) for n in nodes},
        flush_url=pages.url(request, "flush"),
        options=options,
    )


def node(pages: Pages, request: HttpRequest, name: str) -> HttpResponse:
    """Show one node: its numbers, its replicas, its slow log, and all of INFO."""
    options = get_options()
    alias, _, number = unquote(name).rpartition(".")
    cluster = get_cluster(alias)
    if not number.isdecimal() or int(number) not in cluster.hosts:
        raise Http404("There is no such node.")
    host_id, chosen = int(number), {alias: cluster}
    questions = [("INFO",), ("SLOWLOG", "GET", MOST)]
    asked = partial(run_pipelines, cluster, {host_id: questions}, options.timeout)
    tasks: dict[str, Any] = {
        "look": partial(take_look, chosen, options.timeout),
        "replies": asked,
    }
    outcomes: dict[str, Any] = at_once(tasks)
    for outcome in outcomes.values():
        if isinstance(outcome, Exception):
            raise outcome
    (found,) = view_clusters(outcomes["look"], chosen)
    seen = next((node for node in found.nodes if node.host_id == host_id), None)
    if seen is None:  # it has just left the Redis Cluster
        raise Http404("There is no such node.")
    info, slow = outcomes["replies"][host_id]
    is_info, is_slow = isinstance(info, bytes), isinstance(slow, list)
    return pages.render(
        request,
        _template(request, "node"),
        f"Node {host_id} of {alias}",
        node=seen,
        cluster=found,
        connections=cluster.connections([host_id])[host_id],
        sections=info_sections(info) if is_info else [],
        replicas=replicas_of(cluster.prototype.response_callbacks["INFO"](info))
        if is_info
        else [],
        slow=read_slow((alias, host_id), seen.row.address, slow) if is_slow else [],
        slow_error="" if is_slow else str(slow),
        overview_url=pages.url(request, "overview"),
        flush_url=pages.url(request, "flush"),
        options=options,
    )


def slow_log(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Show the slow logs of all servers."""
    timeout = get_options().timeout
    chosen = known_clusters(conf.get_aliases(), timeout)
    entries, errors = fetch_slow(chosen, timeout)
    return pages.render(
        request,
        "slow_log.html",
        "Slow log",
        slow=entries,
        has_nodes=True,
        errors={name_of(node): str(error) for node, error in errors.items()},
        overview_url=pages.url(request, "overview"),
    )


def get_cluster(alias: str) -> Cluster:
    """Return a cluster that knows its nodes, if they answer.

    Raises:
        Http404: there is none.
    """
    try:
        if alias in conf.get_aliases():
            return known_clusters([alias], get_options().timeout)[alias]
    except ImproperlyConfigured as error:
        raise Http404(str(error)) from error
    raise Http404("There is no such cluster.")


def _template(request: HttpRequest, name: str) -> str:
    """Return the template of the page, or for its script, of the part that changes."""
    return f"{name}_now.html" if "now" in request.GET else f"{name}.html"
