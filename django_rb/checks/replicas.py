"""Checks of replicas in the settings: `manage.py check --tag rb_connect`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from ..engine import Cluster
from ..engine.nodes.node import Node
from ..engine.protocol.exchange import Batch
from ..engine.topology.sentinel_questions import ask, run
from ..engine.topology.static import StaticTopology
from .readings import fields
from .site import in_cluster


def check_replicas(
    alias: str, cluster: Cluster, infos: Mapping[int, bytes], timeout: float
) -> list[CheckMessage]:
    """Ask the replicas that are read from whether they have the data of their hosts.

    Args:
        infos: the replies of hosts to INFO.
    """
    if not isinstance(cluster.layout, StaticTopology):
        return []  # other topologies get the replicas from servers
    nodes = cluster.layout.replicas.by_id
    messages: list[CheckMessage] = []
    for host_id, reply in cluster.run(_ask(nodes.values()), timeout).items():
        shard = cluster.layout.get_shard(host_id)
        host = fields(infos.get(shard))
        if why := _why_not(reply, host):
            message = checks.Warning(
                f"{in_cluster(alias, 'HOSTS', shard)}['replicas']: "
                f"{nodes[host_id].address} {why}",
                hint="List only its own replicas for each host, or make this node one: "
                "REPLICAOF with the host and port of the host.",
                id="django_rb.W212",
            )
            messages.append(message)
    return messages


def _ask(nodes: Iterable[Node]) -> Batch[dict[int, Any]]:
    """Return the replies of nodes to INFO, or their errors, by host id."""
    asked = [ask(node, [(b"INFO",)]) for node in nodes]
    yield from run(asked)
    return {each.host_id: each.error or each.replies[0] for each in asked}


def _why_not(reply: Any, host: Mapping[str, str]) -> str:
    """Return why a replica should not be read from; "" if it should.

    All members of a replication have its id: primaries, replicas, and their replicas.
    """
    if isinstance(reply, Exception):
        return f"cannot be read from: {reply}"
    said = fields(reply)
    if not host or not said or said.get("master_replid") == host.get("master_replid"):
        return ""
    primary = f"{said.get('master_host')}:{said.get('master_port')}"
    if said.get("role") != "slave":
        return "is a primary, not a replica of its host. Reads get its own values."
    if said.get("master_link_status") == "up":
        return (
            f"is a replica of {primary}, not of its host. Reads get the values of that primary."
        )
    return f"has never received the data of its host: its link to {primary} is down."
