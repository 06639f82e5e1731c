"""Jobs of one node that wait for a connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from itertools import chain
from typing import cast

from ..protocol.encoding import PIECE_SIZE
from .jobs import Job, Joined

# At most this many waiting commands are sent together, or fewer with so many bytes.
_JOINED = 512
_JOINED_SIZE = PIECE_SIZE


class Queues:
    """The jobs that may be joined with each other, and the others."""

    def __init__(self) -> None:
        self._to_join: deque[Job] = deque()
        self._others: deque[Job] = deque()

    def __iter__(self) -> Iterator[Job]:
        return chain(self._others, self._to_join)

    def add(self, job: Job) -> None:
        """Append a job to the queue of its kind."""
        (self._to_join if job.exchange.may_join else self._others).append(job)

    def first_to_join(self) -> Job | None:
        """Return the first job that may be joined, None if there is none."""
        return _first_of(self._to_join)

    def first_other(self) -> Job | None:
        """Return the first of the other jobs, None if there is none."""
        return _first_of(self._others)

    def first_but(self, jobs: Collection[Job]) -> Job | None:
        """Return the first waiting job that is not among some jobs."""
        return next((job for job in self if job.is_waiting and job not in jobs), None)

    def sizes(self) -> tuple[int, int]:
        """Return how many jobs cannot be joined, and how many can."""
        others = len(self._others) if self.first_other() is not None else 0
        return others, len(self._to_join) if self.first_to_join() is not None else 0

    def take_other(self) -> Job:
        """Remove and return the first job that cannot be joined."""
        return self._others.popleft()

    def take_joined(self) -> Job | Joined:
        """Remove and return the next jobs to send together."""
        taken: list[Job] = []
        size = 0
        while (
            len(taken) < _JOINED
            and size < _JOINED_SIZE
            and (job := self.first_to_join()) is not None
        ):
            taken.append(self._to_join.popleft())
            size += len(cast(bytes, job.exchange.out))
        return taken[0] if len(taken) == 1 else Joined(taken)

    def take_all(self) -> list[Job]:
        """Remove and return all jobs that are still awaited."""
        jobs = [job for job in self if not job.is_over]
        self._others.clear()
        self._to_join.clear()
        return jobs


def _first_of(queue: deque[Job]) -> Job | None:
    """Return the next job in a queue, and drop those that are no longer awaited."""
    while queue:
        if not queue[0].is_over:
            return queue[0]
        queue.popleft()
    return None
