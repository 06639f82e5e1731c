"""Parses replies of nodes."""

from __future__ import annotations

from typing import Any


def fields(reply: Any) -> dict[str, str]:
    """Return the fields of INFO by name; none if it is not such a reply."""
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines)}
