"""Exchanges that somebody awaits on an event loop, alone or joined to go out together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from ..protocol.answers import is_anything
from ..protocol.exchange import Exchange


class Carrier(Protocol):
    """A connection that works for a job."""

    is_heard: bool
    since: float

    def abandon(self) -> None:
        """Close the connection if nobody awaits any more what it works for."""


class Owner(Protocol):
    """Who awaits a job."""

    def ended(self) -> None:
        """The exchange has its replies or its error."""

    def crash(self, error: BaseException) -> None:
        """Something was raised that is no node's failure."""


class Job:
    """An exchange that somebody awaits.

    Args:
        exchange: what is to be sent and read.
        owner: who awaits it.
        began: when, as loop.time().
        limit: when the node must have said something, as loop.time().

    Attributes:
        limit: when the node must have said something, as loop.time().
        connection: the one that works for it.
        is_over: nobody awaits it any more.
        is_late: others' work kept it waiting, which is not the node's fault.
        is_forgiven: its limit was put off, as the loop had not listened.
        is_probe: it is to find out whether the node is back.
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
        """Those that have not ended: itself."""
        return (self,)

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be sent."""
        return self.connection is None and not self.is_over

    @property
    def is_given_up(self) -> bool:
        """Whether it has ended before it was sent."""
        return self.connection is None and self.is_over

    def unanswered(self) -> Sequence[Job]:
        """Return the jobs that have no reply, as their connection has failed."""
        return (self,)

    def sit_on(self, connection: Carrier) -> None:
        """Know the connection that works for it."""
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
        """End, as nobody awaits it any more. A connection that works for it alone is closed."""
        self.is_over = True
        if self.connection is not None:
            self.connection.abandon()


class Joined:
    """Jobs of one command each that go out together and are answered in their order."""

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
        """Those that have not ended."""
        return [job for job in self._jobs if not job.is_over]

    @property
    def limit(self) -> float:
        """When the node must have said something to the first of them."""
        return min((job.limit for job in self._jobs if not job.is_over), default=0.0)

    def sit_on(self, connection: Carrier) -> None:
        """Let each know the connection that works for it."""
        for job in self._jobs:
            job.connection = connection
            job.exchange.untouched = False

    @property
    def is_over(self) -> bool:
        """Whether nobody awaits any of them any more."""
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
