"""Servers that are members of one Redis Cluster when they start."""

import os
from collections.abc import Sequence

from .servers import ACCEPTS, CLUSTER_CONFIG, Server

SLOTS = 16384

# The text in a server's log when it is ready as a member.
IN_CLUSTER = b"Cluster state changed: ok"
HAS_COPY = b"sync: Finished with success"

# Options of the members of a Redis Cluster. Replicas sync at once, and stay with their
# primaries.
CLUSTER_OPTIONS = [
    ["cluster-enabled", "yes"],
    ["cluster-config-file", CLUSTER_CONFIG],
    ["cluster-node-timeout", "5000"],
    ["cluster-allow-replica-migration", "no"],
    ["repl-diskless-sync-delay", "0"],
]


def introduce(servers: Sequence[Server], primaries: int, *, has_shard_ids: bool) -> None:
    """Write the configuration with which servers know each other and their roles at the start.

    The first `primaries` share the slots evenly, the others are replicas of them in turn. So
    neither CLUSTER MEET nor CLUSTER ADDSLOTS is needed.
    """
    ids = [os.urandom(20).hex() for _ in servers]
    shard_ids = [os.urandom(20).hex() for _ in range(primaries)]
    for me, server in enumerate(servers):
        lines = []
        for number, other in enumerate(servers):
            shard = number % primaries
            words = [ids[number], other.cluster_address]
            if has_shard_ids:
                words[1] += f",,shard-id={shard_ids[shard]}"
            flags = ["myself"] if number == me else []
            is_primary = number < primaries
            words.append(",".join([*flags, "master" if is_primary else "slave"]))
            words += ["-" if is_primary else ids[shard], "0", "0", str(shard + 1), "connected"]
            if is_primary:
                first, end = shard * SLOTS // primaries, (shard + 1) * SLOTS // primaries
                words.append(f"{first}-{end - 1}")
            lines.append(" ".join(words))
        lines.append(f"vars currentEpoch {primaries} lastVoteEpoch 0\n")
        server.cluster_config = "\n".join(lines)
        server.awaited = [ACCEPTS, IN_CLUSTER]
        if me >= primaries:
            server.awaited.append(HAS_COPY)


def knows_shard_ids(name: str, version: str) -> bool:
    """Return whether a server's list of nodes contains shard ids, as in Redis since 7.2."""
    major, minor = (int(part) for part in [*version.split("."), "0"][:2])
    return name == "valkey" or (major, minor) >= (7, 2)
