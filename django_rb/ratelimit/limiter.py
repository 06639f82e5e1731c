"""Limits without a request: for tasks, for services, and for the decorator."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..engine import Cluster
from ..engine.errors import first_error
from ..engine.nodes.health import News
from ..engine.nodes.hosts import masked
from ..engine.protocol.exchange import Batch
from ..engine.rounds.batch import ScriptCall, ask, call, encode_scripts, run_scripts
from ..registry import clusters
from .algorithms import (
    HIT,
    PEEK,
    REFUND,
    SLIDING_WINDOW,
    TOKEN_BUCKET,
    Answer,
    Rule,
    get_rule,
    make_rule,
    read_answer,
)
from .conf import check_prefix, check_timeout, get_config
from .rates import Rate, parse_rate

logger = logging.getLogger("django_rb.ratelimit")

T = TypeVar("T")

# What nodes said to commands, in their order; None if they were not asked.
Replies = Sequence[Any] | None

_KEY_TYPES = (str, bytes)

# Seconds after which to ask again where a node failed.
RETRY_AFTER_FAILURE = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and what a request would be charged.

    Limit("login:10.0.0.1", Rate(5, 60))

    Attributes:
        key: what is limited; of any length and any bytes.
        rate: how many requests in which period.
        cost: what is charged, 0 or more.
        algorithm: "sliding-window", "fixed-window" or "token-bucket".
        burst: how many requests a full bucket has room for; None for the rate's count.
            For "token-bucket" alone.
        block: whether its refusal keeps the other limits of a call from being charged. One
            that only tells does not: the request passes.

    Raises:
        ImproperlyConfigured: there is no such algorithm, or it has no such burst.
        TypeError: the key is neither text nor bytes, or the rate is no `Rate`.
        ValueError: the cost is not a whole number of 0 or more.
    """

    key: str | bytes
    rate: Rate
    cost: int = 1
    algorithm: str = SLIDING_WINDOW
    burst: int | None = None
    block: bool = True
    rule: Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.key, _KEY_TYPES):
            raise TypeError(
                f"{masked(self.key)} cannot be the key of a limit. Give text or bytes; "
                "str(value) makes text of most things."
            )
        if type(self.cost) is not int or self.cost < 0:
            raise ValueError(
                f"{masked(self.cost)} is not a cost. Give a whole number, 0 or more; "
                "reset() gives back what was charged."
            )
        try:
            rule = get_rule(self.algorithm, self.rate, self.burst)
        except TypeError:  # what cannot be hashed is none of them
            rule = make_rule(self.algorithm, self.rate, self.burst)
        object.__setattr__(self, "rule", rule)

    @property
    def capacity(self) -> int:
        """How many requests there is room for at once."""
        return self.rule.capacity


class Usage(NamedTuple):
    """What a limit said.

    Attributes:
        limit: the limit.
        allowed: whether the request may pass, as far as this limit is concerned.
        used: how much of the limit is used up, with this request if it was charged.
        remaining: how much is left.
        reset: seconds until the limit is wholly unused again if nothing more is charged;
            for "fixed-window" that is when the window ends.
        retry_after: seconds until this cost could be allowed; 0 if it is, infinite if it
            never can be.
        error: why the limit's node could not be asked; then `allowed` is what the settings
            say, and the numbers are those of an unused limit.
    """

    limit: Limit
    allowed: bool
    used: int
    remaining: int
    reset: float
    retry_after: float
    error: Exception | None = None


class Limiter:
    """Checks limits on the nodes of a cluster. Safe to share between threads.

    usage = limiter.hit("invoice:7", "5/m")
    if not usage.allowed:
        retry_in(usage.retry_after)

    Args:
        cluster: an alias in settings.RB_CLUSTERS.
        prefix: what the stored keys begin with.
        fail_open: whether a request is allowed whose limit's node failed.
        timeout: seconds for one call.

    What is None is as the settings RATELIMIT_CLUSTER, _PREFIX, _FAIL_OPEN and _TIMEOUT say.

    Raises:
        ImproperlyConfigured: a prefix or a timeout that cannot be.
    """

    def __init__(
        self,
        cluster: str | None = None,
        prefix: str | None = None,
        fail_open: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        if prefix is not None:
            check_prefix(prefix, "prefix")
        check_timeout(timeout, "timeout")
        self._cluster = cluster
        self._prefix = prefix
        self._fail_open = fail_open
        self._timeout = timeout
        self._news = News()

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
        """Charge a limit, if it allows that.

        limiter.hit("invoice:7", "100/10m").allowed

        Args:
            key: what is limited.
            rate: as `parse_rate` takes it.
            cost: what is charged, 0 or more.
            algorithm: the setting RATELIMIT_ALGORITHM if it is None; "token-bucket" with a
                burst.
            burst: see `Limit`.

        Raises what `Limit` and `parse_rate` raise. A failing node is told in `Usage.error`.
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
        """Return what `hit` would say, and charge nothing."""
        return self.check([_limit(key, rate, cost, algorithm, burst)], charge=False)[0]

    def reset(
        self,
        key: str | bytes,
        rate: object,
        *,
        algorithm: str | None = None,
        burst: int | None = None,
    ) -> bool:
        """Forget what a limit was charged; return whether there was anything.

        Raises:
            redis.RedisError: its node failed.
        """
        cluster = self._get_cluster()
        limit = _limit(key, rate, 1, algorithm, burst)
        return cluster.run(self._reset(cluster, limit), self._get_timeout())

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
        cluster = self._get_cluster()
        limit = _limit(key, rate, 1, algorithm, burst)
        return await cluster.arun(self._reset(cluster, limit), self._get_timeout())

    # Several limits.

    def check(self, limits: Sequence[Limit], *, charge: bool = True) -> list[Usage]:
        """Check all limits at once; charge each of them, or none if one refuses.

        limits = [Limit("ip:10.0.0.1", Rate(5, 60)), Limit("user:7", Rate(20, 3600))]
        all(usage.allowed for usage in limiter.check(limits))

        Every node is asked at the same time. If a limit refuses, a second round gives back
        what the others were charged.

        Args:
            charge: False to ask only.

        Returns what each limit says, in their order.
        """
        began = monotonic()
        calls = self._calls(limits, HIT if charge else PEEK)
        replies = self.try_commands([key for key, _, _ in calls], encode_scripts(calls))
        return self.run(self._check(limits, calls, replies, charge=charge), began)

    async def acheck(self, limits: Sequence[Limit], *, charge: bool = True) -> list[Usage]:
        """Do what `check` does."""
        calls = self._calls(limits, HIT if charge else PEEK)
        return await self.arun(self._check(limits, calls, charge=charge))

    # For those who encode the commands themselves.

    def try_commands(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Replies:
        """Return what nodes reply to commands on stored keys if all goes as it mostly does.

        See `PollTransport.try_calls`. None where there is a timeout for all of a call.
        """
        if self._get_timeout() is not None:
            return None
        cluster = self._get_cluster()
        return cluster.try_calls(cluster.router.get_hosts_for_keys(keys), commands)

    def ask(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Batch[list[Any]]:
        """Return what nodes reply to commands on stored keys; exceptions for what failed."""
        return ask(self._get_cluster(), keys, commands)

    def go_on(self, limits: Sequence[Limit], replies: Replies) -> Batch[list[Usage]]:
        """Do what `check` does, from where `try_commands` or `ask` has got to.

        Args:
            replies: in the order of the limits.
        """
        return self._check(limits, self._calls(limits, HIT), replies, charge=True)

    def run(self, batch: Batch[T], began: float | None = None) -> T:
        """Run a batch; `began` is when its first round did, as time.monotonic()."""
        return self._get_cluster().run(batch, self._get_timeout(), began)

    async def arun(self, batch: Batch[T]) -> T:
        """Do what `run` does."""
        return await self._get_cluster().arun(batch, self._get_timeout())

    # How.

    def _get_cluster(self) -> Cluster:
        return clusters[get_config().cluster if self._cluster is None else self._cluster]

    def _get_timeout(self) -> float | None:
        return get_config().timeout if self._timeout is None else self._timeout

    def _get_key(self, limit: Limit) -> bytes:
        prefix = get_config().prefix if self._prefix is None else self._prefix
        return limit.rule.make_key(prefix, limit.key)

    def _reset(self, cluster: Cluster, limit: Limit) -> Batch[bool]:
        key = self._get_key(limit)
        deleted, failures = yield from call(cluster, key, b"UNLINK", key)
        if failures:
            raise first_error(failures)
        return bool(deleted)

    def _calls(self, limits: Sequence[Limit], action: bytes) -> list[ScriptCall]:
        prefix = get_config().prefix if self._prefix is None else self._prefix
        calls = []
        for limit in limits:
            rule = limit.rule
            key = rule.make_key(prefix, limit.key)
            calls.append((key, rule.script, rule.encode(action, limit.cost)))
        return calls

    def _check(
        self,
        limits: Sequence[Limit],
        calls: Sequence[ScriptCall],
        replies: Replies = None,
        *,
        charge: bool,
    ) -> Batch[list[Usage]]:
        """Say what limits say; `replies` are what their nodes have said already."""
        cluster = self._get_cluster()
        replies = yield from run_scripts(cluster, calls, replies)
        usages = [
            make_usage(limit, read_answer(reply))
            if type(reply) is bytes
            else self._settle(cluster, call[0], limit, reply)
            for call, limit, reply in zip(calls, limits, replies, strict=True)
        ]
        if charge and not all(usage.allowed or not usage.limit.block for usage in usages):
            yield from self._refund(cluster, calls, replies, usages)
        return usages

    def _refund(
        self,
        cluster: Cluster,
        calls: Sequence[ScriptCall],
        replies: Sequence[Any],
        usages: list[Usage],
    ) -> Batch[None]:
        """Give back what was charged, and let `usages` say so."""
        charged = [n for n, usage in enumerate(usages) if usage.allowed and not usage.error]
        if not charged:
            return
        refunds = []
        for n in charged:
            key, script, _ = calls[n]
            limit = usages[n].limit
            charge = read_answer(replies[n])[4:]
            refunds.append((key, script, limit.rule.encode(REFUND, limit.cost, charge)))
        refunded = yield from run_scripts(cluster, refunds)
        for n, reply in zip(charged, refunded, strict=True):
            if isinstance(reply, Exception):
                self._log(cluster, calls[n][0], reply)
            else:
                usages[n] = make_usage(usages[n].limit, read_answer(reply))._replace(
                    allowed=True
                )

    def _settle(self, cluster: Cluster, key: bytes, limit: Limit, error: Exception) -> Usage:
        """Make do without a limit's node, as the settings say."""
        self._log(cluster, key, error)
        allowed = get_config().fail_open if self._fail_open is None else self._fail_open
        retry_after = 0.0 if allowed else RETRY_AFTER_FAILURE
        return Usage(limit, allowed, 0, limit.capacity, 0.0, retry_after, error)

    def _log(self, cluster: Cluster, key: bytes, error: Exception) -> None:
        """Warn that a node failed; once, until it was not heard of for a minute."""
        host_id = cluster.get_host_for_key(key)
        if self._news.is_news((host_id, type(error))):
            logger.warning("Limits on node %d cannot be checked: %s", host_id, error)


def _limit(
    key: str | bytes, rate: object, cost: int, algorithm: str | None, burst: int | None
) -> Limit:
    parsed = parse_rate(rate)
    if parsed is None:
        raise ImproperlyConfigured("The rate None is no limit: there is nothing to ask.")
    if algorithm is None and burst is not None:
        algorithm = TOKEN_BUCKET  # which alone has a burst
    return Limit(key, parsed, cost, algorithm or get_config().algorithm, burst)


def make_usage(limit: Limit, answer: Answer) -> Usage:
    """Return what an algorithm's script said."""
    allowed, used, reset, retry, _, _ = answer
    rule = limit.rule
    ticks = rule.ticks_per_second
    count = int(used)
    retry_after = 0.0 if allowed else retry / ticks if retry >= 0 else math.inf
    return Usage(limit, allowed == 1, count, rule.capacity - count, reset / ticks, retry_after)


limiter = Limiter()
