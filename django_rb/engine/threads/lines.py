"""The state of each exchange in a round."""

from __future__ import annotations

from ..polling import POLLIN
from ..protocol.exchange import Exchange
from .connections import Connection
from .pool import Pool

FOREVER = float("inf")


class Line:
    """An exchange and its connection, from its start to its end."""

    __slots__ = (
        "allowance", "connection", "events", "exchange", "expires", "is_reused", "patience",
        "pool", "since",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, connection: Connection, pool: Pool, is_reused: bool
    ) -> None:
        self.exchange = exchange
        self.connection = connection
        self.pool = pool
        self.is_reused = is_reused
        timeout = pool.node.socket_timeout
        self.patience = FOREVER if timeout is None else timeout
        self.allowance = self.patience  # seconds for the first answer
        self.expires = FOREVER
        self.since = 0.0  # when poll() began to wait for it, or when bytes were last sent
        self.events = POLLIN  # the events that poll() watches
