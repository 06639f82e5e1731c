"""The client that sends each command to the node that owns its keys, and returns the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import redis
from redis.client import EMPTY_RESPONSE

from ..errors import NodeFailure, first_error
from ..protocol.encoding import Args
from ..protocol.exchange import Batch
from ..rounds.commands import run_commands
from ..rounds.scans import Cursors, first_cursors, scan
from .base import ManyNodes, ManyNodesClient, decoded, node_failures
from .fanout import FanoutClient
from .locks import ARGUMENTS_BEFORE_CLASS, Lock
from .managers import Fanned, Hosts, MapManager, Mapped
from .mapping import MappingClient
from .port import ClientPort


class Routing(ManyNodes):
    """The base of the routing clients for threads and event loops.

    Args:
        timeout: seconds for each command; None without limit.

    Attributes:
        is_for_primaries: replicas are not asked, whatever READ_FROM says.
    """

    def __init__(
        self,
        cluster: ClientPort,
        *,
        timeout: float | None = None,
        auto_batch: bool = True,
        like: object | None = None,
    ) -> None:
        super().__init__(cluster, auto_batch=auto_batch, like=like)
        self._command_timeout = timeout
        self.is_for_primaries = False

    def _call(self, sent: Args, options: Mapping[str, Any]) -> Batch[Any]:
        owners, commands, combine = self._route(sent)
        cluster = self._cluster
        replies = yield from run_commands(owners, commands, for_primary=self.is_for_primaries)
        for reply in replies:
            if isinstance(reply, Exception):
                raise first_error(node_failures(cluster, owners, commands, replies))
        reply = replies[0] if combine is None else combine(replies)
        return self._convert(cast(str, sent[0]), reply, options)

    def _scan_options(self, match: Any, count: int | None, kind: str | None) -> Args:
        options: list[Any] = []
        for name, value in ((b"MATCH", match), (b"COUNT", count), (b"TYPE", kind)):
            if value is not None:
                options += (name, value)
        return self._sendable(tuple(options))

    def _scan(
        self, cursors: Cursors | None, options: Args
    ) -> Batch[tuple[Cursors, list[Any], list[NodeFailure]]]:
        """Read the next page of each node that has more keys; the first page of all at first.

        Returns the cursors of the nodes that still have more, the keys, and what failed.
        """
        if cursors is None:
            cursors = first_cursors(self._cluster)
        rest, pages, failures = yield from scan(self._cluster, cursors, options)
        found = [key for keys in pages.values() for key in keys]
        if self._decode is not None:
            found = decoded(found, self._decode)
        return rest, found, failures


class RoutingClient(Routing, ManyNodesClient):
    """Each command goes to the node that owns its keys, and returns its result.

    client = cluster.get_routing_client()
    client.set("page:1", "text")
    client.mget("page:1", "page:2")       # asks all nodes in parallel

    Safe to share between threads.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and return its result.

        Raises:
            UnroutableCommand: its keys are on several nodes, or it has none.
        """
        if EMPTY_RESPONSE in options and len(args) == 1:  # mget([])
            return options[EMPTY_RESPONSE]
        call = self._call(self._sendable(args), options)
        return self._cluster.run(call, self._command_timeout)

    def lock(self, *args: Any, **options: Any) -> Any:
        """Return a redis-py lock on the node that owns its name.

        with client.lock("report", timeout=30):
            …

        If the name moves to another node, as in a Redis Cluster, the lock follows it.

        The arguments are those of redis-py's `Redis.lock`.
        """
        if len(args) <= ARGUMENTS_BEFORE_CLASS:
            options.setdefault("lock_class", Lock)
        return redis.Redis.lock(self, *args, **options)

    def scan_iter(
        self,
        match: Any = None,
        count: int | None = None,
        _type: str | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield the keys of all nodes, scanning all nodes in parallel, page by page.

        Memory use is constant. As with SCAN, a key may be returned twice.

        Args:
            match: glob pattern.
            count: how many keys a node looks at for one page.
            _type: only keys of this type: "string", "hash" …
        """
        options = self._scan_options(match, count, _type)
        cursors: Cursors | None = None
        while cursors or cursors is None:
            cursors, keys, failures = self._cluster.run(
                self._scan(cursors, options), self._command_timeout
            )
            yield from keys
            if failures:
                raise first_error(failures)

    def script_load(self, script: Any) -> str:
        """Keep a script and return its SHA1 digest; nodes load it when it is first used."""
        return self._keep_script(script)

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[Mapped]:
        """Return a context manager whose commands return promises; see `Cluster.map`."""
        return MapManager(self.get_mapping_client(max_concurrency, auto_batch), timeout)

    def fanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[Fanned]:
        """Return a context manager for commands to chosen hosts; see `Cluster.fanout`."""
        return MapManager(self.get_fanout_client(hosts, max_concurrency, auto_batch), timeout)

    def get_mapping_client(
        self, max_concurrency: int | None = 64, auto_batch: bool | None = None
    ) -> Mapped:
        """Return a client whose promises are settled by its `join()`; not thread-safe."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        client = MappingClient(self._cluster, max_concurrency, auto_batch=auto_batch, like=self)
        return cast(Mapped, client)

    def get_fanout_client(
        self,
        hosts: Hosts | None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> Fanned:
        """Return a client for chosen hosts; its `join()` settles its promises."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        client = FanoutClient(
            self._cluster, hosts, max_concurrency, auto_batch=auto_batch, like=self
        )
        return cast(Fanned, client)
