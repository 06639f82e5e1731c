"""What is measured: one operation, and everything that its cost may depend on."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from typing import Any

MANY = ("get_many", "set_many", "delete_many")
SINGLE = ("get", "set", "incr")
OPERATIONS = (*MANY, *SINGLE)
LIMITED = ("check", "view")  # what contestants/limits.py can do: three limits,
LIMITED_NODES = 3  # each on a node of its own
# Names that calls with one key take in turn, so that no node is asked all the time.
NAMES_IN_TURN = 64
SMALL = 60  # bytes


@dataclass(frozen=True)
class Workload:
    """One operation of Django's cache API under given circumstances.

    Attributes:
        keys: of one call.
        size: of a value once pickled, in bytes.
        hits: whether the keys that are read exist.
        threads: that make calls at the same time, each as many.
        tasks: 0 for blocking calls. Otherwise those of an event loop that make one call
            each, all at once; together they count as one call.
        rtt: round-trip time to each node in ms, by a proxy; 0 without one.
    """

    operation: str = "get_many"
    keys: int = 1000
    nodes: int = 8
    size: int = SMALL
    hits: bool = True
    threads: int = 1
    tasks: int = 0
    rtt: float = 0

    def __post_init__(self) -> None:
        if self.operation not in (*OPERATIONS, *LIMITED):
            raise ValueError(
                f"There is no operation {self.operation!r}, only {', '.join(OPERATIONS)}."
            )

    @property
    def is_single(self) -> bool:
        """Whether a call has one key."""
        return self.operation not in MANY

    @property
    def stored(self) -> int:
        """How many keys are stored."""
        return max(self.keys, self.tasks, NAMES_IN_TURN) if self.is_single else self.keys

    @property
    def call(self) -> str:
        """What is called: "get_many of 1,000"."""
        name = f"a{self.operation}" if self.tasks else self.operation
        return name if self.is_single else f"{name} of {self.keys:,}"

    @property
    def title(self) -> str:
        """What is measured, on one line: "get_many of 1,000, 8 nodes, 60 B"."""
        words = [self.call, f"{self.nodes} node{'s'[: self.nodes > 1]}"]
        if self.operation != "incr":
            words.append(_bytes(self.size))
        if not self.hits:
            words.append("misses")
        if self.threads > 1:
            words.append(f"{self.threads} threads")
        if self.tasks:
            words.append(f"{self.tasks:,} task{'s'[: self.tasks > 1]}")
        if self.rtt:
            words.append(f"{self.rtt:g} ms round trip")
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def names(self) -> list[str]:
        """Return the keys that are stored, without a prefix."""
        return [f"page:{number}:fragment" for number in range(self.stored)]

    def misses(self) -> list[str]:
        """Return as many keys that are not stored."""
        return [f"none:{number}:fragment" for number in range(self.stored)]

    def data(self) -> dict[str, Any]:
        """Return what is stored: small dictionaries, larger texts, 0 where it is counted."""
        if self.operation == "incr":
            return dict.fromkeys(self.names(), 0)
        if self.size <= SMALL:
            return {
                name: {"id": number, "name": "something", "price": 3.5}
                for number, name in enumerate(self.names())
            }
        rest = "x" * (2 * self.size - len(pickle.dumps("x" * self.size, 5)) - 8)
        return {name: f"{number:08}{rest}" for number, name in enumerate(self.names())}


def _bytes(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size / 1024:g} KiB"
