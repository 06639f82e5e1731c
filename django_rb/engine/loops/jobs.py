"""Exchanges that are awaited on an event loop, sent alone or joined with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from ..protocol.answers import is_anything
from ..protocol.exchange import Exchange


class Carrier(Protocol):
    """The part of a connection that its jobs use."""

    is_heard: bool
    since: float

    def abandon(self) -> None:
        """Close the connection if its job is no longer awaited."""


class Owner(Protocol):
    """The round that awaits a job."""

    def ended(self) -> None:
        """The exchange has its replies or its error."""

    def crash(self, error: BaseException) -> None:
        """An exception was raised that is not a failure of a node."""


class Job:
    """An exchange that a round awaits.

    Args:
        exchange: the exchange.
        owner: the round that awaits it.
        began: when it began, as loop.time().
        limit: when the node must have begun to answer, as loop.time().

    Attributes:
        limit: when the node must have begun to answer, as loop.time().
        connection: the connection that it runs on.
        is_over: it is no longer awaited.
        is_late: it had to wait for other jobs, which is not the node's fault.
        is_forgiven: its limit was extended once, as the loop was blocked.
        is_probe: it probes a node that is down.
    """

    __slots__ = (
        "_owner", "began", "connection", "exchange", "is_forgiven", "is_late", "is_over",
        "is_probe", "limit",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, owner: Owner, began: float, limit: float) -> None:
        self.exchange = exchange
        self.began = began
        self.limit = limit
        self.connection: Carrier | None = None
        self.is_over = self.is_late = False
        self.is_forgiven = self.is_probe = False
        self._owner = owner

    @property
    def jobs(self) -> Sequence[Job]:
        """The jobs that have not ended: itself."""
        return (self,)

    @property
    def is_waiting(self) -> bool:
        """Whether it was not sent yet."""
        return self.connection is None and not self.is_over

    @property
    def is_given_up(self) -> bool:
        """Whether it has ended before it was sent."""
        return self.connection is None and self.is_over

    def unanswered(self) -> Sequence[Job]:
        """Return the jobs that have no reply, as their connection has failed."""
        return (self,)

    def sit_on(self, connection: Carrier) -> None:
        """Set the connection that it runs on."""
        self.connection = connection

    def done(self) -> None:
        """End with all replies."""
        try:
            if self.exchange.on_done is not None and not self.exchange.has_errors:
                self.exchange.on_done(self.exchange)
        except BaseException as error:  # it is raised where the job is awaited
            self.crash(error)
            if not isinstance(error, Exception):
                raise
        else:
            self.end()

    def end(self) -> None:
        """End: the exchange has its replies or its error."""
        self.is_over = True
        self._owner.ended()

    def crash(self, error: BaseException) -> None:
        """End with something that is no node's failure."""
        if not self.is_over:
            self.is_over = True
            self._owner.crash(error)

    def abandon(self) -> None:
        """End, as it is no longer awaited. If it has a connection to itself, that is closed."""
        self.is_over = True
        if self.connection is not None:
            self.connection.abandon()


class Joined:
    """Jobs of one command each that are sent together and answered in their order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.exchange = Exchange(
            jobs[0].exchange.host_id,
            b"".join(cast(bytes, job.exchange.out) for job in jobs),
            len(jobs),
        )
        self.exchange.may_join = True
        if any(job.exchange.answers for job in jobs):
            self.exchange.answers = [
                next(iter(job.exchange.answers), is_anything) for job in jobs
            ]

    @property
    def jobs(self) -> Sequence[Job]:
        """The jobs that have not ended."""
        return [job for job in self._jobs if not job.is_over]

    @property
    def limit(self) -> float:
        """When the node must have begun to answer, as loop.time()."""
        return min((job.limit for job in self._jobs if not job.is_over), default=0.0)

    def sit_on(self, connection: Carrier) -> None:
        """Set the connection that they run on."""
        for job in self._jobs:
            job.connection = connection
            job.exchange.untouched = False

    @property
    def is_over(self) -> bool:
        """Whether none of them is awaited any more."""
        return all(job.is_over for job in self._jobs)

    def done(self) -> None:
        """End each with its reply, if there is one."""
        try:
            for job, reply in zip(self._jobs, self.exchange.replies, strict=False):
                if not job.is_over:
                    job.exchange.take(reply)
                    job.done()
        except BaseException as error:  # of one of them, and no Exception
            self.crash(error)
            raise

    def unanswered(self) -> Sequence[Job]:
        """Return those that have no reply, as their connection has failed; end the others."""
        self.done()
        return self.jobs

    def crash(self, error: BaseException) -> None:
        """End with something that is no node's failure."""
        for job in self.jobs:
            job.crash(error)
