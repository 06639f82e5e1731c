"""Limiting a view: its limits are checked in parallel, and set the response's header fields."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ..engine import Cluster
from ..engine.protocol.exchange import Batch
from ..engine.rounds.scripts import run_scripts
from .algorithms import is_answer, read_answer
from .answers import aanswer, answer
from .conf import get_config
from .exceptions import Ratelimited
from .fields import tell
from .limiter import limiter
from .limits import Limit, Usage
from .record import Said, find_record, get_record
from .view_limits import ReadLimit, ViewLimit, check_key_functions, name_apart


class Guard:
    """The limits of one view.

    Args:
        limits: the limits, in the order in which they are written.
        group: the view's name, which limits without a group of their own count by.

    Raises:
        ImproperlyConfigured: two of them would share a counter by accident.
    """

    def __init__(self, limits: Sequence[ViewLimit], group: str) -> None:
        check_key_functions(limits, resolve=False)
        self.limits = tuple(limits)
        self.group = group
        names = name_apart(limit.name for limit in limits)
        self._named = [
            replace(limit, name=name, group=limit.group or group)
            for name, limit in zip(names, limits, strict=True)
        ]
        self._is_for_all = all(limit.methods is None for limit in limits)
        self._was_used = False

    def run(
        self, request: HttpRequest, view: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        """Return the view's response, or the one for a refused request."""
        refusal = self.charge(request)
        response = answer(request, refusal) if refusal else view()
        return _told(request, response)

    async def arun(
        self, request: HttpRequest, view: Callable[[], Awaitable[HttpResponseBase]]
    ) -> HttpResponseBase:
        """Do what `run` does with an async view."""
        if refusal := await self.acharge(request):
            return _told(request, await aanswer(request, refusal))
        response: Any = view()
        if inspect.isawaitable(response):  # those of View.options() and the like are not
            response = await response
        return _told(request, cast(HttpResponseBase, response))

    def charge(self, request: HttpRequest) -> Ratelimited | None:
        """Charge the limits that apply to a request; return the refusal, None if it passes."""
        limits = self._applying(request)
        asked = [read for limit in limits if (read := limit.read(request))]
        if not asked:
            return _decide(request, [], [])
        cluster = limiter.cluster
        return cluster.run(_charge(cluster, request, asked), limiter.timeout)

    async def acharge(self, request: HttpRequest) -> Ratelimited | None:
        """Do what `charge` does."""
        limits = self._applying(request)
        asked = [read for limit in limits if (read := await limit.aread(request))]
        if not asked:
            return _decide(request, [], [])
        cluster = limiter.cluster
        return await cluster.arun(_charge(cluster, request, asked), limiter.timeout)

    def _applying(self, request: HttpRequest) -> Sequence[ViewLimit]:
        """Return the limits that apply to a request."""
        if not hasattr(request, "META"):
            raise ImproperlyConfigured(
                f"{self.group}: the first argument of a function with @ratelimit must be a "
                f"request, not a {type(request).__name__}. For methods, use "
                "@method_decorator(ratelimit(…))."
            )
        if not get_config().enable:
            return ()
        if not self._was_used:  # functions that are named by a path can be imported by now
            check_key_functions(self.limits, resolve=True)
            self._was_used = True
        if self._is_for_all:
            return self._named
        return [limit for limit in self._named if limit.applies(request)]


def _charge(
    cluster: Cluster, request: HttpRequest, asked: Sequence[ReadLimit]
) -> Batch[Ratelimited | None]:
    """Charge limits; return the refusal, None if the request passes."""
    calls = [call for _, _, _, call in asked]
    if len({key for key, _, _ in calls}) == len(calls):
        replies = yield from run_scripts(cluster, calls, is_answer)
        if _have_allowed(request, asked, replies):
            return None
        limits = make_limits(asked)
        usages = yield from limiter.read_replies(cluster, limits, calls, replies, charge=True)
    else:  # one that is written twice is charged once
        limits = make_limits(asked)
        distinct = list(dict.fromkeys(limits))
        usages = yield from limiter.make_batch(cluster, distinct, charge=True)
        by_limit = dict(zip(distinct, usages, strict=True))
        usages = [by_limit[limit] for limit in limits]
    return _decide(request, [view_limit.name for view_limit, _, _, _ in asked], usages)


def make_limits(asked: Sequence[ReadLimit]) -> list[Limit]:
    """Return the limits of a request as the limiter takes them."""
    return [
        replace(limit, key=view_limit.make_key(digest))
        for view_limit, limit, digest, _ in asked
    ]


def _have_allowed(
    request: HttpRequest, asked: Sequence[ReadLimit], replies: Sequence[Any]
) -> bool:
    """Return whether all limits allow a request; if so, record their replies.

    This is the fast path of `_decide`, without creating a `Usage`, which few requests need.
    """
    said: list[Said] = []
    for (view_limit, limit, _, _), reply in zip(asked, replies, strict=True):
        if type(reply) is not bytes:
            return False
        allowed, used, reset, _, _, _ = read_answer(reply)
        if not allowed:
            return False
        rule = limit.rule
        left, seconds = rule.capacity - int(used), reset / rule.ticks_per_second
        said.append((view_limit.name, rule, left, seconds))
    _note(request, said, is_over=False)
    return True


def _decide(
    request: HttpRequest, names: Sequence[str], usages: Sequence[Usage]
) -> Ratelimited | None:
    """Record the limits' replies; return the refusal, None if the request passes."""
    said = [_make_said(name, usage) for name, usage in zip(names, usages, strict=True)]
    is_over = not all(usage.allowed for usage in usages)
    said = _note(request, said, is_over=is_over)
    refusing = [
        name
        for (name, _, _, _), usage in zip(said, usages, strict=True)
        if usage.limit.block and not usage.allowed
    ]
    if not refusing:
        return None
    blocking = [usage for usage in usages if usage.limit.block]
    refusal = Ratelimited(usages=blocking, policies=refusing)
    get_record(request).refusal = refusal
    return refusal


def _make_said(name: str, usage: Usage) -> Said:
    # Who is refused can use nothing until a request could be allowed again; others what is
    # left, until the limit is as if unused.
    seconds = usage.reset if usage.allowed else usage.retry_after
    remaining = usage.remaining if usage.error is None else None
    return name, usage.limit.rule, remaining, seconds


def _note(request: HttpRequest, said: list[Said], *, is_over: bool) -> list[Said]:
    """Record the limits' replies, and return them under names that no earlier limit has."""
    request.limited = getattr(request, "limited", False) or is_over  # type: ignore[attr-defined]
    if said:
        record = get_record(request)
        if record.said:  # by another decorator, around this one
            names = name_apart([one[0] for one in (*record.said, *said)])[len(record.said) :]
            said = [(name, *one[1:]) for name, one in zip(names, said, strict=True)]
        record.said += said
    return said


def _told(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return a response with the header fields, unless the middleware will set them.

    Anything that is not a response (a framework may convert it later) is returned unchanged.
    """
    record = find_record(request)
    if (
        record is not None
        and not record.has_middleware
        and isinstance(response, HttpResponseBase)
    ):
        tell(record, response)
    return response
