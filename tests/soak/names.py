"""The names of a soak's nodes: chaos says what they resolve to, and workers look that up.

They stand in for a name server: a file says of each name which address it has, how many
seconds a look-up takes, and which error it ends with.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

HOME, AWAY = "127.0.0.1", "127.0.0.2"  # on Linux, all of 127.0.0.0/8 is this machine

_SUFFIX = ".soak"


class Names:
    """The names of nodes, for chaos."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: dict[str, dict[str, Any]] = {}

    def name(self, host_id: int) -> str:
        """Return the name of a node."""
        return f"node{host_id}{_SUFFIX}"

    def say(
        self, host_id: int, address: str, seconds: float = 0.0, error: int | None = None
    ) -> None:
        """Let a node's name resolve to an address, or to an error, after some seconds."""
        self._said[self.name(host_id)] = {
            "address": address,
            "seconds": seconds,
            "error": error,
        }
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self._said))
        draft.replace(self.path)


def look_up_in(path: str) -> None:
    """Let this process look the names of nodes up in a file."""
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(_SUFFIX):
            return system(host, port, *args, **options)
        said = json.loads(Path(path).read_text())[host]
        time.sleep(said["seconds"])
        if said["error"] is not None:
            raise socket.gaierror(said["error"], "said by the soak")
        return system(said["address"], port, *args, **options)

    socket.getaddrinfo = getaddrinfo
