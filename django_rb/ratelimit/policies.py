"""The limits of a view: how they are written, and what they ask the limiter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from ..engine.nodes.hosts import did_you_mean, masked
from .algorithms import SLIDING_WINDOW, TOKEN_BUCKET
from .conf import get_config
from .functions import RequestFunction
from .keys import RequestKey, parse_key
from .limiter import Limit
from .meters import Meter, Question, make_meter
from .rates import Rate, parse_rate

# All methods; None and (None,) are the same, as django-ratelimit has it.
ALL: Final = (None,)
UNSAFE: Final = ("DELETE", "PATCH", "POST", "PUT")

Methods = str | Sequence[str | None] | None


class _NotGiven:
    def __repr__(self) -> str:
        return "…"


NOT_GIVEN: Final = _NotGiven()


class LimitOptions(TypedDict, total=False):
    """One of several limits: what `ratelimit()` takes, without `limits`."""

    group: str | None
    key: Any
    rate: Any
    method: Methods
    block: bool
    cost: int
    algorithm: str | None
    burst: int | None
    name: str | None


Limits = Iterable[LimitOptions | tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit of a view.

    Attributes:
        name: what the fields of answers call it.
        group: what is counted together; None for the view alone.
        key: what requests are counted by.
        rate: how many, or who says so.
        methods: the HTTP methods that are limited, None for all.
        block: whether a request is refused, or only told that it is limited.
        cost, algorithm, burst: as the limiter takes them.
    """

    name: str
    group: str | None
    key: RequestKey
    rate: Rate | RequestFunction | None
    methods: frozenset[str] | None
    block: bool
    cost: int
    algorithm: str | None
    burst: int | None

    def applies(self, request: HttpRequest) -> bool:
        """Return whether a request's method is limited."""
        return self.methods is None or request.method in self.methods

    def limit(self, group: str, request: HttpRequest) -> Limit | None:
        """Return what to ask the limiter, None for no limit."""
        question = self.ask(self.name, group, request)
        return None if question is None else question.limit

    async def alimit(self, group: str, request: HttpRequest) -> Limit | None:
        """Do what `limit` does, for an async view."""
        question = await self.aask(self.name, group, request)
        return None if question is None else question.limit

    def ask(self, name: str, group: str, request: HttpRequest) -> Question | None:
        """Return the question to ask; None for no limit.

        Args:
            name: what the fields of answers call it.
            group: the view, for a policy that has no group of its own.
        """
        group = self.group or group
        rate = self.rate
        if isinstance(rate, RequestFunction):
            rate = parse_rate(rate(group, request))
        meter = self.meter(name, group, rate)
        return None if meter is None else meter.ask(self.key.read(group, request))

    async def aask(self, name: str, group: str, request: HttpRequest) -> Question | None:
        """Do what `ask` does, for an async view."""
        group = self.group or group
        rate = self.rate
        if isinstance(rate, RequestFunction):
            rate = parse_rate(await rate.acall(group, request))
        meter = self.meter(name, group, rate)
        return None if meter is None else meter.ask(await self.key.aread(group, request))

    def meter(self, name: str, group: str, rate: Rate | None) -> Meter | None:
        """Return the meter of a rate, as the settings are; None for no limit."""
        if rate is None:
            return None
        config = get_config()
        return make_meter(self, name, group, rate, config.prefix, config.algorithm)


def make_policies(
    limits: Limits | None,
    *,
    key: object,
    rate: object,
    group: str | None = None,
    method: Methods = ALL,
    block: bool = True,
    cost: int = 1,
    algorithm: str | None = None,
    burst: int | None = None,
    name: str | None = None,
) -> list[Policy]:
    """Return the limits that a decorator's arguments name: one, or those of `limits`.

    Raises:
        ImproperlyConfigured: one of the arguments is impossible.
    """
    given = LimitOptions(
        group=group,
        key=key,
        rate=rate,
        method=method,
        block=block,
        cost=cost,
        algorithm=algorithm,
        burst=burst,
        name=name,
    )
    if limits is None:
        return [_make_policy(given)]
    if key is not None or rate is not NOT_GIVEN or name is not None:
        raise ImproperlyConfigured(
            "ratelimit(limits=[…]): key, rate and name belong to each of the limits. Give "
            "limits=[('ip', '100/m'), ('user', '1000/h')], or one key and rate."
        )
    policies = [_make_policy(given | _options(limit)) for limit in limits]
    if not policies:
        raise ImproperlyConfigured(
            "ratelimit(limits=[]): there is none. Give ('ip', '100/m'), or a dictionary."
        )
    return policies


def name_apart(names: Iterable[str]) -> list[str]:
    """Return names that differ: "ip", "ip-2", "ip-3" for three times "ip"."""
    apart: list[str] = []
    for name in names:
        other, number = name, 1
        while other in apart:
            number += 1
            other = f"{name}-{number}"
        apart.append(other)
    return apart


def _options(limit: object) -> LimitOptions:
    if isinstance(limit, tuple | list) and len(limit) == 2:
        return LimitOptions(key=limit[0], rate=limit[1])
    if not isinstance(limit, dict):
        raise ImproperlyConfigured(
            f"ratelimit(limits=[…]): {masked(limit)} is no limit. Write ('ip', '100/m') or "
            "{'key': 'ip', 'rate': '100/m'}."
        )
    for option in limit:
        if option not in LimitOptions.__annotations__:
            way_out = did_you_mean(option, list(LimitOptions.__annotations__))
            raise ImproperlyConfigured(
                f"ratelimit(limits=[…]): A limit has no {masked(option)}. {way_out}"
            )
    return LimitOptions(**limit)  # type: ignore[typeddict-item]


def _make_policy(given: LimitOptions) -> Policy:
    key = parse_key(given["key"])
    rate = _parse_rate(given["rate"])
    name = given["name"]
    _check_text("group", given["group"])
    _check_text("name", name)
    if not isinstance(given["block"], bool):
        raise _mistake("block", f"{masked(given['block'])} is neither True nor False.")
    algorithm = given["algorithm"]
    if algorithm is None and given["burst"] is not None:
        algorithm = TOKEN_BUCKET  # which alone has a burst
    policy = Policy(
        name=name or key.name,
        group=given["group"],
        key=key,
        rate=rate,
        methods=_parse_methods(given["method"]),
        block=given["block"],
        cost=given["cost"],
        algorithm=algorithm,
        burst=given["burst"],
    )
    _check_limit(policy)
    return policy


def _parse_rate(rate: object) -> Rate | RequestFunction | None:
    if rate is NOT_GIVEN:
        raise _mistake("rate", "How many? Give '100/m'; None is for no limit.")
    is_path = isinstance(rate, str) and "/" not in rate and "." in rate
    if is_path or callable(rate):
        return RequestFunction(rate, "ratelimit(rate=…)")  # type: ignore[arg-type]
    return parse_rate(rate)


def _parse_methods(method: Methods) -> frozenset[str] | None:
    if method is None or (isinstance(method, list | tuple) and tuple(method) == ALL):
        return None
    methods = [method] if isinstance(method, str) else method
    if (
        not isinstance(methods, list | tuple | set | frozenset)
        or not methods
        or not all(isinstance(one, str) and one.isalpha() for one in methods)
    ):
        raise _mistake(
            "method", f"{method!r} is neither an HTTP method, a list of them, ALL nor UNSAFE."
        )
    named = frozenset(str(one).upper() for one in methods)
    return named | {"HEAD"} if "GET" in named else named  # views answer it as a GET


def _check_limit(policy: Policy) -> None:
    """Let the limiter say now what it would say of every request."""
    rate = policy.rate if isinstance(policy.rate, Rate) else Rate(1, 1)
    try:
        Limit("", rate, policy.cost, policy.algorithm or SLIDING_WINDOW, policy.burst)
    except ValueError as error:
        raise _mistake("cost", str(error)) from error


def _check_text(argument: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise _mistake(argument, f"{masked(value)} is not a text.")


def _mistake(argument: str, text: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"ratelimit({argument}=…): {text}")
