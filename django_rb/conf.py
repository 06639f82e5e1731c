"""settings.RB_CLUSTERS, read in one place: validated, with every mistake explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .conf_for_tests import find_test_mistakes, get_site_configs, get_test_config
from .configured import (
    NODES_VARIABLE,
    SETTING,
    get_topology,
    mistake_at,
    read_clusters,
    read_nodes,
    with_nodes,
)
from .engine import BadHostSetup, BaseRouter, Cluster
from .engine.nodes.health import DEFAULT_HEALTH, check_health
from .engine.nodes.option_checks import check_pool_options
from .engine.secrecy import hides_locals
from .engine.topology.settings import REDIS_CLUSTER, STATIC, check_topology
from .engine.wording import clause, did_you_mean, masked
from .paths import import_path
from .slow import SlowCalls, check_slow

__all__ = [
    "NODES_VARIABLE",
    "SETTING",
    "build_cluster",
    "check_alias",
    "find_all_mistakes",
    "find_mistakes",
    "get_aliases",
    "get_config",
    "get_site_configs",
    "get_test_config",
    "get_topology",
    "make_cluster",
    "read_nodes",
    "with_nodes",
]

DEFAULT_ROUTER = "django_rb.engine.SlotRouter"

KEYS = (
    "TOPOLOGY",
    "HOSTS",
    "HOST_DEFAULTS",
    "ROUTER",
    "ROUTER_OPTIONS",
    "ADDRESS_MAP",
    "SENTINELS",
    "SENTINEL_OPTIONS",
    "READ_FROM",
    "MAX_LAG",
    "POOL_OPTIONS",
    "HEALTH",
    "SLOW",
    "TEST",
)


@hides_locals
def get_aliases() -> list[str]:
    """Return the aliases in settings.RB_CLUSTERS.

    Raises:
        ImproperlyConfigured: it is not a dictionary.
    """
    return list(read_clusters())


@hides_locals
def check_alias(alias: object, whose: str = "") -> None:
    """Raise ImproperlyConfigured unless there is a cluster with this alias.

    Args:
        whose: the setting that contains the alias, for the error.
    """
    clusters = read_clusters()
    if alias in list(clusters):  # a list, as the alias may not be hashable
        return
    named = f", {whose}," if whose else ""
    name_one = f"Use an alias, such as 'default'. URLs belong in {SETTING}[alias]['HOSTS']."
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
    """Return a new cluster with the settings of an alias. There is no I/O.

    Raises:
        ImproperlyConfigured: with the alias, the key, the value and what to do.
    """
    config, cluster = _read_and_build(alias)
    return _with_observers(alias, config, cluster)


@hides_locals
def get_config(alias: str) -> Mapping[str, Any]:
    """Return the settings of the cluster with an alias.

    Raises:
        ImproperlyConfigured: there is none, or they have a mistake.
    """
    return _read_and_build(alias)[0]


@hides_locals
def build_cluster(alias: str, config: Mapping[str, Any]) -> Cluster:
    """Return a new cluster with valid settings. There is no I/O."""
    cluster = _build(alias, config, _import_router(alias, config))
    return _with_observers(alias, config, cluster)


def _with_observers(alias: str, config: Mapping[str, Any], cluster: Cluster) -> Cluster:
    if (seconds := check_slow(config.get("SLOW"))) is not None:
        cluster.observers = (SlowCalls(alias, seconds),)
    return cluster


def _read_and_build(alias: str) -> tuple[Mapping[str, Any], Cluster]:
    """Return the settings of the cluster with an alias, and a cluster with them.

    Raises:
        ImproperlyConfigured: there is none, or they have a mistake.
    """
    check_alias(alias)
    config = read_clusters()[alias]
    mistakes, cluster = _examine(alias, config)
    if mistakes or cluster is None:
        raise mistakes[0]
    return config, cluster


@hides_locals
def find_all_mistakes() -> list[ImproperlyConfigured]:
    """Return every mistake in settings.RB_CLUSTERS, each as an error that explains it."""
    try:
        clusters = read_clusters()
    except ImproperlyConfigured as error:
        return [error]
    return [
        mistake
        for alias, config in clusters.items()
        for mistake in find_mistakes(alias, config)
    ]


def find_mistakes(alias: str, config: object) -> list[ImproperlyConfigured]:
    """Return the mistakes in one cluster's settings; no I/O."""
    return _examine(alias, config)[0]


def _examine(alias: str, config: object) -> tuple[list[ImproperlyConfigured], Cluster | None]:
    """Return the mistakes in one cluster's settings, and a cluster if it can be created."""
    if not isinstance(config, Mapping):
        text = f"A {type(config).__name__} is not a dictionary with the key 'HOSTS'."
        return [mistake_at(alias, (), text)], None
    unknown = [
        mistake_at(alias, (key,), f"Unknown key {masked(key)}. {did_you_mean(key, KEYS)}")
        for key in config
        if key not in KEYS
    ]
    if "HOSTS" not in config:
        text = "It is missing. List the nodes: [{'host': '127.0.0.1'}]."
        return [*unknown, mistake_at(alias, ("HOSTS",), text)], None
    try:
        _check_topology(alias, config)
    except ImproperlyConfigured as error:
        return [*unknown, error], None
    mistakes = list(_find_mistakes_in_options(alias, config))
    cluster = None
    try:
        router = _import_router(alias, config)
        if not mistakes:
            cluster = _build(alias, config, router)
    except ImproperlyConfigured as error:
        mistakes.append(error)
    except BadHostSetup as error:
        mistakes.append(mistake_at(alias, error.path, str(error)))
    if cluster is None:
        in_nodes = _find_mistake_in_nodes(alias, config)
        mistakes = [*in_nodes, *(one for one in mistakes if str(one) not in map(str, in_nodes))]
    return [*unknown, *mistakes, *find_test_mistakes(alias, config)], cluster


def _find_mistakes_in_options(
    alias: str, config: Mapping[str, Any]
) -> Iterator[ImproperlyConfigured]:
    checks: tuple[tuple[Callable[[Any], object], object], ...] = (
        (check_pool_options, config.get("POOL_OPTIONS")),
        (check_health, config.get("HEALTH", DEFAULT_HEALTH)),
        (check_slow, config.get("SLOW")),
    )
    for check, value in checks:
        try:
            check(value)
        except BadHostSetup as error:
            yield mistake_at(alias, error.path, str(error))
    options = config.get("ROUTER_OPTIONS")
    if options is not None and not isinstance(options, Mapping):
        text = f"{options!r} is not a dictionary of options."
        yield mistake_at(alias, ("ROUTER_OPTIONS",), text)


def _find_mistake_in_nodes(alias: str, config: Mapping[str, Any]) -> list[ImproperlyConfigured]:
    try:
        read_nodes(config)
    except BadHostSetup as error:
        return [mistake_at(alias, error.path, str(error))]
    return []


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
        sentinels=config.get("SENTINELS"),
        sentinel_options=config.get("SENTINEL_OPTIONS"),
        read_from=config.get("READ_FROM"),
        max_lag=config.get("MAX_LAG"),
        alias=alias,
    )


def _check_topology(alias: str, config: Mapping[str, Any]) -> None:
    """Raise ImproperlyConfigured for a topology that is unknown, or excludes other settings."""
    address_map = config.get("ADDRESS_MAP")
    try:
        if isinstance(address_map, str):
            address_map = import_path(address_map)
        check_topology(
            config.get("TOPOLOGY", STATIC),
            config.get("ROUTER"),
            config.get("ROUTER_OPTIONS"),
            address_map,
            config.get("SENTINELS"),
            config.get("SENTINEL_OPTIONS"),
        )
    except ImportError as error:
        text = f"{address_map!r} cannot be imported: {clause(error)}."
        raise mistake_at(alias, ("ADDRESS_MAP",), text) from error
    except BadHostSetup as error:
        raise mistake_at(alias, error.path, str(error)) from error


def _import_router(alias: str, config: Mapping[str, Any]) -> type[BaseRouter] | None:
    if get_topology(config) == REDIS_CLUSTER:
        return None
    router = config.get("ROUTER", DEFAULT_ROUTER)
    path = ("ROUTER",)
    if isinstance(router, str):
        try:
            router = import_path(router)
        except ImportError as error:
            raise mistake_at(
                alias,
                path,
                f"{config['ROUTER']!r} cannot be imported: {clause(error)}. The default is "
                f"{DEFAULT_ROUTER!r}.",
            ) from error
    if not (isinstance(router, type) and issubclass(router, BaseRouter)):
        raise mistake_at(
            alias,
            path,
            f"{config['ROUTER']!r} is not a class that inherits from "
            f"django_rb.engine.BaseRouter. The default is {DEFAULT_ROUTER!r}.",
        )
    return router
