"""A view behind its limits: all are asked at once, and the answer says what they said."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .answers import aanswer, answer
from .conf import get_config
from .exceptions import Ratelimited
from .fields import set_fields
from .limiter import Limit, Usage, limiter
from .policies import Policy, name_apart
from .record import find_record, get_record

Asked = list[tuple[str, Policy, Limit]]


class Guard:
    """The limits of one view.

    Args:
        policies: the limits, in the order in which they are written.
        group: the view's name, which limits without a group of their own count by.
    """

    def __init__(self, policies: Sequence[Policy], group: str) -> None:
        self.policies = tuple(policies)
        self.group = group
        names = name_apart(policy.name for policy in policies)
        self._named = list(zip(names, policies, strict=True))

    def run(
        self, request: HttpRequest, view: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        """Return what a view answers, or what a refused request is answered."""
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
        """Charge the limits that apply to a request; return why it is refused, if it is."""
        asked = self._find(request)
        limits = _different(asked)
        usages = limiter.check(limits) if limits else []
        return self._decide(request, asked, _for_each(asked, limits, usages))

    async def acharge(self, request: HttpRequest) -> Ratelimited | None:
        """Do what `charge` does."""
        asked = await self._afind(request)
        limits = _different(asked)
        usages = await limiter.acheck(limits) if limits else []
        return self._decide(request, asked, _for_each(asked, limits, usages))

    def _find(self, request: HttpRequest) -> Asked:
        """Return the limits that apply to a request."""
        return [
            (name, policy, limit)
            for name, policy in self._applying(request)
            if (limit := policy.limit(self.group, request)) is not None
        ]

    async def _afind(self, request: HttpRequest) -> Asked:
        found: Asked = []
        for name, policy in self._applying(request):
            limit = await policy.alimit(self.group, request)
            if limit is not None:
                found.append((name, policy, limit))
        return found

    def _applying(self, request: HttpRequest) -> list[tuple[str, Policy]]:
        if not hasattr(request, "META"):
            raise ImproperlyConfigured(
                f"{self.group}: @ratelimit is for functions that take a request first. This "
                f"one was given a {type(request).__name__}; a method needs "
                "@method_decorator(ratelimit(…))."
            )
        if not get_config().enable:
            return []
        return [(name, policy) for name, policy in self._named if policy.applies(request)]

    def _decide(
        self, request: HttpRequest, asked: Asked, usages: Sequence[Usage]
    ) -> Ratelimited | None:
        """Note what the limits said; return why the request is refused, if it is."""
        told = [
            (name, policy, usage)
            for (name, policy, _), usage in zip(_apart(request, asked), usages, strict=True)
        ]
        refusing = [(name, policy) for name, policy, usage in told if not usage.allowed]
        request.limited = getattr(request, "limited", False) or bool(refusing)  # type: ignore[attr-defined]
        if not asked:
            return None
        record = get_record(request)
        record.usages += [(name, usage) for name, _, usage in told]
        blocking = [name for name, policy in refusing if policy.block]
        if not blocking:
            return None
        blocked = [usage for _, policy, usage in told if policy.block]
        record.refusal = Ratelimited(usages=blocked, policies=blocking)
        return record.refusal


def _different(asked: Asked) -> list[Limit]:
    """Return the limits, each once: one that is written twice is charged once."""
    return list(dict.fromkeys([limit for _, _, limit in asked]))


def _for_each(asked: Asked, limits: list[Limit], usages: list[Usage]) -> list[Usage]:
    """Return what was said of each of the limits that were asked."""
    if len(limits) == len(asked):
        return usages
    said = dict(zip(limits, usages, strict=True))
    return [said[limit] for _, _, limit in asked]


def _apart(request: HttpRequest, asked: Asked) -> Asked:
    """Return the limits with names that no limit of an earlier batch has."""
    record = find_record(request)
    if record is None or not record.usages:
        return asked
    before = [name for name, _ in record.usages]
    names = name_apart([*before, *(name for name, _, _ in asked)])[len(before) :]
    return [
        (name, policy, limit) for name, (_, policy, limit) in zip(names, asked, strict=True)
    ]


def _told(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return an answer that says what the limits said, unless the middleware will do that."""
    record = find_record(request)
    if record is not None and not record.has_middleware:
        set_fields(request, response)
    return response
