"""Parsing the replies of Sentinels about shards, and of nodes about themselves.

https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-commands
https://redis.io/docs/latest/commands/role/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .slots_replies import Address


def read_address(reply: Any) -> Address | None:
    """Return the host and port of a reply to SENTINEL GET-MASTER-ADDR-BY-NAME.

    None for a Sentinel that does not know the name, and for what is no such reply.
    """
    if not isinstance(reply, list) or len(reply) != 2:
        return None
    host, port = map(_text, reply)
    return (host.lower(), int(port)) if host and port.isdecimal() else None


def read_replicas(reply: Any) -> list[Address]:
    """Return where replicas are that a Sentinel reaches, from a reply to SENTINEL REPLICAS."""
    places: list[Address] = []
    for entry in map(as_dict, reply if isinstance(reply, list) else ()):
        flags = entry.get("flags", "").split(",")
        place = read_address([entry.get("ip", ""), entry.get("port", "")])
        # One that is "disconnected" may just be being promoted.
        if place is not None and not {"s_down", "o_down"} & {*flags}:
            places.append(place)
    return sorted(places)


def read_epoch(reply: Any) -> int:
    """Return the number of a shard's last failover from a reply to SENTINEL MASTER, or 0."""
    number = as_dict(reply).get("config-epoch", "")
    return int(number) if number.isdecimal() else 0


def read_primary_for(reply: Any) -> tuple[Address, float] | None:
    """Return the primary in a reply to SENTINEL MASTER, and the seconds that it has been one.

    This is the role that the node has reported to the Sentinel. None if it is another role.
    """
    said = as_dict(reply)
    milliseconds = said.get("role-reported-time", "")
    place = read_address([said.get("ip", ""), said.get("port", "")])
    if said.get("role-reported") != "master" or place is None or not milliseconds.isdecimal():
        return None
    return place, int(milliseconds) / 1000


def read_role(reply: Any) -> str:
    """Return the role of a node from its reply to ROLE; "" if this is no such reply."""
    return _text(reply[0]) if isinstance(reply, list) and reply else ""


def as_dict(reply: Any) -> Mapping[str, str]:
    """Return a dictionary, from a flat list in RESP2."""
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    if not isinstance(reply, list):
        return {}
    return {
        _text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)
    }


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
