"""Setting up a connection on which a node reports changed keys (CLIENT TRACKING)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

TRACK_KEYS = ("CLIENT", "TRACKING", "ON")

# A node that refused to track keys is asked again after this many seconds.
REFUSED_SECONDS = 30.0


def tracking_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of redis-py's connections with RESP3, which has pushes."""
    return {**kwargs, "protocol": 3}


def is_refusal(error: Exception) -> bool:
    """Return whether an error means that the node does not track keys for this user."""
    return isinstance(error, redis.ResponseError)
