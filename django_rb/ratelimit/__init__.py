"""Rate limits, counted on the nodes of a cluster."""

from __future__ import annotations

from .limiter import Limit, Limiter, Usage, limiter
from .rates import Rate, parse_rate

__all__ = ["Limit", "Limiter", "Rate", "Usage", "limiter", "parse_rate"]
