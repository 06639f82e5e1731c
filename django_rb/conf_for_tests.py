"""TEST in settings.RB_CLUSTERS: servers that tests may empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .configured import (
    SETTING,
    get_topology,
    mistake_at,
    read_clusters,
    read_nodes,
    read_setting,
    with_nodes,
)
from .engine import BadHostSetup
from .engine.nodes.hosts import parse_hosts, with_database
from .engine.topology.settings import REDIS_CLUSTER, STATIC
from .engine.wording import did_you_mean, masked, number_of

TEST_KEYS = ("NODES", "HOSTS", "DB")


def find_test_mistakes(alias: str, config: Mapping[str, Any]) -> Iterator[ImproperlyConfigured]:
    """Yield the mistakes in TEST of a cluster's settings."""
    test = config.get("TEST")
    if test is None:
        return
    if not isinstance(test, Mapping):
        text = f"{masked(test)} is not a dictionary such as {{'NODES': 2}}."
        yield mistake_at(alias, ("TEST",), text)
        return
    mistakes: list[tuple[tuple[object, ...], str]] = [
        (("TEST", key), f"Unknown key {masked(key)}. {did_you_mean(key, TEST_KEYS)}")
        for key in test
        if key not in TEST_KEYS
    ]
    if "NODES" in test and len(test.keys() & TEST_KEYS) > 1:
        text = (
            "It cannot be combined with 'HOSTS' or 'DB': it starts local nodes, while they "
            "declare servers."
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
        yield mistake_at(alias, path, text)


def _find_shared_databases(alias: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield why databases in TEST must not be flushed: they are not only used by tests."""
    try:
        declared = get_test_config(config)
    except BadHostSetup:  # in HOSTS: find_mistakes() reports it
        return
    # Tests may not use the site's own nodes even if those of `rb_nodes` replace them.
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
                f"{place} is {owners[place]}, and tests flush it. Use a database or servers "
                "that only tests use."
            )
        elif place in tested:
            yield (
                f"{place} is also declared by settings.{SETTING}[{tested[place]!r}]['TEST'], "
                "and each cluster is flushed separately. Use another database or server."
            )
        elif place in nodes:
            yield (
                f"Nodes {nodes[place]} and {host_id} are both {place}. Use a separate "
                "database or server for each."
            )
        nodes[place] = host_id


def _find_databases_tested_before(alias: str) -> dict[str, str]:
    """Return the databases in TEST of the clusters before this one, and their clusters.

    Without the nodes of `rb_nodes`, which all clusters share.
    """
    clusters = read_setting()
    before = takewhile(lambda other: other != alias, clusters)
    return {place: other for other in before for place in _tested_places(clusters[other])}


def _tested_places(config: object) -> Iterator[str]:
    """Yield the databases in TEST of a cluster's settings, if these are valid."""
    test = config.get("TEST") if isinstance(config, Mapping) else None
    if isinstance(config, Mapping) and isinstance(test, Mapping):
        with suppress(BadHostSetup, TypeError):
            declared = get_test_config({"HOSTS": [], **config})
            yield from (place for place, _ in _places(declared))


def _places(config: object) -> Iterator[tuple[str, int]]:
    """Yield a name of each node's database, and the node's host id."""
    if isinstance(config, Mapping):
        with suppress(BadHostSetup):
            for host_id, info in read_nodes(config).items():
                host = info.host.lower()
                host = "127.0.0.1" if host in {"localhost", "::1"} else host
                yield replace(info, host=host).address, host_id


def get_site_configs() -> list[tuple[str, Any]]:
    """Return the settings of the clusters that are not for tests, including invalid ones.

    Both with the nodes of `rb_nodes`, and with those that they replace.
    """
    return [*read_setting().items(), *read_clusters().items()]


def get_test_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a cluster's settings with the servers in TEST, None for local nodes."""
    test = config.get("TEST") or {}
    if "HOSTS" in test:
        # For tests, independent servers can replace shards that Sentinels monitor.
        topology = REDIS_CLUSTER if get_topology(config) == REDIS_CLUSTER else STATIC
        config = with_nodes(config, test["HOSTS"], topology)
    elif "DB" not in test:
        return None
    if "DB" in test:
        config = {**config, "HOSTS": with_database(config["HOSTS"], test["DB"])}
    return config
