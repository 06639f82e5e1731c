"""Rate limits, counted on the nodes of a cluster."""

from __future__ import annotations

from .decorator import aget_usage, ais_ratelimited, get_usage, is_ratelimited, ratelimit
from .exceptions import Ratelimited
from .limiter import Limiter, limiter
from .limits import Limit, Usage
from .methods import ALL, UNSAFE
from .mixins import RatelimitMixin
from .rates import Rate, parse_rate

__all__ = [
    "ALL",
    "UNSAFE",
    "Limit",
    "Limiter",
    "Rate",
    "RatelimitMixin",
    "Ratelimited",
    "Usage",
    "aget_usage",
    "ais_ratelimited",
    "get_usage",
    "is_ratelimited",
    "limiter",
    "parse_rate",
    "ratelimit",
]
