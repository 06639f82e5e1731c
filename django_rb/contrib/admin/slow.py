"""The servers' slow logs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...engine import Cluster
from ...engine.wording import shown_command
from ...management.base import NodeName, all_nodes, call_clusters
from ...management.keys import readable

MOST = 50  # entries per node


@dataclass(frozen=True)
class SlowEntry:
    """A command that took a long time.

    Attributes:
        seconds: how long the server executed it.
        command: shortened.
        client: its address, and its name if it has one.
    """

    node: NodeName
    address: str
    time: datetime
    seconds: float
    command: str
    client: str


def fetch_slow(
    chosen: Mapping[str, Cluster], timeout: float | None
) -> tuple[list[SlowEntry], dict[NodeName, Exception]]:
    """Ask all servers for their slow logs in parallel; a server of several clusters once.

    Returns:
        The entries, the latest first, and the errors of servers.
    """
    servers: dict[str, NodeName] = {}
    for node in all_nodes(chosen):
        servers.setdefault(address_of(chosen, node), node)
    replies, errors = call_clusters(
        chosen, servers.values(), "SLOWLOG", "GET", MOST, timeout=timeout
    )
    entries = [
        entry
        for node, reply in replies.items()
        for entry in read_slow(node, address_of(chosen, node), reply)
    ]
    return sorted(entries, key=lambda entry: entry.time, reverse=True), errors


def address_of(chosen: Mapping[str, Cluster], node: NodeName) -> str:
    """Return the address of a node's server."""
    alias, host_id = node
    return chosen[alias].get_address(host_id).rpartition("/")[0]


def read_slow(node: NodeName, address: str, reply: Any) -> list[SlowEntry]:
    """Return the entries of a reply.

    https://valkey.io/commands/slowlog-get/
    """
    entries = []
    for entry in reply if isinstance(reply, list) else ():
        with suppress(ValueError, TypeError, OverflowError):  # not in the documented form
            _, seconds, microseconds, command, *client = entry
            entries.append(
                SlowEntry(
                    node,
                    address,
                    datetime.fromtimestamp(seconds, UTC),
                    microseconds / 1e6,
                    shown_command(command),
                    " ".join(readable(part) for part in client if part),
                )
            )
    return entries
