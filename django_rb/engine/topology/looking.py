"""Asking nodes or Sentinels about the shards: by one caller at a time, as part of its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar, cast

import redis

from ..protocol.exchange import Batch
from ..protocol.interludes import Pause
from ..rounds.port import Rounds
from .look_times import LookTimes

T = TypeVar("T")

_WAIT_SECONDS = 0.005  # between two looks at whether another caller has learned something


class Looking(ABC):
    """A topology that is learned from nodes or Sentinels.

    Args:
        times: when it is asked for.

    Attributes:
        is_known: something was learned.
        is_quiet: there are currently no nodes to ask.
    """

    is_quiet = False

    def __init__(self, times: LookTimes) -> None:
        self.is_known = False
        self._times = times
        self._failed_looks = 0
        self._failure: Exception | None = None  # why nothing is known

    @abstractmethod
    def _look(self) -> Batch[bool]:
        """Ask, and apply the answers.

        Returns whether the call's time was over before there were any.
        """

    def want_look(self) -> None:
        """Request a look soon."""
        self._times.want()

    @property
    def is_look_due(self) -> bool:
        """Whether it is time for a look; the next caller takes it."""
        return self._times.is_due

    def may_wait(self) -> bool:
        """Return whether it still makes sense to wait for nodes that cannot answer yet."""
        return self._times.may_wait()

    def look_if_due(self) -> Rounds:
        """Yield the rounds of a look, if it is time and no other caller looks."""
        if self._times.is_due and self._times.begin():
            try:
                yield from self._look()
            finally:
                self._times.end()

    def looking(self, batch: Batch[T]) -> Batch[T]:
        """Return a batch that looks first."""
        looked = self._looking_first(batch)
        name: str = cast(Any, batch).__name__
        cast(Any, looked).__name__ = name  # for observers
        return looked

    def _looking_first(self, batch: Batch[T]) -> Batch[T]:
        try:
            yield from self.learn()
            return (yield from batch)
        finally:
            batch.close()

    def learn(self) -> Batch[Exception | None]:
        """Look if it is time; return the error if nothing is known, else None."""
        failed_before = self._failed_looks
        while not self.is_known:
            failure = self._failure
            if failure is not None and (
                self._failed_looks != failed_before or self._times.is_too_early
            ):
                return failure
            is_over = False
            if self._times.begin():
                try:
                    if not self.is_known:
                        is_over = yield from self._look()
                finally:
                    self._times.end()
            else:  # another caller looks
                pause = Pause(_WAIT_SECONDS)
                yield pause
                is_over = pause.is_over
            if is_over and not self.is_known:
                return redis.TimeoutError("Deadline exceeded")
        yield from self.look_if_due()
        return None
