"""Sentinels that monitor other servers, and know all of them when they start."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .members import HAS_COPY
from .servers import ACCEPTS, Server

SENTINELS, QUORUM = 3, 2
CONFIG = "sentinel.conf"

# The text in a Sentinel's log when it is ready.
WATCHES = b"+monitor"

# Options of servers with replicas, which sync at once.
REPLICATION_OPTIONS = [["repl-diskless-sync-delay", "0"]]


def name_of(shard: int) -> str:
    """Return the name of a shard for Sentinels."""
    return f"node-{shard}"


def replicate(servers: Sequence[Server], primaries: int) -> None:
    """Make the servers after the first `primaries` replicas of these in turn."""
    for number, server in enumerate(servers):
        server.may_move = False
        if number >= primaries:
            primary = servers[number % primaries].address
            server.config += b"replicaof %b %d\n" % (
                primary["host"].encode(),
                primary["port"],
            )
            server.awaited = [ACCEPTS, HAS_COPY]


class Sentinel(Server):
    """A Sentinel; it keeps its state when it restarts."""

    def __init__(self, name: str, program: str, directory: Path, *, port: int) -> None:
        super().__init__(name, program, b"", directory, unix_socket=False, port=port, kept=None)
        self.may_move = False
        self.awaited = [WATCHES]

    def spawn(self) -> None:
        """Start the Sentinel."""
        self.directory.mkdir(exist_ok=True)
        config = self.directory / CONFIG
        if not config.exists():
            config.touch(mode=0o600)
            config.write_bytes(self.config)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 (the program the user chose)
                [self.program, str(config), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self.before_exec,  # noqa: PLW1509 (one thread only)
            )
        self.paused = False


def watch(
    sentinels: Sequence[Sentinel],
    servers: Sequence[Server],
    primaries: int,
    *,
    password: str | None,
    milliseconds: int,
) -> None:
    """Write the configuration with which Sentinels know each other and the shards.

    Args:
        password: of the default user of all of them.
        milliseconds: after which a server that does not answer counts as down.
    """
    ids = [os.urandom(20).hex() for _ in sentinels]
    for me, sentinel in enumerate(sentinels):
        lines = [
            f"port {sentinel.address['port']}",
            "bind 127.0.0.1",
            f"dir {sentinel.directory}",
            f"sentinel myid {ids[me]}",
        ]
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        for shard in range(primaries):
            name = name_of(shard)
            lines.append(f"sentinel monitor {name} {_place_of(servers[shard])} {QUORUM}")
            if password:
                lines.append(f"sentinel auth-pass {name} {password}")
            lines += [
                f"sentinel down-after-milliseconds {name} {milliseconds}",
                f"sentinel failover-timeout {name} {max(3000, 4 * milliseconds)}",
            ]
            lines += [
                f"sentinel known-replica {name} {_place_of(replica)}"
                for replica in servers[shard + primaries :: primaries]
            ]
            lines += [
                f"sentinel known-sentinel {name} {_place_of(other)} {ids[number]}"
                for number, other in enumerate(sentinels)
                if number != me
            ]
        sentinel.config = "\n".join([*lines, ""]).encode()


def _place_of(server: Server) -> str:
    return f"{server.address['host']} {server.address['port']}"
