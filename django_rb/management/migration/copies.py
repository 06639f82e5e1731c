"""A key that is copied, and the totals of all keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

NEVER, GONE = -1, -2  # as in replies to PEXPIRETIME

MOST_PROBLEMS = 50  # that are counted separately
EXAMPLES = 5  # keys that are named for each problem

DIFFERENT = "they are in both clusters, with different values or expiry"


@dataclass(slots=True, eq=False)
class Copy:
    """A key that is copied.

    Attributes:
        source, owner: host ids of its old and its new node.
        size: of its value in the old node's memory, in bytes.
        dump: the reply to DUMP.
        expiry: Unix time in milliseconds on the old node's clock, or NEVER.
    """

    key: bytes
    source: int
    owner: int
    size: int = 0
    dump: bytes = b""
    expiry: int = NEVER


@dataclass
class Transfer:
    """The totals of the keys that are copied from one node to another.

    Attributes:
        keys, size: that were copied, or would be, and their bytes in the old node's memory.
        there: that existed on the new node, and were not changed.
        different: that both nodes have, with different values or expiry.
        deleted: that were deleted from the old node.
        failed: that were not copied, or not checked.
    """

    keys: int = 0
    size: int = 0
    there: int = 0
    different: int = 0
    deleted: int = 0
    failed: int = 0


@dataclass
class Problem:
    """A problem, the number of keys that have it, and some of these keys."""

    count: int = 0
    keys: list[bytes] = field(default_factory=list)


class Tally:
    """The totals of all keys. Its size does not depend on their number.

    Attributes:
        transfers: by the host ids of the old and the new node.
        problems: by their text.
        stayed: how many keys have the same node in both clusters.
        strays: how many were ignored on nodes that do not own them in the old cluster.
        taken_back: how many were deleted while they were copied, and so are on no node.
    """

    def __init__(self) -> None:
        self.transfers: dict[tuple[int, int], Transfer] = defaultdict(Transfer)
        self.problems: dict[str, Problem] = defaultdict(Problem)
        self.stayed = self.strays = self.taken_back = 0

    def of(self, copy: Copy) -> Transfer:
        """Return the transfer that a key belongs to."""
        return self.transfers[copy.source, copy.owner]

    def add(self, copies: Iterable[Copy]) -> None:
        """Count keys that were copied."""
        for copy in copies:
            transfer = self.of(copy)
            transfer.keys += 1
            transfer.size += copy.size

    def note(self, copy: Copy, problem: str) -> None:
        """Count a key that was not copied, with the reason."""
        self.of(copy).failed += 1
        self._note(copy, problem)

    def note_different(self, copy: Copy) -> None:
        """Count a key that is different on both sides."""
        self.of(copy).different += 1
        self._note(copy, DIFFERENT)

    def _note(self, copy: Copy, why: str) -> None:
        if why not in self.problems and len(self.problems) >= MOST_PROBLEMS:
            why = "other errors"
        problem = self.problems[why]
        problem.count += 1
        if len(problem.keys) < EXAMPLES:
            problem.keys.append(copy.key)
