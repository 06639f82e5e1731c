"""rb's tools for tests, with rb's names, based on `LocalNodes`.

from django_rb.testing.rb import make_test_cluster

with make_test_cluster() as cluster:
    cluster.get_routing_client().set("key", "value")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from django_rb.engine import Cluster

from .nodes import LocalNodes


class TestSetup:
    """A few servers on unix sockets, for clusters that use their databases as nodes.

    Args:
        servers: how many servers.
        databases_each: how many databases each of them has.
        server_executable: the server to run, by default that of `find_server`.
    """

    __test__ = False  # for pytest, which collects every class named Test…

    def __init__(
        self, servers: int = 4, databases_each: int = 8, server_executable: str | None = None
    ) -> None:
        self.databases_each = databases_each
        self.nodes = LocalNodes(
            servers,
            program=server_executable,
            options={"databases": str(databases_each)},
            unix_sockets=True,
        ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def make_cluster(self) -> Cluster:
        """Return a cluster of all databases of all servers; its replies are text."""
        hosts = [
            {**host, "db": db}
            for host in self.nodes.hosts.values()
            for db in range(self.databases_each)
        ]
        return Cluster(hosts, pool_options={"encoding": "utf-8", "decode_responses": True})

    def close(self) -> None:
        """Stop the servers. Does nothing the second time."""
        self.nodes.stop()


@contextmanager
def make_test_cluster(
    servers: int = 4, databases_each: int = 8, server_executable: str | None = None
) -> Iterator[Cluster]:
    """Provide a cluster on its own servers for the duration of a ``with`` block.

    It has a node for each database of each server; see `TestSetup`.
    """
    with TestSetup(servers, databases_each, server_executable) as setup:
        cluster = setup.make_cluster()
        try:
            yield cluster
        finally:
            cluster.disconnect_pools()
