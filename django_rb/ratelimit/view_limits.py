"""The limits of views: their arguments, and the limits of a request that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from typing import Any, Final, TypedDict, Unpack

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from ..engine.rounds.scripts import ScriptCall
from ..engine.wording import did_you_mean, masked
from .algorithms import HIT, SLIDING_WINDOW, TOKEN_BUCKET
from .conf import Config, get_config
from .functions import RequestFunction
from .keys import FunctionKey, RequestKey, Value, parse_key
from .limits import Limit
from .methods import ALL, Methods, parse_methods
from .rates import Rate, parse_rate

_DIGEST_SIZE = 16
_ANY_DIGEST = "0" * 2 * _DIGEST_SIZE


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


_DEFAULTS = LimitOptions(
    group=None,
    key=None,
    rate=NOT_GIVEN,
    method=ALL,
    block=True,
    cost=1,
    algorithm=None,
    burst=None,
    name=None,
)

Limits = Iterable[LimitOptions | tuple[Any, Any]]


@dataclass(slots=True, eq=False)
class ViewLimit:
    """A limit of a view; its key, and possibly its rate, depend on the request.

    Attributes:
        name: its name in the header fields of responses.
        group: what is counted together; "" for this view only, until its `Guard` is created.
        key: what requests are counted by.
        rate: the rate, or a function that returns it.
        methods: the HTTP methods that are limited, None for all.
        block: whether a request is refused, or only marked as limited.
        cost, algorithm, burst: see `Limit`; no algorithm means that of the settings.
    """

    name: str
    group: str
    key: RequestKey
    rate: Rate | RequestFunction | None
    methods: frozenset[str] | None
    block: bool
    cost: int
    algorithm: str | None
    burst: int | None
    _hash: Any = field(init=False, repr=False)
    _prepared: _Prepared | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        methods = ",".join(sorted(self.methods or ()))
        self._hash = blake2b(f"{methods}:".encode(), digest_size=_DIGEST_SIZE)

    def applies(self, request: HttpRequest) -> bool:
        """Return whether a request's method is limited."""
        return self.methods is None or request.method in self.methods

    def read(self, request: HttpRequest) -> ReadLimit | None:
        """Return the limit for a request, None for no limit."""
        rate = self.rate
        if isinstance(rate, RequestFunction):
            rate = parse_rate(rate(self.group, request))
        return None if rate is None else self._read(rate, self.key.read(self.group, request))

    async def aread(self, request: HttpRequest) -> ReadLimit | None:
        """Do what `read` does, for an async view."""
        rate = self.rate
        if isinstance(rate, RequestFunction):
            rate = parse_rate(await rate.acall(self.group, request))
        if rate is None:
            return None
        return self._read(rate, await self.key.aread(self.group, request))

    def make_key(self, digest: str) -> str:
        """Return the limit's key for a digest of what is counted."""
        return f"{self.group}:{digest}"

    def _read(self, rate: Rate, value: Value) -> ReadLimit:
        config, prepared = get_config(), self._prepared
        if prepared is None or prepared[0] is not config or prepared[1].rate is not rate:
            prepared = self._prepared = self._prepare(config, rate)
        _, limit, head, arguments = prepared
        # What a client sends may be long, or any bytes: only its digest is used.
        kind, counted = value
        hashed = self._hash.copy()
        hashed.update(kind + counted)
        digest = hashed.hexdigest()
        if head is None:
            key = limit.rule.make_key(config.prefix, self.make_key(digest))
        else:
            key = head + digest.encode()
        return self, limit, digest, (key, limit.rule.script, arguments)

    def _prepare(self, config: Config, rate: Rate) -> _Prepared:
        """Return what requests share as long as the settings and the rate are the same."""
        algorithm = self.algorithm or config.algorithm
        limit = Limit("", rate, self.cost, algorithm, self.burst, self.block)
        rule = limit.rule
        key = rule.make_key(config.prefix, self.make_key(_ANY_DIGEST))
        # For some groups, whole keys are stored as digests, which do not end with this one.
        head, digest, _ = key.partition(_ANY_DIGEST.encode())
        return config, limit, head if digest else None, rule.encode(HIT, limit.cost)


# The settings, a limit without its key, the beginning of its stored key, and the encoded
# arguments of its script.
_Prepared = tuple[Config, Limit, bytes | None, bytes]

# The limit of one request: the limit of the view, the limit without its key, the digest of what
# is counted, and the script that charges it.
ReadLimit = tuple[ViewLimit, Limit, str, ScriptCall]


def make_view_limits(limits: Limits | None, **options: Unpack[LimitOptions]) -> list[ViewLimit]:
    """Return the limits in a decorator's arguments: one, or those of `limits`.

    Raises:
        ImproperlyConfigured: one of the arguments is invalid.
    """
    given = _DEFAULTS | options
    if limits is None:
        return [_make_view_limit(given)]
    if any(given[name] is not _DEFAULTS[name] for name in ("key", "rate", "name")):
        raise ImproperlyConfigured(
            "ratelimit(limits=[…]): key, rate and name must be set for each limit separately. "
            "Give limits=[('ip', '100/m'), ('user', '1000/h')], or one key and rate."
        )
    view_limits = [_make_view_limit(given | _options(limit)) for limit in limits]
    if not view_limits:
        raise ImproperlyConfigured(
            "ratelimit(limits=[]): the list is empty. Give ('ip', '100/m'), or a dictionary."
        )
    return view_limits


def name_apart(names: Iterable[str]) -> list[str]:
    """Return unique names: "ip", "ip-2", "ip-3" for three times "ip"."""
    apart: list[str] = []
    for name in names:
        other, number = name, 1
        while other in apart:
            number += 1
            other = f"{name}-{number}"
        apart.append(other)
    return apart


def check_key_functions(limits: Sequence[ViewLimit], *, resolve: bool) -> None:
    """Raise ImproperlyConfigured if two functions with one name would share a counter.

    Args:
        resolve: whether to import functions that are given as a path; otherwise they are
            ignored.
    """
    for one, other in combinations(limits, 2):
        if not isinstance(one.key, FunctionKey) or not isinstance(other.key, FunctionKey):
            continue
        function, another = one.key.function, other.key.function
        are_there = resolve or (function.is_resolved and another.is_resolved)
        if are_there and _may_count_together(one, other) and function.is_namesake(another):
            raise _mistake(
                "key",
                "Two different functions of one view have the same name "
                f"{function.dotted_name!r}, so they would share a counter. Rename one of "
                "them, or set a group for one of the limits.",
            )


def _may_count_together(one: ViewLimit, other: ViewLimit) -> bool:
    """Return whether two limits with the same key share a counter."""
    if (one.group, one.methods, one.algorithm, one.burst) != (
        (other.group, other.methods, other.algorithm, other.burst)
    ):
        return False
    rates = (one.rate, other.rate)
    return one.rate == other.rate or any(isinstance(rate, RequestFunction) for rate in rates)


def _options(limit: object) -> LimitOptions:
    if isinstance(limit, tuple | list) and len(limit) == 2:
        return LimitOptions(key=limit[0], rate=limit[1])
    if not isinstance(limit, dict):
        raise ImproperlyConfigured(
            f"ratelimit(limits=[…]): {masked(limit)} is not a limit. Use ('ip', '100/m') or "
            "{'key': 'ip', 'rate': '100/m'}."
        )
    for option in limit:
        if option not in LimitOptions.__annotations__:
            way_out = did_you_mean(option, list(LimitOptions.__annotations__))
            raise ImproperlyConfigured(
                f"ratelimit(limits=[…]): {masked(option)} is not an option of a limit. "
                f"{way_out}"
            )
    return LimitOptions(**limit)  # type: ignore[typeddict-item]


def _make_view_limit(given: LimitOptions) -> ViewLimit:
    key = parse_key(given["key"])
    rate = _parse_rate(given["rate"])
    name = given["name"]
    _check_text("group", given["group"])
    _check_text("name", name)
    if not isinstance(given["block"], bool):
        raise _mistake("block", f"{masked(given['block'])} is neither True nor False.")
    algorithm = given["algorithm"]
    if algorithm is None and given["burst"] is not None:
        algorithm = TOKEN_BUCKET  # the only one with a burst
    view_limit = ViewLimit(
        name=name or key.name,
        group=given["group"] or "",
        key=key,
        rate=rate,
        methods=parse_methods(given["method"]),
        block=given["block"],
        cost=given["cost"],
        algorithm=algorithm,
        burst=given["burst"],
    )
    _check_limit(view_limit)
    return view_limit


def _parse_rate(rate: object) -> Rate | RequestFunction | None:
    if rate is NOT_GIVEN:
        raise _mistake("rate", "The rate is missing. Give '100/m', or None for no limit.")
    is_path = isinstance(rate, str) and "/" not in rate and "." in rate
    if is_path or callable(rate):
        return RequestFunction(rate, "ratelimit(rate=…)")  # type: ignore[arg-type]
    return parse_rate(rate)


def _check_limit(limit: ViewLimit) -> None:
    """Raise early what `Limit` would raise for every request."""
    rate = limit.rate if isinstance(limit.rate, Rate) else Rate(1, 1)
    try:
        Limit("", rate, limit.cost, limit.algorithm or SLIDING_WINDOW, limit.burst)
    except ValueError as error:
        raise _mistake("cost", str(error)) from error


def _check_text(argument: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise _mistake(argument, f"{masked(value)} is not a non-empty str.")


def _mistake(argument: str, text: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"ratelimit({argument}=…): {text}")
