"""Limits without a request: for tasks, for services, and for the decorator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..engine import Cluster
from ..engine.errors import first_error
from ..engine.nodes.changes import RecentlyLogged
from ..engine.protocol.answers import is_number
from ..engine.protocol.exchange import Batch
from ..engine.rounds.batch import call
from ..engine.rounds.scripts import ScriptCall, run_scripts
from ..engine.wording import get_logger
from ..registry import clusters
from .algorithms import HIT, PEEK, REFUND, TOKEN_BUCKET, is_answer, read_answer
from .conf import check_prefix, get_config, parse_timeout
from .limits import Limit, Usage, make_usage
from .rates import parse_rate

logger = get_logger("django_rb.ratelimit")

# Seconds after which a client may try again if a node failed.
RETRY_AFTER_FAILURE = 1.0


class Limiter:
    """Checks limits on the nodes of a cluster. Safe to share between threads.

    usage = limiter.hit("invoice:7", "5/m")
    if not usage.allowed:
        retry_in(usage.retry_after)

    Args:
        cluster: an alias in settings.RB_CLUSTERS.
        prefix: what the stored keys begin with.
        fail_open: whether a request is allowed if its limit's node failed.
        timeout: seconds for one call, or a timedelta.

    None stands for the settings RATELIMIT_CLUSTER, _PREFIX, _FAIL_OPEN and _TIMEOUT.

    Raises:
        ImproperlyConfigured: an invalid prefix or timeout.
    """

    def __init__(
        self,
        cluster: str | None = None,
        prefix: str | None = None,
        fail_open: bool | None = None,
        timeout: float | timedelta | None = None,
    ) -> None:
        if prefix is not None:
            check_prefix(prefix, "prefix")
        self._cluster = cluster
        self._prefix = prefix
        self._fail_open = fail_open
        self._timeout = parse_timeout(timeout, "timeout")
        self._recently_logged = RecentlyLogged()

    # One limit.

    def hit(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Charge a limit if it allows the request, and return its usage.

        limiter.hit("invoice:7", "100/10m").allowed

        Args:
            key: what is limited.
            rate: see `parse_rate`.
            cost: what is charged, 0 or more.
            algorithm: by default the setting RATELIMIT_ALGORITHM, or "token-bucket" if there
                is a burst.
            burst: see `Limit`.

        Raises what `Limit` and `parse_rate` raise. A failing node is reported in
        `Usage.error`.
        """
        return self.check([_limit(key, rate, cost, algorithm, burst)])[0]

    def peek(
        self,
        key: str | bytes,
        rate: object,
        cost: int = 1,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> Usage:
        """Return what `hit` would return, and charge nothing."""
        return self.check([_limit(key, rate, cost, algorithm, burst)], charge=False)[0]

    def reset(
        self,
        key: str | bytes,
        rate: object,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> bool:
        """Reset a limit to unused; return whether it had been charged.

        Raises:
            redis.RedisError: its node failed.
        """
        cluster = self.cluster
        limit = _limit(key, rate, 1, algorithm, burst)
        return cluster.run(self._reset(cluster, limit), self.timeout)

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
        return (await self.acheck([_limit(key, rate, cost, algorithm, burst)]))[0]

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
        limit = _limit(key, rate, cost, algorithm, burst)
        return (await self.acheck([limit], charge=False))[0]

    async def areset(
        self,
        key: str | bytes,
        rate: object,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> bool:
        """Do what `reset` does."""
        cluster = self.cluster
        limit = _limit(key, rate, 1, algorithm, burst)
        return await cluster.arun(self._reset(cluster, limit), self.timeout)

    # Several limits.

    def check(self, limits: Iterable[Limit], *, charge: bool = True) -> list[Usage]:
        """Check all limits in parallel; charge all of them, or none if one refuses.

        limits = [Limit("ip:10.0.0.1", Rate(5, 60)), Limit("user:7", Rate(20, 3600))]
        all(usage.allowed for usage in limiter.check(limits))

        All nodes are asked in parallel. If a limit refuses, a second round refunds what the
        others were charged.

        Args:
            charge: False to check without charging.

        Returns the usage of each limit, in their order.
        """
        cluster = self.cluster
        batch = self.make_batch(cluster, list(limits), charge=charge)
        return cluster.run(batch, self.timeout)

    async def acheck(self, limits: Iterable[Limit], *, charge: bool = True) -> list[Usage]:
        """Do what `check` does."""
        cluster = self.cluster
        batch = self.make_batch(cluster, list(limits), charge=charge)
        return await cluster.arun(batch, self.timeout)

    # Batches, also those of views.

    @property
    def cluster(self) -> Cluster:
        """The cluster that stores the counters."""
        return clusters[get_config().cluster if self._cluster is None else self._cluster]

    @property
    def prefix(self) -> str:
        """What the stored keys begin with."""
        return get_config().prefix if self._prefix is None else self._prefix

    @property
    def timeout(self) -> float | None:
        """Seconds for one call."""
        return get_config().timeout if self._timeout is None else self._timeout

    def make_batch(
        self, cluster: Cluster, limits: Sequence[Limit], *, charge: bool
    ) -> Batch[list[Usage]]:
        """Do what `check` does, as a batch of its cluster."""
        prefix, action = self.prefix, HIT if charge else PEEK
        calls = [limit.rule.call(prefix, limit.key, action, limit.cost) for limit in limits]
        replies = yield from run_scripts(cluster, calls, is_answer)
        return (yield from self.read_replies(cluster, limits, calls, replies, charge=charge))

    def read_replies(
        self,
        cluster: Cluster,
        limits: Sequence[Limit],
        calls: Sequence[ScriptCall],
        replies: Sequence[Any],
        *,
        charge: bool,
    ) -> Batch[list[Usage]]:
        """Return the usages that replies contain; refund charges if a limit refuses."""
        usages = [
            make_usage(limit, read_answer(reply))
            if type(reply) is bytes
            else self._make_failed_usage(cluster, limit, key, reply)
            for limit, (key, _, _), reply in zip(limits, calls, replies, strict=True)
        ]
        if charge and any(usage.limit.block and not usage.allowed for usage in usages):
            yield from self._refund(cluster, calls, replies, usages)
        return usages

    def _reset(self, cluster: Cluster, limit: Limit) -> Batch[bool]:
        key = limit.rule.make_key(self.prefix, limit.key)
        deleted, failures = yield from call(cluster, key, b"UNLINK", key, answer=is_number)
        if failures:
            raise first_error(failures)
        return bool(deleted)

    def _refund(
        self,
        cluster: Cluster,
        calls: Sequence[ScriptCall],
        replies: Sequence[Any],
        usages: list[Usage],
    ) -> Batch[None]:
        """Refund what was charged, and update `usages`."""
        charged = [n for n, usage in enumerate(usages) if usage.allowed and not usage.error]
        if not charged:
            return
        refunds = []
        for n in charged:
            key, script, _ = calls[n]
            limit = usages[n].limit
            charge = read_answer(replies[n])[4:]
            refunds.append((key, script, limit.rule.encode(REFUND, limit.cost, charge)))
        refunded = yield from run_scripts(cluster, refunds, is_answer)
        for n, reply in zip(charged, refunded, strict=True):
            if isinstance(reply, Exception):
                self._log(cluster, calls[n][0], reply)
            else:
                usage = make_usage(usages[n].limit, read_answer(reply))
                usages[n] = usage._replace(allowed=True)

    def _make_failed_usage(
        self, cluster: Cluster, limit: Limit, key: bytes, error: Exception
    ) -> Usage:
        """Return the usage of a limit whose node failed, according to the settings."""
        self._log(cluster, key, error)
        allowed = get_config().fail_open if self._fail_open is None else self._fail_open
        retry_after = 0.0 if allowed else RETRY_AFTER_FAILURE
        return Usage(limit, allowed, 0, limit.capacity, 0.0, retry_after, error)

    def _log(self, cluster: Cluster, key: bytes, error: Exception) -> None:
        """Warn that a node failed; only once, until it has not failed for a minute."""
        host_id = cluster.router.get_host_for_key(key)
        if self._recently_logged.is_new((host_id, type(error))):
            logger.warning("Limits on node %d cannot be checked: %s", host_id, error)


def _limit(
    key: str | bytes, rate: object, cost: int, algorithm: str | None, burst: int | None
) -> Limit:
    parsed = parse_rate(rate)
    if parsed is None:
        raise ImproperlyConfigured(
            "The rate None means no limit, so there is nothing to check."
        )
    if algorithm is None and burst is not None:
        algorithm = TOKEN_BUCKET  # the only one with a burst
    return Limit(key, parsed, cost, algorithm or get_config().algorithm, burst)


limiter = Limiter()
