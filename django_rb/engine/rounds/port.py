"""What batches need of a cluster."""

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
    """What is known of the shards, and what nodes or Sentinels say of them.

    Attributes:
        patience: seconds for which one call waits for nodes that say that they cannot answer
            yet, if it has no deadline.
    """

    patience: float

    def get_slot(self, key: Key) -> int | None:
        """Return the slot of a key; None where nodes do not place keys themselves."""

    def get_owner(self, slot: int) -> int:
        """Return the id of the host that owns a slot, as far as is known."""

    def get_node(self, host_id: int) -> Node | None:
        """Return the node that has a host id now."""

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Take note of MOVED: a slot belongs to an address. It counts at once.

        Args:
            said_by: the host id of who says so.
        """

    def find(self, address: str, said_by: int) -> int | None:
        """Return the host id of an address that ASK names; None if it is not to be told."""

    def get_shard(self, host_id: int) -> int:
        """Return the id of the shard that a host is part of, itself or as a replica."""

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them."""

    def may_be_elsewhere(self, host_id: int) -> bool:
        """Return whether others may have what a host does not give."""

    def note_redirected(self, host_id: int, said: Redirected, question: Args) -> None:
        """Take note of REDIRECT: the primary of a shard is elsewhere. It counts at once.

        Args:
            host_id: the shard that was asked.
            question: what a node answers with REDIRECT as long as it is a replica.
        """

    def want_look(self) -> None:
        """Have the layout looked at soon."""

    def look_if_due(self) -> Rounds:
        """Yield the rounds that ask for the layout, if it is time and nobody else does."""

    def may_wait(self) -> bool:
        """Return whether waiting for nodes that cannot answer yet has been of any use."""


class Port(Protocol):
    """A cluster, as far as batches know it.

    Attributes:
        alias: what errors call it; None where it has no name.
    """

    alias: str | None

    @property
    def router(self) -> BaseRouter:
        """Who owns a key, as of now."""

    @property
    def nodes(self) -> Mapping[int, Node]:
        """The nodes that own keys, by host id, as of now."""

    @property
    def layout(self) -> Layout:
        """What is known of the shards."""

    def get_address(self, host_id: int) -> str:
        """Return where a node is, for errors."""
