"""The interface of a cluster that batches use."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from ..errors import Redirected
from ..nodes.node import Node
from ..protocol.encoding import Args, Key
from ..protocol.exchange import Exchange
from ..routing.routers import BaseRouter

Rounds = Generator[Sequence[Exchange], None, None]


class Layout(Protocol):
    """The shards as the settings, nodes or Sentinels describe them.

    Attributes:
        patience: seconds for which a call without a deadline waits for nodes that reply that
            they cannot answer yet.
    """

    patience: float

    def get_slot(self, key: Key) -> int | None:
        """Return the slot of a key; None if this is no Redis Cluster."""

    def get_owner(self, slot: int) -> int:
        """Return the id of the host that owns a slot, as far as is known."""

    def get_node(self, host_id: int) -> Node | None:
        """Return the node that has a host id now."""

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Process MOVED: a slot belongs to an address. It takes effect at once.

        Args:
            said_by: the host id of the node that replied so.
        """

    def find(self, address: str, said_by: int) -> int | None:
        """Return the host id of the address in an ASK reply; None if it is unusable."""

    def get_shard(self, host_id: int) -> int:
        """Return the id of the shard that a host is part of, itself or as a replica."""

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them."""

    def may_be_elsewhere(self, host_id: int) -> bool:
        """Return whether other nodes may have what a host does not return."""

    def note_redirected(self, host_id: int, said: Redirected, question: Args) -> None:
        """Process REDIRECT: a shard has another primary. It takes effect at once.

        Args:
            host_id: the shard that was asked.
            question: what a node answers with REDIRECT as long as it is a replica.
        """

    def want_look(self) -> None:
        """Ask for the layout again soon."""

    def look_if_due(self) -> Rounds:
        """Yield the rounds that ask for the layout, if it is time and no other caller does."""

    def may_wait(self) -> bool:
        """Return whether it still makes sense to wait for nodes that cannot answer yet."""


class Port(Protocol):
    """The part of a cluster that batches use.

    Attributes:
        alias: its name in errors; None if it has none.
    """

    alias: str | None

    @property
    def router(self) -> BaseRouter:
        """The current router."""

    @property
    def nodes(self) -> Mapping[int, Node]:
        """The current nodes that own keys, by host id."""

    @property
    def layout(self) -> Layout:
        """What is known of the shards."""

    def get_address(self, host_id: int) -> str:
        """Return the address of a node, for errors."""
