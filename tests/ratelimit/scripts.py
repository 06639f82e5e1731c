"""The scripts that ship, at times that a test chooses."""

from __future__ import annotations

from collections.abc import Iterable
from time import time
from typing import Any

from django_rb.engine import Cluster
from django_rb.engine.protocol.encoding import encode_words
from django_rb.engine.rounds.scripts import run_scripts
from django_rb.ratelimit import Limit
from django_rb.ratelimit.algorithms import ALGORITHMS, ARGUMENTS, make_script, read_answer

# In place of the part that asks the server. All else is the very text that ships.
CHOSEN = "local now = tonumber(ARGV[3])\n"

SCRIPTS = {name: make_script(name, CHOSEN, ARGUMENTS + 1) for name in ALGORITHMS}

# Microseconds: far enough in the future that nothing expires by the server's own clock, and
# no edge of any period.
START = int(time() + 10**8) * 10**6 + 123_456

Step = tuple[int, str, int]


class Driver:
    """One limit whose script is run at chosen times.

    Args:
        limit: the limit; its cost is chosen with each step.
    """

    def __init__(self, cluster: Cluster, limit: Limit) -> None:
        self.cluster = cluster
        self.limit = limit
        self.key = limit.rule.make_key("test", limit.key)

    def run(self, steps: Iterable[Step], *charge: int) -> list[Any]:
        """Run ``(microseconds, action, cost)`` one after the other, in one pipeline.

        Returns ``[allowed, used, reset, retry, …]`` for each.
        """
        rule, script = self.limit.rule, SCRIPTS[self.limit.algorithm]
        calls = [
            (
                self.key,
                script,
                rule.encode(action.encode(), cost, charge or (0, 0)) + encode_words((now,)),
            )
            for now, action, cost in steps
        ]
        replies = self.cluster.run(run_scripts(self.cluster, calls))
        assert not [reply for reply in replies if isinstance(reply, Exception)], replies[0]
        return [[int(number) for number in read_answer(reply)] for reply in replies]

    def ask(self, now: int, action: str = "hit", cost: int = 1, *charge: int) -> list[int]:
        """Run one step."""
        (reply,) = self.run([(now, action, cost)], *charge)
        answer: list[int] = reply
        return answer

    def allows(self, now: int, cost: int = 1) -> bool:
        """Return whether a hit would be allowed."""
        return self.ask(now, "peek", cost)[0] == 1

    def admit(self, now: int, count: int) -> int:
        """Return how many of so many hits are allowed."""
        return sum(answer[0] for answer in self.run([(now, "hit", 1)] * count))
