"""@ratelimit, with the arguments and the meaning that django-ratelimit gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .conf import get_config
from .guard import Guard, make_limits
from .keys import is_by_address
from .limiter import limiter
from .limits import Usage
from .methods import ALL, UNSAFE, Methods
from .view_limits import NOT_GIVEN, Limits, ViewLimit, make_view_limits

View = TypeVar("View", bound=Callable[..., Any])
P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)

_GUARDED = "_django_rb_guarded"

# For `manage.py check`: the views that are limited, and those that are by addresses.
limited_views: set[str] = set()
views_by_address: set[str] = set()


class WithMethods(Protocol[P, T_co]):
    """A function with `ALL` and `UNSAFE`, as those of django-ratelimit have them."""

    ALL: tuple[None]
    UNSAFE: tuple[str, ...]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function."""


def _with_methods(function: Callable[P, T_co]) -> WithMethods[P, T_co]:
    extended: Any = function
    extended.ALL, extended.UNSAFE = ALL, UNSAFE
    return cast(WithMethods[P, T_co], extended)


@_with_methods
def ratelimit(
    group: str | None = None,
    key: Any = None,
    rate: Any = NOT_GIVEN,
    method: Methods = ALL,
    block: bool = True,
    *,
    limits: Limits | None = None,
    cost: int = 1,
    algorithm: str | None = None,
    burst: int | None = None,
    name: str | None = None,
) -> Callable[[View], View]:
    """Limit how often a view may be asked for.

    @ratelimit(key="ip", rate="100/m")
    def search(request): …

    @ratelimit(limits=[("ip", "100/m"), ("user", "1000/h")])
    async def prices(request): …

    Several decorators on one view work as one: their limits are checked in parallel.

    Args:
        group: what is counted together; by default the view.
        key: "ip", "user", "user_or_ip", "get:field", "post:field", "header:name", a
            function ``(group, request)`` or its dotted path.
        rate: "100/m", (100, 60), None for no limit, or a function ``(group, request)``
            that returns one, or its dotted path.
        method: the HTTP method or methods that are limited, `UNSAFE` or `ALL`.
        block: refuse a request that is over the limit; if False, only set `request.limited`.
        limits: several limits: pairs ``(key, rate)``, or dictionaries with any of these
            arguments; the other arguments apply to each of them.
        cost: what one request is charged.
        algorithm: "sliding-window", "fixed-window" or "token-bucket"; by default
            RATELIMIT_ALGORITHM.
        burst: how many requests a full bucket has room for; for "token-bucket".
        name: the limit's name in the header fields of responses; by default the key.

    Raises:
        ImproperlyConfigured: an argument is invalid; raised when the view is decorated.
    """
    view_limits = make_view_limits(
        limits,
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
    return partial(_guarded, view_limits)


@_with_methods
def is_ratelimited(
    request: HttpRequest,
    group: str | None = None,
    fn: Callable[..., Any] | None = None,
    key: Any = None,
    rate: Any = NOT_GIVEN,
    method: Methods = ALL,
    increment: bool = False,
) -> bool:
    """Return whether a request is over a limit; with `increment`, count the request.

    is_ratelimited(request, group="login", key="ip", rate="5/m", increment=True)

    Without `increment`, return whether one more request would be refused.

    Args:
        group: what is counted together.
        fn: a view, whose name is the group.
        key, rate, method: as the decorator takes them.

    Raises:
        ImproperlyConfigured: neither `group` nor `fn` is given, or an argument is invalid.
    """
    usage = get_usage(request, group, fn, key, rate, method, increment)
    return usage is not None and bool(usage["should_limit"])


@_with_methods
async def ais_ratelimited(
    request: HttpRequest,
    group: str | None = None,
    fn: Callable[..., Any] | None = None,
    key: Any = None,
    rate: Any = NOT_GIVEN,
    method: Methods = ALL,
    increment: bool = False,
) -> bool:
    """Do what `is_ratelimited` does, in async code."""
    usage = await aget_usage(request, group, fn, key, rate, method, increment)
    return usage is not None and bool(usage["should_limit"])


@_with_methods
def get_usage(
    request: HttpRequest,
    group: str | None = None,
    fn: Callable[..., Any] | None = None,
    key: Any = None,
    rate: Any = NOT_GIVEN,
    method: Methods = ALL,
    increment: bool = False,
) -> dict[str, Any] | None:
    """Return how much of a limit is used; the arguments are those of `is_ratelimited`.

    Returns:
        A dictionary with the `count` of requests, the `limit`, `should_limit`, and `time_left`,
        the whole seconds until the limit is unused again; None if the request is not limited.
        If a node failed it is None, or with RATELIMIT_FAIL_OPEN = False a refusal with a
        `time_left` of -1.
    """
    view_limit = _find_one(request, group, fn, key, rate, method)
    read = view_limit and view_limit.read(request)
    if not read:
        return None
    return _usage_dict(limiter.check(make_limits([read]), charge=increment))


@_with_methods
async def aget_usage(
    request: HttpRequest,
    group: str | None = None,
    fn: Callable[..., Any] | None = None,
    key: Any = None,
    rate: Any = NOT_GIVEN,
    method: Methods = ALL,
    increment: bool = False,
) -> dict[str, Any] | None:
    """Do what `get_usage` does, in async code."""
    view_limit = _find_one(request, group, fn, key, rate, method)
    read = view_limit and await view_limit.aread(request)
    if not read:
        return None
    return _usage_dict(await limiter.acheck(make_limits([read]), charge=increment))


def view_name(view: Callable[..., Any]) -> str:
    """Return the dotted name of a view, which is its group.

    That of a method has its object's class, and not the one which defines it; that of
    ``SomeView.as_view()`` is the class's.
    """
    function = view.func if isinstance(view, partial) else view
    owner = getattr(function, "__self__", None)
    if owner is not None and hasattr(view, "__name__"):
        return f"{_dotted(type(owner))}.{view.__name__}"
    return _dotted(getattr(view, "view_class", function))


def _shown_name(group: str) -> str:
    """Return the name of a view as `manage.py check` shows it."""
    # method_decorator() first calls a decorator with a function of django.utils.decorators.
    return "a class-based view" if group.startswith("django.utils.decorators.") else group


def make_guard(view_limits: Sequence[ViewLimit], group: str) -> Guard:
    """Return the guard of a view, and register the view for `manage.py check`."""
    guard = Guard(view_limits, group)
    shown = _shown_name(group)
    limited_views.add(shown)
    if any(is_by_address(view_limit.key) for view_limit in view_limits):
        views_by_address.add(shown)
    return guard


def _guarded(view_limits: list[ViewLimit], view: View) -> View:
    """Return a view behind limits; one that has limits already gets these in front of them."""
    inner = getattr(view, _GUARDED, None)
    if inner is not None and inner.wrapper is view:
        view_limits, view = [*view_limits, *inner.guard.limits], inner.view
    guard = make_guard(view_limits, view_name(view))
    wrapper = _async_wrapper(guard, view) if _is_async(view) else _sync_wrapper(guard, view)
    setattr(wrapper, _GUARDED, _Guarded(guard, view, wrapper))
    return cast(View, wrapper)


class _Guarded:
    """The view that a wrapper wraps. Other decorators copy it to their own wrappers."""

    __slots__ = ("guard", "view", "wrapper")

    def __init__(self, guard: Guard, view: Any, wrapper: Any) -> None:
        self.guard = guard
        self.view = view
        self.wrapper = wrapper


def _sync_wrapper(guard: Guard, view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return guard.run(request, partial(view, request, *args, **kwargs))

    return wrapper


def _async_wrapper(guard: Guard, view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    async def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return await guard.arun(request, partial(view, request, *args, **kwargs))

    return wrapper


def _is_async(view: Callable[..., Any]) -> bool:
    """Return whether a view is awaited; the dispatch() of an async class is no coroutine."""
    function = view.func if isinstance(view, partial) else view
    owner = getattr(function, "__self__", None)
    return iscoroutinefunction(view) or (
        getattr(owner, "view_is_async", False) and view.__name__ == "dispatch"
    )


def _find_one(
    request: HttpRequest,
    group: str | None,
    fn: Callable[..., Any] | None,
    key: Any,
    rate: Any,
    method: Methods,
) -> ViewLimit | None:
    """Return the limit that these arguments name, None if it does not apply to a request."""
    if group is None and fn is None:
        raise ImproperlyConfigured(
            "A group is missing: requests of one group are counted together. Give "
            "group='login', or the view as fn=login."
        )
    group = group or view_name(cast(Callable[..., Any], fn))
    (limit,) = make_view_limits(None, group=group, key=key, rate=rate, method=method)
    return limit if get_config().enable and limit.applies(request) else None


def _usage_dict(usages: Sequence[Usage]) -> dict[str, Any] | None:
    (usage,) = usages
    if usage.error and usage.allowed:
        return None
    if usage.error:
        return {"count": 0, "limit": 0, "should_limit": True, "time_left": -1}
    return {
        "count": usage.used,
        "limit": usage.limit.capacity,
        "should_limit": not usage.allowed,
        "time_left": math.ceil(usage.reset),
    }


def _dotted(thing: Any) -> str:
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    own = getattr(thing, "__name__", name)
    if name.rpartition(".")[2] != own:  # renamed, as the classes that DRF's api_view() makes
        name = own
    return f"{getattr(thing, '__module__', type(thing).__module__)}.{name}"
