"""The layout, for second looks, of shards without slots, whose keys the router places."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from time import monotonic

from ..nodes.node import Node
from ..protocol.encoding import Key
from ..protocol.exchange import Batch
from ..rounds.port import Rounds
from .look_times import LookTimes
from .looking import Looking
from .replicas import Replicas
from .static import StaticTopology


class Unslotted(Looking):
    """See `rounds.port.Layout`.

    Args:
        times: when it is looked at.
        replicas: the replicas of the shards.

    Attributes:
        version: another number whenever a shard has another primary.
    """

    version = 0

    def __init__(self, times: LookTimes, replicas: Replicas) -> None:
        super().__init__(times)
        self.replicas = replicas
        self.patience = 0.0

    @abstractmethod
    def _get_primaries(self) -> Mapping[int, Node]:
        """Return the primaries, by host id."""

    def get_slot(self, key: Key) -> None:
        """Return None: there are no slots."""

    def get_owner(self, slot: int) -> int:
        """Raise LookupError: there are no slots."""
        raise LookupError(slot)

    def get_node(self, host_id: int) -> Node | None:
        """Return the node that has a host id now."""
        return self._get_primaries().get(host_id) or self.replicas.by_id.get(host_id)

    def get_shard(self, host_id: int) -> int:
        """Return the id of the shard that a host is part of."""
        return self.replicas.get_shard(host_id)

    def get_readers(self, shard: int) -> Sequence[int]:
        """Return the ids of the hosts that may be read from, in the order to try them."""
        return self.replicas.get_readers(shard)

    def note_moved(self, slot: int, address: str, said_by: int) -> None:
        """Do nothing: such nodes do not reply MOVED."""

    def find(self, address: str, said_by: int) -> None:
        """Return None: such nodes do not reply ASK."""

    @property
    def is_look_due(self) -> bool:
        """Whether it is time for a look; the next caller takes it."""
        # Each call asks.
        return monotonic() >= self._times.look_at or (
            self.replicas.measures_lag and self.replicas.is_look_due
        )

    def look_if_due(self) -> Rounds:
        """Yield the rounds of a look, if it is time and no other caller looks."""
        yield from super().look_if_due()
        yield from self.replicas.look_if_due(self._get_primaries())


class StaticLayout(Unslotted):
    """Shards whose replicas the settings name.

    Args:
        topology: the shards.
    """

    def __init__(self, topology: StaticTopology) -> None:
        super().__init__(LookTimes(), topology.replicas)
        self._topology = topology
        self.is_known = True

    def _get_primaries(self) -> Mapping[int, Node]:
        return self._topology.nodes

    def want_look(self) -> None:
        """Do nothing: the settings say everything."""

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to measure the replicas' lag."""
        return self.replicas.is_look_due

    def _look(self) -> Batch[bool]:
        yield from ()
        return False
