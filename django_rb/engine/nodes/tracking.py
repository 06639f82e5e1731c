"""How a connection is set up on which a node tells of changes, and what it may say to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

TRACK_KEYS = ("CLIENT", "TRACKING", "ON")

# A node that did not track keys is asked again after so many seconds.
REFUSED_SECONDS = 30.0


def tracking_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of redis-py's connections for one that tells of changes: RESP3."""
    return {**kwargs, "protocol": 3}


def is_refusal(error: Exception) -> bool:
    """Return whether a node has said that it does not track keys, or not for this user."""
    return isinstance(error, redis.ResponseError)
