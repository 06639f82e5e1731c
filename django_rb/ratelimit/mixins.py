"""Limits for class-based views, sync and async."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.views import View

from .decorator import make_guard
from .guard import Guard
from .methods import ALL, Methods
from .view_limits import NOT_GIVEN, LimitOptions, Limits, make_view_limits

if TYPE_CHECKING:
    _Base = View
else:
    _Base = object


class RatelimitMixin(_Base):
    """Limits a class-based view; put it in front of the view's class.

    class Search(RatelimitMixin, ListView):
        ratelimit_key = "ip"
        ratelimit_rate = "100/m"

    Attributes:
        ratelimit_key, ratelimit_rate, ratelimit_group, ratelimit_method, ratelimit_block,
        ratelimit_limits, ratelimit_cost, ratelimit_algorithm, ratelimit_burst: the
            arguments of the decorator. The group is the class by default.

    Raises:
        ImproperlyConfigured: when the class is defined, if an attribute is invalid; in
            `as_view()`, if there is no limit.
    """

    ratelimit_group: ClassVar[str | None] = None
    ratelimit_key: ClassVar[Any] = None
    ratelimit_rate: ClassVar[Any] = NOT_GIVEN
    ratelimit_method: ClassVar[Methods] = ALL
    ratelimit_block: ClassVar[bool] = True
    ratelimit_limits: ClassVar[Limits | None] = None
    ratelimit_cost: ClassVar[int] = 1
    ratelimit_algorithm: ClassVar[str | None] = None
    ratelimit_burst: ClassVar[int | None] = None

    _guard: ClassVar[Guard | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if View in cls.__mro__[: cls.__mro__.index(RatelimitMixin)]:
            raise ImproperlyConfigured(
                f"{cls.__qualname__} would not be limited: RatelimitMixin must come before "
                "the view class."
            )
        if cls.ratelimit_key is None and cls.ratelimit_limits is None:
            return  # a base class for others
        if cls.ratelimit_limits is not None:  # subclasses read it again
            cls.ratelimit_limits = list(cls.ratelimit_limits)
        options = {
            option: getattr(cls, f"ratelimit_{option}")
            for option in LimitOptions.__annotations__
            if hasattr(cls, f"ratelimit_{option}")
        }
        view_limits = make_view_limits(cls.ratelimit_limits, **options)
        cls._guard = make_guard(view_limits, f"{cls.__module__}.{cls.__qualname__}")

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view as Django does; `initkwargs` may also contain limits."""
        own = {
            name: initkwargs.pop(name)
            for name in list(initkwargs)
            if name.startswith("ratelimit_") and hasattr(cls, name)
        }
        if own:
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
            limited: type[RatelimitMixin] = type(cls.__name__, (cls,), {**names, **own})
            return limited.as_view(**initkwargs)
        cls._get_guard()
        return super().as_view(**initkwargs)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Check the limits, then dispatch to the view."""
        guard = self._get_guard()
        view = partial(super().dispatch, request, *args, **kwargs)
        if getattr(self, "view_is_async", False):
            return guard.arun(request, view)  # type: ignore[arg-type]
        return guard.run(request, view)

    @classmethod
    def _get_guard(cls) -> Guard:
        if cls._guard is None:
            raise ImproperlyConfigured(
                f"{cls.__qualname__} has no limit. Set ratelimit_key and ratelimit_rate, or "
                "ratelimit_limits."
            )
        return cls._guard
