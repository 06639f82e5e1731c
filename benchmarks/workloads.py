"""What is measured: one call, and everything that its cost may depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Keys that calls with one key use in turn, so that all nodes are asked.
KEYS_IN_TURN = 64
MAP = "map "


@dataclass(frozen=True)
class Workload:
    """One call under given circumstances.

    Attributes:
        operation: a method of Django's cache API ("get", "set_many"), "map " and a command
            for a `map()` of so many commands, "miss" and "miss_many" for reads without near
            copies, or what contestants/limits.py can do.
        keys: of one call.
        threads: that make calls at the same time.
        tasks: 0 for blocking calls. Otherwise the tasks of an event loop that make one call
            each at the same time; together they count as one call.
        computing: how many threads compute meanwhile; each call is then timed by itself.
            None: many calls are timed together, wall and CPU time.
        rtt: round-trip time to each node in ms, by a proxy; 0 without one.
        cold: whether it is the first call of a process that is timed.
        moving: whether slots move from node to node meanwhile.
    """

    operation: str
    keys: int = 1
    nodes: int = 8
    threads: int = 1
    tasks: int = 0
    computing: int | None = None
    rtt: float = 0
    cold: bool = False
    moving: bool = False

    @property
    def is_single(self) -> bool:
        """Whether a call has one key."""
        return not self.operation.endswith("_many") and not self.operation.startswith(MAP)

    @property
    def on_one_core(self) -> bool:
        """Whether client and servers share one core, for this to be measured.

        Such a call is a question and a short wait. Whether its server is woken on the core
        that asks or on an idle one makes a factor of five, and would be measured instead.
        """
        return (
            self.is_single
            and self.tasks <= 1
            and self.threads == 1
            and self.computing is None
            and not self.rtt
        )

    @property
    def call(self) -> str:
        """What is called: "get_many of 1,000"."""
        if self.operation.startswith(MAP):
            return f"map() of {self.keys:,} {self.operation.removeprefix(MAP)}"
        name = f"a{self.operation}" if self.tasks else self.operation
        return name if self.is_single else f"{name} of {self.keys:,}"

    @property
    def title(self) -> str:
        """What is measured, in a few words: "get_many of 100, 3 computing threads"."""
        words = [f"{self.tasks:,} {self.call}s" if self.tasks > 1 else self.call]
        if self.threads > 1:
            words.append(f"{self.threads} threads")
        if self.computing is not None:
            words.append(f"{self.computing} computing thread{'s'[: self.computing != 1]}")
        if self.rtt:
            words.append(f"{self.rtt:g} ms round trip")
        if self.cold:
            words.append(f"first call, {self.nodes} nodes")
        if self.moving:
            words.append("while slots move")
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def data(self) -> dict[str, Any]:
        """Return what is stored: small dictionaries, 60 bytes each once pickled."""
        stored = max(self.keys, self.tasks, KEYS_IN_TURN) if self.is_single else self.keys
        return {
            f"page:{number}:fragment": {"id": number, "name": "something", "price": 3.5}
            for number in range(stored)
        }
