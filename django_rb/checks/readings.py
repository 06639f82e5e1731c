"""How what nodes say is read."""

from __future__ import annotations

from typing import Any


def fields(reply: Any) -> dict[str, str]:
    """Return the fields of INFO by name; none where there is no such answer."""
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines)}
