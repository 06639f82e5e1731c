"""Limits without a request: for tasks, for services, and for the decorator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .algorithms import SLIDING_WINDOW
from .rates import Rate


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and what a request would be charged.

    Limit("login:10.0.0.1", Rate(5, 60))

    Attributes:
        key: what is limited.
        rate: how many requests in which period.
        cost: what is charged, 0 or more.
        algorithm: "sliding-window", "fixed-window" or "token-bucket".
        burst: how many requests a full bucket has room for; None for the rate's count.
            For "token-bucket" alone.
    """

    key: str | bytes
    rate: Rate
    cost: int = 1
    algorithm: str = SLIDING_WINDOW
    burst: int | None = None

    @property
    def capacity(self) -> int:
        """How many requests there is room for at once."""
        return self.rate.count if self.burst is None else self.burst


@dataclass(frozen=True, slots=True)
class Usage:
    """What a limit said.

    Attributes:
        limit: the limit.
        allowed: whether the request may pass, as far as this limit is concerned.
        used: how much of the limit is used up, with this request if it was charged.
        remaining: how much is left.
        reset: seconds until the limit is wholly unused again, if nothing more is charged.
        retry_after: seconds until this cost could be allowed; 0 if it is, infinite if it
            never can be.
        error: why the limit's node could not be asked; `allowed` is what the settings
            decided then.
    """

    limit: Limit
    allowed: bool
    used: int = 0
    remaining: int = 0
    reset: float = 0.0
    retry_after: float = 0.0
    error: Exception | None = None


class Limiter:
    """Checks limits on the nodes of a cluster. Safe to share between threads.

    usage = limiter.hit("invoice:7", "5/m")
    if not usage.allowed:
        wait(usage.retry_after)

    Args:
        cluster: an alias in settings.RB_CLUSTERS.
        prefix: what the stored keys begin with.
        fail_open: whether a request is allowed whose limit's node failed.
        timeout: seconds for one call.

    What is None is as the settings RATELIMIT_CLUSTER, _PREFIX, _FAIL_OPEN and _TIMEOUT say.
    """

    def __init__(
        self,
        cluster: str | None = None,
        prefix: str | None = None,
        fail_open: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._fail_open = fail_open
        self._timeout = timeout

    def hit(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Charge a limit, if it allows that."""
        raise NotImplementedError

    def peek(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Ask a limit what it would say, and charge nothing."""
        raise NotImplementedError

    def reset(
        self,
        key: str | bytes,
        rate: object,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> bool:
        """Forget what a limit was charged; return whether there was anything."""
        raise NotImplementedError

    def check(self, limits: Sequence[Limit], *, charge: bool = True) -> list[Usage]:
        """Check all limits at once; charge each of them, or none if one refuses."""
        raise NotImplementedError

    async def ahit(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Do what `hit` does."""
        raise NotImplementedError

    async def apeek(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Do what `peek` does."""
        raise NotImplementedError

    async def areset(
        self,
        key: str | bytes,
        rate: object,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> bool:
        """Do what `reset` does."""
        raise NotImplementedError

    async def acheck(self, limits: Sequence[Limit], *, charge: bool = True) -> list[Usage]:
        """Do what `check` does."""
        raise NotImplementedError


NEVER = math.inf

limiter = Limiter()
