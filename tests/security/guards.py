"""Nodes that know users and passwords."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from redis.utils import str_if_bytes

from django_rb.testing import LocalNodes
from tests.helpers import Servers

_ADMIN = {"username": "guard", "password": "guards-own"}


class Guards:
    """Changes the users of nodes, and lets everybody in again at the end.

    Attributes:
        hosts: the nodes as in HOSTS, without credentials.
        servers: the servers, asked as a user of their own.
    """

    def __init__(self, nodes: LocalNodes) -> None:
        self.hosts = nodes.hosts
        for host in self.hosts.values():
            with Servers({0: host}) as servers:
                servers.ask(0, "ACL", "SETUSER", "guard", "reset", "on", ">guards-own",
                            "~*", "&*", "+@all")  # fmt: skip
        self.servers = Servers({i: {**host, **_ADMIN} for i, host in self.hosts.items()})

        for host_id in self.hosts:
            self.servers.ask(host_id, "ACL", "LOG", "RESET")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for host_id in self.hosts:
            users = {name.decode() for name in self.servers.ask(host_id, "ACL", "USERS")}
            if strangers := users - {"default", "guard"}:
                self.servers.ask(host_id, "ACL", "DELUSER", *strangers)
            self.servers.ask(host_id, "CONFIG", "SET", "requirepass", "")
            self.servers.ask(host_id, "ACL", "SETUSER", "default", "reset", "on", "nopass",
                             "~*", "&*", "+@all")  # fmt: skip
            self.servers.ask(host_id, "FLUSHALL")
        self.servers.__exit__(kind, error, traceback)

    def set_user(self, name: str, *rules: str) -> None:
        """Set a user's rules on every node."""
        for host_id in self.hosts:
            self.servers.ask(host_id, "ACL", "SETUSER", name, "reset", "on", *rules)

    def require_password(self, password: str) -> None:
        """Let the default user in with this password only (as `requirepass` does)."""
        for host_id in self.hosts:
            self.servers.ask(host_id, "CONFIG", "SET", "requirepass", password)

    def close_the_door(self) -> None:
        """Let nobody in who names no user."""
        for host_id in self.hosts:
            self.servers.ask(host_id, "ACL", "SETUSER", "default", "off", "resetpass")

    def hang_up(self, user: str) -> None:
        """End the connections of a user."""
        for host_id in self.hosts:
            self.servers.ask(host_id, "CLIENT", "KILL", "USER", user)

    def hosts_with(self, **options: Any) -> dict[int, dict[str, Any]]:
        """Return the nodes as in HOSTS, each with these options."""
        return {host_id: {**host, **options} for host_id, host in self.hosts.items()}

    def refused(self) -> set[str]:
        """Return the commands and keys that users were refused, as the ACL LOG has them."""
        found: set[str] = set()
        for host_id in self.hosts:
            for entry in self.servers.ask(host_id, "ACL", "LOG"):
                # What an entry is depends on the version of redis-py.
                named = (
                    entry
                    if isinstance(entry, dict)
                    else dict(zip(*[iter(entry)] * 2, strict=True))
                )
                found |= {
                    str_if_bytes(v) for k, v in named.items() if str_if_bytes(k) == "object"
                }
        return found
