"""A view behind its limits: all are asked at once, and the answer says what they said."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ..engine.protocol.exchange import Batch
from .algorithms import Answer, read_answer
from .answers import aanswer, answer
from .conf import Config, get_config
from .exceptions import Ratelimited
from .fields import tell
from .functions import RequestFunction
from .limiter import Limit, Replies, Usage, limiter
from .meters import Meter, Question
from .policies import Policy, name_apart
from .record import Record, find_record, get_record

# Limits with their names, and their meters unless the rate depends on the request.
Metered = list[tuple[str, Policy, Meter | None]]


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
        self._is_for_all = all(policy.methods is None for policy in policies)
        self._metered: tuple[Config | None, Metered] = None, []

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
        questions = self._find(request)
        if not questions:
            return _decide(request, questions, {})
        began, replies = monotonic(), None
        keys = [question.key for question in questions]
        if _are_different(keys):
            commands = [question.command for question in questions]
            replies = limiter.try_commands(keys, commands)
            if replies is not None and _have_passed(request, questions, replies):
                return None
        return limiter.run(_settle(request, questions, replies), began)

    async def acharge(self, request: HttpRequest) -> Ratelimited | None:
        """Do what `charge` does."""
        questions = await self._afind(request)
        if not questions:
            return _decide(request, questions, {})
        return await limiter.arun(_settle(request, questions))

    def _find(self, request: HttpRequest) -> list[Question]:
        """Return the questions of the limits that apply to a request."""
        found = []
        for name, policy, meter in self._applying(request):
            if meter is not None:
                found.append(meter.ask(policy.key.read(meter.group, request)))
            elif question := policy.ask(name, self.group, request):
                found.append(question)
        return found

    async def _afind(self, request: HttpRequest) -> list[Question]:
        found = []
        for name, policy, meter in self._applying(request):
            if meter is not None:
                found.append(meter.ask(await policy.key.aread(meter.group, request)))
            elif question := await policy.aask(name, self.group, request):
                found.append(question)
        return found

    def _applying(self, request: HttpRequest) -> Metered:
        if not hasattr(request, "META"):
            raise ImproperlyConfigured(
                f"{self.group}: @ratelimit is for functions that take a request first. This "
                f"one was given a {type(request).__name__}; a method needs "
                "@method_decorator(ratelimit(…))."
            )
        config = get_config()
        if not config.enable:
            return []
        known_for, metered = self._metered
        if known_for is not config:  # the settings may change in tests
            metered = [
                (name, policy, self._meter(name, policy)) for name, policy in self._named
            ]
            self._metered = config, metered
        if self._is_for_all:
            return metered
        return [line for line in metered if line[1].applies(request)]

    def _meter(self, name: str, policy: Policy) -> Meter | None:
        """Return a policy's meter; None if its rate depends on the request."""
        if isinstance(policy.rate, RequestFunction):
            return None
        return policy.meter(name, policy.group or self.group, policy.rate)


def _settle(
    request: HttpRequest, questions: Sequence[Question], replies: Replies = None
) -> Batch[Ratelimited | None]:
    """Ask what was not asked yet; return why the request is refused, if it is."""
    keys = [question.key for question in questions]
    if replies is None and _are_different(keys):
        commands = [question.command for question in questions]
        replies = yield from limiter.ask(keys, commands)
        if _have_passed(request, questions, replies):
            return None
    limits = _different(questions)
    usages = yield from limiter.go_on(limits, replies)
    return _decide(request, questions, dict(zip(limits, usages, strict=True)))


def _are_different(keys: Sequence[bytes]) -> bool:
    return len(set(keys)) == len(keys)


def _different(questions: Sequence[Question]) -> list[Limit]:
    """Return the limits, each once: one that is written twice is charged once."""
    return list(dict.fromkeys([question.limit for question in questions]))


def _have_passed(
    request: HttpRequest, questions: Sequence[Question], replies: Sequence[Any]
) -> bool:
    """Return whether all limits allow the request; then do what `_decide` does."""
    answers: list[Answer] = []
    for reply in replies:
        if type(reply) is not bytes:
            return False
        answer = read_answer(reply)
        if not answer[0]:
            return False
        answers.append(answer)
    request.limited = getattr(request, "limited", False)  # type: ignore[attr-defined]
    get_record(request).add(questions, answers)
    return True


def _decide(
    request: HttpRequest, questions: Sequence[Question], said: Mapping[Limit, Usage]
) -> Ratelimited | None:
    """Note what the limits said; return why the request is refused, if it is."""
    told = [(question.meter, said[question.limit]) for question in questions]
    is_over = not all(usage.allowed for _, usage in told)
    request.limited = getattr(request, "limited", False) or is_over  # type: ignore[attr-defined]
    if not told:
        return None
    record = get_record(request)
    names = _names_apart(record, questions)
    record.usages.extend((name, usage) for name, (_, usage) in zip(names, told, strict=True))
    blocking = [
        name
        for name, (meter, usage) in zip(names, told, strict=True)
        if meter.policy.block and not usage.allowed
    ]
    if not blocking:
        return None
    blocked = [usage for meter, usage in told if meter.policy.block]
    record.refusal = Ratelimited(usages=blocked, policies=blocking)
    return record.refusal


def _names_apart(record: Record, questions: Sequence[Question]) -> list[str]:
    """Return the limits' names, which no limit of an earlier batch has."""
    before = [name for name, _ in record.usages]
    return name_apart([*before, *(question.meter.name for question in questions)])[
        len(before) :
    ]


def _told(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return an answer that says what the limits said, unless the middleware will do that."""
    record = find_record(request)
    if record is not None and not record.has_middleware:
        tell(record, response)
    return response
