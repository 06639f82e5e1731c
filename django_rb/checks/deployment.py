"""The checks of `manage.py check --deploy`: settings that only suit development."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from ..cache.serializers import PickleSerializer, get_serializer
from ..engine import Cluster
from ..engine.nodes.hosts import HostInfo
from .site import health_of, in_cluster, nodes_listed, sound_caches, sound_clusters

Options = Mapping[str, Any]

CREDENTIALS = ("password", "credential_provider", "ssl_certfile")
NO_CERTIFICATE = (None, False, "none", ssl.CERT_NONE)


def check_deployment() -> list[CheckMessage]:
    """Report insecure access to nodes, and calls that wait for dead ones."""
    messages = _pickles_that_others_may_write()
    for alias, cluster in sound_clusters().items():
        messages += _nodes_in_public(alias, cluster)
        messages += _certificates_that_nobody_checks(alias, cluster)
        messages += _dead_nodes_that_all_wait_for(alias)
    return messages


def _pickles_that_others_may_write() -> list[CheckMessage]:
    clusters = sound_clusters()
    open_nodes = {
        alias: [i for i, info in cluster.hosts.items() if _is_open(info, _options(cluster, i))]
        for alias, cluster in clusters.items()
    }
    return [
        checks.Warning(
            f"{cache.where}: values are stored as pickles, with neither a password nor TLS on "
            f"{nodes_listed(host_ids)} of the cluster {cache.cluster!r}. Anyone who can write "
            "there can run code in this site.",
            hint=f"Set a password ({in_cluster(cache.cluster, 'HOST_DEFAULTS')} = "
            "{'password': …}) here and on the servers, sign the values "
            "(OPTIONS['SIGNING_KEY']), or use OPTIONS['SERIALIZER'] = 'json'.",
            id="django_rb.W101",
        )
        for cache in sound_caches()
        if (host_ids := open_nodes[cache.cluster])
        and _unpickles(cache.options)
        and not cache.options.get("SIGNING_KEY")
    ]


def _nodes_in_public(alias: str, cluster: Cluster) -> list[CheckMessage]:
    host_ids = [i for i, info in cluster.hosts.items() if not info.ssl and _is_public(info)]
    if not host_ids:
        return []
    return [
        checks.Warning(
            f"{in_cluster(alias, 'HOSTS')}: a public address without TLS for "
            f"{nodes_listed(host_ids)}. Everything that is sent, including passwords, can be "
            "read and changed on the way.",
            hint="Use a rediss:// URL or 'ssl': True, or a private address.",
            id="django_rb.W102",
        )
    ]


def _certificates_that_nobody_checks(alias: str, cluster: Cluster) -> list[CheckMessage]:
    unchecked: dict[str, list[int]] = {}
    for host_id, info in cluster.hosts.items():
        if info.ssl and not _is_local(info):
            options = _options(cluster, host_id)
            if options.get("ssl_cert_reqs", "required") in NO_CERTIFICATE:
                unchecked.setdefault("ssl_cert_reqs", []).append(host_id)
            elif options.get("ssl_check_hostname") is False:
                unchecked.setdefault("ssl_check_hostname", []).append(host_id)
    return [
        checks.Warning(
            f"{in_cluster(alias)}: {name!r} is disabled for {nodes_listed(host_ids)}. TLS is "
            "used, but the identity of the server is not verified.",
            hint=f"Leave {name!r} out. For your own certificate authority, set 'ssl_ca_certs'.",
            id="django_rb.W103",
        )
        for name, host_ids in unchecked.items()
    ]


def _dead_nodes_that_all_wait_for(alias: str) -> list[CheckMessage]:
    if health_of(alias).failures is not None:
        return []
    return [
        checks.Warning(
            f"{in_cluster(alias, 'HEALTH')} is None: no node counts as down. If a node is "
            "down, every call that needs it waits for the timeouts, and soon all workers are "
            "waiting.",
            hint="Leave HEALTH out: a node that failed three times in a row is then skipped, "
            "and probed at intervals.",
            id="django_rb.W104",
        )
    ]


def _options(cluster: Cluster, host_id: int) -> Options:
    """Return the options of a node's connections, including POOL_OPTIONS."""
    options: Options = cluster.get_pool_for_host(host_id).connection_kwargs
    return options


def _is_open(info: HostInfo, options: Options) -> bool:
    """Whether a node is on another machine, and anyone who can connect may write to it."""
    if info.ssl or _is_local(info):
        return False
    return not any(options.get(name) for name in CREDENTIALS)


def _is_local(info: HostInfo) -> bool:
    if info.unix_socket_path is not None or info.host == "localhost":
        return True
    address = _ip_address(info)
    return address is not None and address.is_loopback


def _is_public(info: HostInfo) -> bool:
    address = _ip_address(info)
    return address is not None and address.is_global


def _ip_address(info: HostInfo) -> IPv4Address | IPv6Address | None:
    """Return the IP address of a node, None for a name, which would need a DNS query."""
    try:
        return None if info.unix_socket_path is not None else ip_address(info.host)
    except ValueError:
        return None


def _unpickles(options: Options) -> bool:
    return isinstance(get_serializer(options.get("SERIALIZER", "pickle")), PickleSerializer)
