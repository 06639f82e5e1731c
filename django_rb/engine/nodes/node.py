"""A node: its address, the options of its connections, and its health. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import redis

from ..errors import COMPLAINTS, NOT_READY, OUTDATED, Redirected, at_node
from ..near.tracking import Trackings
from ..protocol.encoding import Args
from .changes import HealthChanges
from .health import DEFAULT_HEALTH, Health, HealthOptions, check_health
from .hosts import HostInfo
from .options import conceal, introduce, merge

DEFAULT_SOCKET_TIMEOUT = 2.0
DEFAULT_SOCKET_CONNECT_TIMEOUT = 1.0


# Seconds for which a node that cannot run commands is skipped if another one can.
_UNREADY_SECONDS = 1.0


class PoolIsFull(redis.exceptions.MaxConnectionsError):
    """All connections that POOL_OPTIONS["max_connections"] allows are in use."""


class Node:
    """One node of a cluster.

    Args:
        info: its address and options.
        options: POOL_OPTIONS: `socket_timeout` and `socket_connect_timeout` in seconds,
            `max_connections`, and every option of redis-py's connections.
        health_options: when it counts as down.
        changes: collects the changes of its health.
        alias: the alias of its cluster, for errors and logs; None if it has none.
        greetings: commands that each connection sends before it is used.
        trackings: the cluster's connections on which nodes report changed keys; None if
            there are none.
        follows_redirects: each connection announces that the node may reply with the address
            of its successor once it is no longer a primary (REDIRECT). Servers that do not
            support this are not affected.

    Attributes:
        kwargs: the arguments for redis-py's connection classes, secrets included.
        max_connections: how many connections each of its pools may have; None for no limit.
        has_pushes: it speaks RESP3, and may send pushes, which are no replies.
        health: its circuit breaker.
        epoch: connections that were opened in an earlier epoch must not be used: they may
            be dead, or lead to a node that is no longer the right one.
    """

    def __init__(
        self,
        info: HostInfo,
        options: Mapping[str, Any] | None = None,
        health_options: HealthOptions | None = None,
        changes: HealthChanges | None = None,
        alias: str | None = None,
        greetings: Sequence[Args] = (),
        trackings: Trackings | None = None,
        follows_redirects: bool = False,
    ) -> None:
        self.trackings = trackings
        self.info = info
        self.alias = alias
        self._unready_until = 0.0
        self.host_id = info.host_id
        self.address = info.address
        kwargs = {
            "protocol": 2,
            "socket_timeout": DEFAULT_SOCKET_TIMEOUT,
            "socket_connect_timeout": DEFAULT_SOCKET_CONNECT_TIMEOUT,
            **(options or {}),
        }
        if not info.ssl:
            kwargs = {name: v for name, v in kwargs.items() if not name.startswith("ssl_")}
        if info.unix_socket_path is not None:
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("socket_keepalive")}
        self.max_connections: int | None = kwargs.pop("max_connections", None)
        self.kwargs = conceal(introduce(merge(kwargs, info.connection_kwargs)))
        if greetings:
            self.kwargs["greetings"] = greetings
        self.follows_redirects = follows_redirects
        self.socket_timeout: float | None = self.kwargs["socket_timeout"]
        self.socket_connect_timeout: float | None = self.kwargs["socket_connect_timeout"]
        self.has_pushes = str(self.kwargs["protocol"]) == "3"
        self.epoch = 0
        self.health = Health(
            info.host_id,
            info.address,
            health_options or check_health(DEFAULT_HEALTH),
            self.open_timeout,
            changes or HealthChanges(),
            alias,
        )

    def rename(self, host_id: int) -> None:
        """Change the host id, as the node now has another role in its cluster."""
        self.info = replace(self.info, host_id=host_id)
        self.host_id = host_id
        self.health.rename(host_id)

    def __repr__(self) -> str:
        return f"<Node {self.host_id}: {self.address}>"

    @property
    def is_unready(self) -> bool:
        """Whether the node has just replied that it cannot run commands now."""
        return monotonic() < self._unready_until

    @property
    def open_timeout(self) -> float | None:
        """How long opening a connection may take, in seconds; None without limit."""
        if self.socket_timeout is None or self.socket_connect_timeout is None:
            return None
        return self.socket_timeout + self.socket_connect_timeout

    def answered(self, errors: list[Exception]) -> None:
        """Update the health after a reply; `errors`, its error replies, is cleared."""
        said = errors.copy()
        errors.clear()
        is_ready = True
        for error in said:
            error.said_by = self.address  # type: ignore[attr-defined]
            # The code that follows a redirect reports its outcome.
            if isinstance(error, COMPLAINTS) and not isinstance(error, Redirected):
                self.health.complained(error)
                if isinstance(error, NOT_READY):
                    is_ready = False
                    self._unready_until = monotonic() + _UNREADY_SECONDS
                if isinstance(error, OUTDATED):
                    # A new connection may lead to another node after a failover, or log in.
                    self.epoch += 1
        self.health.answered(is_ready=is_ready)

    def failed(self, error: Exception) -> None:
        """Count a connection that failed."""
        self.health.failed(error)
        if self.health.is_down:  # idle connections may be dead as well, without a sign of it
            self.epoch += 1

    def name_in(self, error: redis.RedisError) -> None:
        """Add this node to the text of an error of redis-py."""
        error.args = (self.named(error),)

    def named(self, text: object) -> str:
        """Return an error's text with this node appended."""
        return at_node(text, self.host_id, self.address, self.alias)

    def too_many_connections(self) -> PoolIsFull:
        """Return the error for a pool that has reached `max_connections`."""
        text = (
            f"All {self.max_connections} connections are in use; increase "
            "POOL_OPTIONS['max_connections']"
        )
        return PoolIsFull(self.named(text))
