"""Runs commands on nodes of several clusters, and scans their keys page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from ..engine import Cluster
from ..engine.protocol.encoding import Args
from ..engine.rounds.by_slot import owned
from ..engine.rounds.commands import run_commands
from .base import NodeName, at_once
from .output import Progress

PAGE_SIZE = 1000  # keys that a node scans per command; takes well below a millisecond

Pages = dict[NodeName, list[bytes]]


class Nodes:
    """Nodes of several clusters. Failed nodes are recorded, and not asked again.

    A database that several clusters share is included once, under its first name.

    Args:
        follows_redirects: whether a node that is no primary any more may send commands to the
            one that is.

    Attributes:
        addresses: the address of each node, by name.
        failures: the errors of failed nodes, by name.
    """

    def __init__(
        self,
        clusters: Mapping[str, Cluster],
        timeout: float | None = None,
        *,
        follows_redirects: bool = True,
    ) -> None:
        self._clusters = clusters
        self._timeout = timeout
        self._follows_redirects = follows_redirects
        names: dict[str, NodeName] = {}
        for alias, cluster in clusters.items():
            for host_id, info in cluster.hosts.items():
                names.setdefault(info.address, (alias, host_id))
        self.addresses = {node: address for address, node in names.items()}
        self.failures: dict[NodeName, Exception] = {}

    def run(
        self, commands: Mapping[NodeName, Sequence[Args]], *, keep_errors: bool = False
    ) -> dict[NodeName, list[Any]]:
        """Run commands on several nodes in parallel.

        Args:
            keep_errors: whether error replies are returned, and do not count as failures.

        Returns:
            The replies of the nodes that have not failed.
        """
        by_alias: dict[str, dict[int, Sequence[Args]]] = {}
        for (alias, host_id), sent in commands.items():
            if sent and (alias, host_id) not in self.failures:
                by_alias.setdefault(alias, {})[host_id] = sent
        kept = ResponseError if keep_errors else ()
        replies: dict[NodeName, list[Any]] = {}
        for alias, answers in self._run_each(by_alias).items():
            for host_id, answer in answers.items():
                errors = [reply for reply in answer if isinstance(reply, Exception)]
                failure = next((e for e in errors if not isinstance(e, kept)), None)
                if failure is None:
                    replies[alias, host_id] = answer
                else:
                    self.failures[alias, host_id] = failure
        return replies

    def _run_each(
        self, by_alias: Mapping[str, Mapping[int, Sequence[Args]]]
    ) -> dict[str, dict[int, list[Any]]]:
        tasks = {
            alias: partial(
                run_pipelines,
                self._clusters[alias],
                pipelines,
                self._timeout,
                follows_redirects=self._follows_redirects,
            )
            for alias, pipelines in by_alias.items()
        }
        if len(tasks) == 1:  # the usual case, which needs no thread
            return {alias: task() for alias, task in tasks.items()}
        replies: dict[str, dict[int, list[Any]]] = {}
        for alias, outcome in at_once(tasks).items():
            if isinstance(outcome, Exception):
                raise outcome
            replies[alias] = outcome
        return replies

    def sizes(self) -> dict[NodeName, int]:
        """Return the number of keys of each node."""
        replies = self.run(dict.fromkeys(self.addresses, (("DBSIZE",),)))
        return {node: size for node, (size,) in replies.items()}

    def scan(
        self,
        pattern: bytes,
        sizes: Mapping[NodeName, int],
        progress: Progress,
        *,
        page_size: int = PAGE_SIZE,
        kind: str | None = None,
    ) -> Iterator[Pages]:
        """Yield keys by node, a page from every node at a time; a key may be returned twice.

        Args:
            pattern: for SCAN MATCH.
            sizes: the nodes to scan, and how many keys they have.
            progress: updated with the number of keys that were scanned.
            page_size: how many keys a node scans for one page. It is doubled up to PAGE_SIZE
                as long as nothing is found, as matches may be rare.
            kind: only keys of this type: "string", "hash" …
        """
        options: Args = (b"MATCH", pattern, *((b"TYPE", kind) if kind else ()))
        cursors = dict.fromkeys(sizes, b"0")
        left = dict(sizes)
        at: dict[NodeName, object] = {}
        while cursors:
            # A cursor means nothing to another node than the one that returned it.
            for node in cursors:
                if at.setdefault(node, self._node(node)) is not self._node(node):
                    cursors[node], at[node] = b"0", self._node(node)
            replies = self.run(
                {
                    node: [("SCAN", cursor, *options, b"COUNT", page_size)]
                    for node, cursor in cursors.items()
                }
            )
            pages: Pages = {}
            cursors = {}
            for node, ((cursor, keys),) in replies.items():
                pages[node] = keys
                looked_at = left[node]
                if cursor != b"0" or at[node] is not self._node(node):
                    cursors[node] = cursor
                    looked_at = min(looked_at, page_size)
                left[node] -= looked_at
                progress.add(looked_at)
            pages = self._owned(pages)
            if not any(pages.values()):
                page_size = max(page_size, min(PAGE_SIZE, 2 * page_size))
            yield pages

    def _node(self, name: NodeName) -> object:
        alias, host_id = name
        return self._clusters[alias].nodes.get(host_id)

    def _owned(self, pages: Pages) -> Pages:
        """Leave out keys that are migrating from one node of a Redis Cluster to another."""
        kept = dict(pages)
        for alias, cluster in self._clusters.items():
            if cluster.layout is not None and cluster.router.has_slots:
                found = {host: keys for (name, host), keys in pages.items() if name == alias}
                for host, keys in cluster.run(owned(cluster, cluster.layout, found)).items():
                    kept[alias, host] = keys
        return kept

    def delete(self, pages: Pages) -> dict[NodeName, int]:
        """Delete keys where they were found; return how many still existed, by node."""
        unlinks = {node: self._unlinks(node, keys) for node, keys in pages.items()}
        return {node: sum(counts) for node, counts in self.run(unlinks).items()}

    def _unlinks(self, node: NodeName, keys: Sequence[bytes]) -> list[Args]:
        """Return the commands that delete keys on a node."""
        router = self._clusters[node[0]].router
        if not router.has_slots:
            return [("UNLINK", *keys)] if keys else []
        by_slot: dict[int, list[bytes]] = {}
        for key, slot in zip(keys, router.get_places(keys), strict=True):
            by_slot.setdefault(slot, []).append(key)
        return [("UNLINK", *share) for share in by_slot.values()]


def run_pipelines(
    cluster: Cluster,
    pipelines: Mapping[int, Sequence[Args]],
    timeout: float | None,
    *,
    follows_redirects: bool = True,
) -> dict[int, list[Any]]:
    """Run commands on each node; return replies, including errors, by host id."""
    owners = [host_id for host_id, commands in pipelines.items() for _ in commands]
    sent = [command for commands in pipelines.values() for command in commands]
    batch = run_commands(owners, sent, for_primary=True, follows_redirects=follows_redirects)
    answers = iter(cluster.run(batch, timeout))
    return {
        host_id: [next(answers) for _ in commands] for host_id, commands in pipelines.items()
    }
