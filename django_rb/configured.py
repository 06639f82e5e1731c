"""settings.RB_CLUSTERS, unchanged and with local nodes instead of the site's own."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .engine.nodes.hosts import HostInfo, number_hosts, parse_hosts
from .engine.topology.sentinel_settings import read_watched
from .engine.topology.settings import REDIS_CLUSTER, SENTINEL, STATIC, check_topology
from .engine.wording import clause, masked

SETTING = "RB_CLUSTERS"

# `manage.py rb_nodes` sets this to the local nodes that replace the configured ones:
# a JSON object {alias: [URL, …]}, or {alias: {"TOPOLOGY": "redis-cluster", "HOSTS": [URL, …]}},
# and for Sentinels with "SENTINELS". It is read here, so that any program it starts uses them.
NODES_VARIABLE = "DJANGO_RB_NODES"

# Options only for a cluster's own nodes: for login, and those that unix sockets do not have.
OWN_OPTIONS = ("username", "password", "credential_provider", "socket_type")


def get_topology(config: Mapping[str, Any]) -> str:
    """Return the topology of a cluster: "static", "sentinel" or "redis-cluster"."""
    return str(config.get("TOPOLOGY", STATIC))


def read_nodes(config: Mapping[str, Any]) -> dict[int, HostInfo]:
    """Return the nodes in the settings of a cluster, by host id.

    Raises:
        BadHostSetup: there is a mistake in them.
    """
    hosts, defaults = config.get("HOSTS"), config.get("HOST_DEFAULTS")
    if get_topology(config) != SENTINEL:
        return parse_hosts(hosts, defaults)
    watchers = config.get("SENTINELS"), config.get("SENTINEL_OPTIONS")
    return read_watched(hosts, defaults, *watchers).shards


def with_nodes(
    config: Mapping[str, Any],
    hosts: Mapping[int, object] | Sequence[object],
    topology: str = STATIC,
    sentinels: Sequence[object] = (),
) -> Mapping[str, Any]:
    """Return a cluster's settings with other nodes, and their topology.

    Settings that are only for its own nodes are left out: passwords, the type of sockets, and
    the weights of nodes that do not exist.
    """
    options = {key: _without(value, OWN_OPTIONS) for key, value in config.items()}
    router_options = options.get("ROUTER_OPTIONS")
    if isinstance(router_options, Mapping):
        weights = router_options.get("weights")
        if isinstance(weights, Mapping):
            gone = [host_id for host_id in weights if host_id not in number_hosts(hosts)]
            router_options = {**router_options, "weights": _without(weights, gone)}
        options["ROUTER_OPTIONS"] = router_options
    placed = {**options, "HOSTS": hosts, "HOST_DEFAULTS": {}}
    others = {"ADDRESS_MAP", "TOPOLOGY", "SENTINELS", "SENTINEL_OPTIONS"}
    if topology == REDIS_CLUSTER:
        others.update(("ROUTER", "ROUTER_OPTIONS"))
    placed = {key: value for key, value in placed.items() if key not in others}
    if topology == SENTINEL:
        placed["SENTINELS"] = sentinels
    return placed if topology == STATIC else {**placed, "TOPOLOGY": topology}


def _without(options: object, names: Collection[object]) -> object:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name not in names}


def read_clusters() -> Mapping[str, Any]:
    """Return the setting, with the nodes of `rb_nodes` if there are any."""
    clusters = read_setting()
    local = os.environ.get(NODES_VARIABLE)
    return _with_local_nodes(clusters, local) if local else clusters


def read_setting() -> Mapping[str, Any]:
    """Return the setting unchanged, without the nodes of `rb_nodes`."""
    clusters = getattr(settings, SETTING, {})
    if not isinstance(clusters, Mapping):
        raise ImproperlyConfigured(
            f"settings.{SETTING} is a {type(clusters).__name__}, not a dictionary "
            "{alias: {'HOSTS': …}}."
        )
    return clusters


def _with_local_nodes(clusters: Mapping[str, Any], local: str) -> Mapping[str, Any]:
    """Return the settings with the nodes of `rb_nodes` instead of their own."""
    merged = dict(clusters)
    for alias, (urls, topology, sentinels) in _read_local_nodes(local).items():
        config = clusters.get(alias, {})
        if isinstance(config, Mapping):  # otherwise find_mistakes() reports it
            merged[alias] = with_nodes(config, urls, topology, sentinels)
    return merged


@lru_cache(maxsize=1)  # under ASGI, every request creates its own caches
def _read_local_nodes(local: str) -> dict[str, tuple[list[str], str, list[str]]]:
    """Return the URLs of local nodes, their topology and the URLs of Sentinels, by alias."""
    nodes: dict[str, tuple[list[str], str, list[str]]] = {}
    try:
        for alias, told in json.loads(local).items():
            config = told if isinstance(told, Mapping) and "HOSTS" in told else {"HOSTS": told}
            check_topology(get_topology(config))
            read_nodes(config)
            nodes[alias] = config["HOSTS"], get_topology(config), config.get("SENTINELS", [])
    except (AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"The environment variable {NODES_VARIABLE} is not a JSON object "
            f"{{alias: [URL, …]}}: {clause(error)}. `manage.py rb_nodes` sets it; unset it "
            f"to use the nodes of settings.{SETTING}."
        ) from error
    return nodes


def mistake_at(alias: str, path: tuple[object, ...], text: str) -> ImproperlyConfigured:
    """Return the error for a mistake at this path in the setting."""
    where = "".join(f"[{masked(key)}]" for key in (alias, *path))
    return ImproperlyConfigured(f"settings.{SETTING}{where}: {text}")
