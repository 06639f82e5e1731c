"""The names that OPTIONS of a cache may have, and which of them are secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .signing import SIGNING_OPTIONS, Secret

OPTIONS = (
    "COMPRESSOR",
    "COMPRESS_MIN_BYTES",
    "CULL_FREQUENCY",  # Django's own; the server evicts by its maxmemory-policy
    "DEADLINE",
    "MAX_ENTRIES",  # likewise
    "ON_NODE_ERROR",
    "REVERSE_KEY_FUNCTION",
    "SERIALIZER",
    *SIGNING_OPTIONS,
)


def without_secrets(options: Any) -> Any:
    """Return OPTIONS, secret values and those of misspelt options as Secret objects."""
    if not isinstance(options, Mapping):
        return options
    shown = frozenset(OPTIONS).difference(SIGNING_OPTIONS)
    return {name: value if name in shown else Secret(value) for name, value in options.items()}
