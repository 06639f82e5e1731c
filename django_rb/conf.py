"""settings.RB_CLUSTERS, read in one place: validated, with every mistake explained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .engine import BadHostSetup, BaseRouter, Cluster
from .engine.nodes.health import DEFAULT_HEALTH, check_health
from .engine.nodes.hosts import number_hosts, parse_hosts, with_database
from .engine.nodes.option_checks import check_pool_options
from .engine.secrecy import hides_locals
from .engine.topology.settings import REDIS_CLUSTER, STATIC, check_topology
from .engine.wording import clause, did_you_mean, masked, number_of
from .paths import import_path
from .slow import SlowCalls, check_slow

SETTING = "RB_CLUSTERS"
DEFAULT_ROUTER = "django_rb.engine.SlotRouter"

# Where `manage.py rb_nodes` says which local nodes stand in for the configured ones:
# a JSON object {alias: [URL, …]}, or for a Redis Cluster {alias: {"TOPOLOGY": "redis-cluster",
# "HOSTS": [URL, …]}}. Read here so that any program it starts finds them.
NODES_VARIABLE = "DJANGO_RB_NODES"

# What is meant for a cluster's own nodes: to log in, and what no unix socket takes.
ROUTER_KEYS = ("ROUTER", "ROUTER_OPTIONS")

OWN_OPTIONS = ("username", "password", "credential_provider", "socket_type")

KEYS = (
    "TOPOLOGY",
    "HOSTS",
    "HOST_DEFAULTS",
    "ROUTER",
    "ROUTER_OPTIONS",
    "ADDRESS_MAP",
    "POOL_OPTIONS",
    "HEALTH",
    "SLOW",
    "TEST",
)
TEST_KEYS = ("NODES", "HOSTS", "DB")


@hides_locals
def get_aliases() -> list[str]:
    """Return the aliases in settings.RB_CLUSTERS.

    Raises:
        ImproperlyConfigured: it is not a dictionary.
    """
    return list(_clusters())


@hides_locals
def check_alias(alias: object, whose: str = "") -> None:
    """Raise ImproperlyConfigured unless there is a cluster under `alias`.

    Args:
        whose: the setting that names the alias, for the error.
    """
    clusters = _clusters()
    if alias in list(clusters):  # a list takes what cannot be a key, too
        return
    named = f", {whose}," if whose else ""
    name_one = f"Name an alias, such as 'default'. URLs go to {SETTING}[alias]['HOSTS']."
    if not isinstance(alias, str):
        raise ImproperlyConfigured(
            f"{masked(alias)}{named} is not the alias of a cluster in settings.{SETTING}. "
            f"{name_one}"
        )
    if "://" in alias or "@" in alias:
        way_out = name_one
    elif clusters:
        way_out = did_you_mean(alias, list(clusters))
    else:
        way_out = (
            "The setting is missing or empty. "
            f"Add {SETTING} = {{{alias!r}: {{'HOSTS': [{{'host': '127.0.0.1'}}]}}}}."
        )
    raise ImproperlyConfigured(
        f"There is no cluster {masked(alias)}{named} in settings.{SETTING}. {way_out}"
    )


@hides_locals
def make_cluster(alias: str) -> Cluster:
    """Return a new cluster as configured under an alias. Nothing is connected.

    Raises:
        ImproperlyConfigured: naming the alias, the key, the value and the way out.
    """
    return build_cluster(alias, get_config(alias))


@hides_locals
def get_config(alias: str) -> Mapping[str, Any]:
    """Return the settings of the cluster under an alias.

    Raises:
        ImproperlyConfigured: there is none, or they have a mistake.
    """
    check_alias(alias)
    config: Mapping[str, Any] = _clusters()[alias]
    if mistakes := list(find_mistakes(alias, config)):
        raise mistakes[0]
    return config


@hides_locals
def build_cluster(alias: str, config: Mapping[str, Any]) -> Cluster:
    """Return a new cluster with settings that have no mistake. Nothing is connected."""
    cluster = _build(alias, config, _import_router(alias, config))
    if (seconds := check_slow(config.get("SLOW"))) is not None:
        cluster.observers = (SlowCalls(alias, seconds),)
    return cluster


@hides_locals
def find_all_mistakes() -> list[ImproperlyConfigured]:
    """Return every mistake in settings.RB_CLUSTERS, as an error that explains it."""
    try:
        clusters = _clusters()
    except ImproperlyConfigured as error:
        return [error]
    return [
        mistake
        for alias, config in clusters.items()
        for mistake in find_mistakes(alias, config)
    ]


def find_mistakes(alias: str, config: object) -> Iterator[ImproperlyConfigured]:
    """Yield the mistakes in one cluster's settings; connects to nothing."""
    if not isinstance(config, Mapping):
        yield _mistake(
            alias, (), f"A {type(config).__name__} is not a dictionary with the key 'HOSTS'."
        )
        return
    for key in config:
        if key not in KEYS:
            text = f"Unknown key {masked(key)}. {did_you_mean(key, KEYS)}"
            yield _mistake(alias, (key,), text)
    if "HOSTS" not in config:
        yield _mistake(
            alias, ("HOSTS",), "It is missing. Name the nodes: [{'host': '127.0.0.1'}]."
        )
        return
    sound = True
    try:
        _check_topology(alias, config)
    except ImproperlyConfigured as error:
        yield error
        return
    try:
        parse_hosts(config["HOSTS"], config.get("HOST_DEFAULTS"))
    except BadHostSetup as error:
        sound = False
        yield _mistake(alias, error.path, str(error))
    checks: tuple[tuple[Callable[[Any], object], object], ...] = (
        (check_pool_options, config.get("POOL_OPTIONS")),
        (check_health, config.get("HEALTH", DEFAULT_HEALTH)),
        (check_slow, config.get("SLOW")),
    )
    for check, value in checks:
        try:
            check(value)
        except BadHostSetup as error:
            sound = False
            yield _mistake(alias, error.path, str(error))
    options = config.get("ROUTER_OPTIONS")
    if options is not None and not isinstance(options, Mapping):
        sound = False
        yield _mistake(
            alias, ("ROUTER_OPTIONS",), f"{options!r} is not a dictionary of options."
        )
    try:
        router = _import_router(alias, config)
    except ImproperlyConfigured as error:
        yield error
        return
    if sound:
        try:
            _build(alias, config, router)
        except BadHostSetup as error:
            yield _mistake(alias, error.path, str(error))
    yield from _find_test_mistakes(alias, config)


def _find_test_mistakes(
    alias: str, config: Mapping[str, Any]
) -> Iterator[ImproperlyConfigured]:
    """Yield the mistakes in what a cluster's settings say under TEST."""
    test = config.get("TEST")
    if test is None:
        return
    if not isinstance(test, Mapping):
        text = f"{masked(test)} is not a dictionary such as {{'NODES': 2}}."
        yield _mistake(alias, ("TEST",), text)
        return
    mistakes: list[tuple[tuple[object, ...], str]] = [
        (("TEST", key), f"Unknown key {masked(key)}. {did_you_mean(key, TEST_KEYS)}")
        for key in test
        if key not in TEST_KEYS
    ]
    if "NODES" in test and len(test.keys() & TEST_KEYS) > 1:
        text = (
            "It is for local nodes; 'HOSTS' and 'DB' name servers. Keep the one or the other."
        )
        mistakes.append((("TEST", "NODES"), text))
    for key, least in (("NODES", 1), ("DB", 0)):
        if key in test and (type(number := number_of(test[key])) is not int or number < least):
            text = f"{masked(test[key])} is not a whole number of {least} or more."
            mistakes.append((("TEST", key), text))
    if "HOSTS" in test:
        try:
            parse_hosts(test["HOSTS"])
        except BadHostSetup as error:
            mistakes.append((("TEST", *error.path), str(error)))
    if not mistakes:
        mistakes += [(("TEST",), text) for text in _find_shared_databases(alias, config)]
    for path, text in mistakes:
        yield _mistake(alias, path, text)


def _find_shared_databases(alias: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield why what TEST declares must not be flushed: it is not for tests alone."""
    try:
        declared = get_test_config(config)
    except BadHostSetup:  # in HOSTS: find_mistakes() tells
        return
    # The site's own nodes are not for tests either while those of `rb_nodes` replace them.
    own = [*get_site_configs(), (alias, config)]
    owners = {
        place: f"node {host_id} of the cluster {other!r}"
        for other, other_config in own
        for place, host_id in _places(other_config)
    }
    tested = _find_databases_tested_before(alias)
    nodes: dict[str, int] = {}
    for place, host_id in _places(declared):
        if place in owners:
            yield (
                f"{place} is {owners[place]}, and tests flush it. "
                "Name a database or servers that are for tests alone."
            )
        elif place in tested:
            yield (
                f"{place} is what settings.{SETTING}[{tested[place]!r}]['TEST'] declares, too, "
                "and each cluster is flushed by itself. Name another database or server."
            )
        elif place in nodes:
            yield (
                f"Nodes {nodes[place]} and {host_id} would both be {place}. "
                "Name a database or a server for each."
            )
        nodes[place] = host_id


def _find_databases_tested_before(alias: str) -> dict[str, str]:
    """Return the databases that clusters before this one declare under TEST, and by which.

    Those of the setting as it is: the nodes of `rb_nodes` are the same for all clusters.
    """
    clusters = _configured()
    before = takewhile(lambda other: other != alias, clusters)
    return {place: other for other in before for place in _tested_places(clusters[other])}


def _tested_places(config: object) -> Iterator[str]:
    """Yield the databases that a cluster's settings declare under TEST, if they are sound."""
    test = config.get("TEST") if isinstance(config, Mapping) else None
    if isinstance(config, Mapping) and isinstance(test, Mapping):
        with suppress(BadHostSetup, TypeError):
            declared = get_test_config({"HOSTS": [], **config})
            yield from (place for place, _ in _places(declared))


def _places(config: object) -> Iterator[tuple[str, int]]:
    """Yield which database each node is, by one of its names, and the node's host id."""
    if isinstance(config, Mapping):
        with suppress(BadHostSetup):
            nodes = parse_hosts(config.get("HOSTS"), config.get("HOST_DEFAULTS"))
            for host_id, info in nodes.items():
                host = info.host.lower()
                host = "127.0.0.1" if host in {"localhost", "::1"} else host
                yield replace(info, host=host).address, host_id


def get_site_configs() -> list[tuple[str, Any]]:
    """Return the settings of the clusters that are not for tests, mistakes and all.

    Those of `rb_nodes`, and those that they stand in for.
    """
    return [*_configured().items(), *_clusters().items()]


def get_test_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a cluster's settings with the servers that TEST declares, None for local nodes."""
    test = config.get("TEST") or {}
    if "HOSTS" in test:
        config = with_nodes(config, test["HOSTS"], get_topology(config))
    elif "DB" not in test:
        return None
    if "DB" in test:
        config = {**config, "HOSTS": with_database(config["HOSTS"], test["DB"])}
    return config


def with_nodes(
    config: Mapping[str, Any],
    hosts: Mapping[int, object] | Sequence[object],
    topology: str = STATIC,
) -> Mapping[str, Any]:
    """Return a cluster's settings with other nodes in place of its own, of a topology.

    What is meant for its own nodes alone is left out: passwords, the type of sockets, and the
    weights of nodes that are not there.
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
    others = {"ADDRESS_MAP", "TOPOLOGY"}
    if topology != STATIC:
        others.update(ROUTER_KEYS)
    placed = {key: value for key, value in placed.items() if key not in others}
    return placed if topology == STATIC else {**placed, "TOPOLOGY": topology}


def _without(options: object, names: Collection[object]) -> object:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name not in names}


def _clusters() -> Mapping[str, Any]:
    clusters = _configured()
    local = os.environ.get(NODES_VARIABLE)
    return _with_local_nodes(clusters, local) if local else clusters


def _configured() -> Mapping[str, Any]:
    """Return the setting as it is, whatever `rb_nodes` says."""
    clusters = getattr(settings, SETTING, {})
    if not isinstance(clusters, Mapping):
        raise ImproperlyConfigured(
            f"settings.{SETTING} is a {type(clusters).__name__}, not a dictionary "
            "{alias: {'HOSTS': …}}."
        )
    return clusters


def _with_local_nodes(clusters: Mapping[str, Any], local: str) -> Mapping[str, Any]:
    """Return the settings with the nodes of `rb_nodes` in place of their own."""
    merged = dict(clusters)
    for alias, (topology, urls) in _read_local_nodes(local).items():
        config = clusters.get(alias, {})
        if isinstance(config, Mapping):  # else find_mistakes() says so
            merged[alias] = with_nodes(config, urls, topology)
    return merged


@lru_cache(maxsize=1)  # under ASGI, every request makes its caches anew
def _read_local_nodes(local: str) -> dict[str, tuple[str, list[str]]]:
    """Return the topology and the URLs of local nodes by alias."""
    nodes: dict[str, tuple[str, list[str]]] = {}
    try:
        for alias, told in json.loads(local).items():
            topology, urls = STATIC, told
            if isinstance(told, Mapping) and "HOSTS" in told:
                topology, urls = told.get("TOPOLOGY", STATIC), told["HOSTS"]
            check_topology(topology)
            parse_hosts(urls)
            nodes[alias] = topology, urls
    except (AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"The environment variable {NODES_VARIABLE} is not a JSON object "
            f"{{alias: [URL, …]}}: {clause(error)}. `manage.py rb_nodes` sets it; unset it "
            f"to use the nodes of settings.{SETTING}."
        ) from error
    return nodes


def _build(alias: str, config: Mapping[str, Any], router: type[BaseRouter] | None) -> Cluster:
    address_map = config.get("ADDRESS_MAP")
    return Cluster(
        config["HOSTS"],
        host_defaults=config.get("HOST_DEFAULTS"),
        pool_options=config.get("POOL_OPTIONS"),
        router_cls=router,
        router_options=config.get("ROUTER_OPTIONS"),
        health=config.get("HEALTH", DEFAULT_HEALTH),
        topology=get_topology(config),
        address_map=import_path(address_map) if isinstance(address_map, str) else address_map,
        alias=alias,
    )


def get_topology(config: Mapping[str, Any]) -> str:
    """Return who says which nodes a cluster has: "static" or "redis-cluster"."""
    return str(config.get("TOPOLOGY", STATIC))


def _check_topology(alias: str, config: Mapping[str, Any]) -> None:
    """Raise ImproperlyConfigured for a topology that is unknown, or goes not with the rest."""
    address_map = config.get("ADDRESS_MAP")
    try:
        if isinstance(address_map, str):
            address_map = import_path(address_map)
        check_topology(
            config.get("TOPOLOGY", STATIC),
            config.get("ROUTER"),
            config.get("ROUTER_OPTIONS"),
            address_map,
        )
    except ImportError as error:
        text = f"{address_map!r} does not import: {clause(error)}."
        raise _mistake(alias, ("ADDRESS_MAP",), text) from error
    except BadHostSetup as error:
        raise _mistake(alias, error.path, str(error)) from error


def _import_router(alias: str, config: Mapping[str, Any]) -> type[BaseRouter] | None:
    if get_topology(config) == REDIS_CLUSTER:
        return None
    router = config.get("ROUTER", DEFAULT_ROUTER)
    path = ("ROUTER",)
    if isinstance(router, str):
        try:
            router = import_path(router)
        except ImportError as error:
            raise _mistake(
                alias,
                path,
                f"{config['ROUTER']!r} does not import: {clause(error)}. "
                f"The default is {DEFAULT_ROUTER!r}.",
            ) from error
    if not (isinstance(router, type) and issubclass(router, BaseRouter)):
        raise _mistake(
            alias,
            path,
            f"{config['ROUTER']!r} is not a class that inherits from "
            f"django_rb.engine.BaseRouter. The default is {DEFAULT_ROUTER!r}.",
        )
    return router


def _mistake(alias: str, path: tuple[object, ...], text: str) -> ImproperlyConfigured:
    where = "".join(f"[{masked(key)}]" for key in (alias, *path))
    return ImproperlyConfigured(f"settings.{SETTING}{where}: {text}")
