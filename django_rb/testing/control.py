"""Stops and starts nodes of another process of the same user."""

from __future__ import annotations

import json
import socket

from .discovery import NodesError

SECONDS = 30.0  # longer than a node may take to start


def ask(control: str, do: str, host_id: int) -> None:
    """Make another process stop ("kill") or start ("restart") one of its nodes.

    Args:
        control: the `LocalNodes.control` of that process.

    Raises NodesError if there is no such process or node, or if the node does not start.
    """
    request = json.dumps({"do": do, "node": host_id}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rb") as lines:
            line.settimeout(SECONDS)
            line.connect(control)
            line.sendall(request)
            answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise NodesError(f"The nodes of {control} cannot be controlled: {error}") from error
    if "error" in answer:
        raise NodesError(answer["error"])
