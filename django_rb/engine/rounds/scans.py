"""Batches that scan the keys of all nodes, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from ..errors import NodeFailure
from ..protocol.answers import is_number, is_page
from ..protocol.encoding import Args
from ..protocol.exchange import Batch
from .batch import call_each, count
from .by_slot import owned
from .outcomes import Outcome
from .port import Port

# The cursors of scans, by host id.
Cursors = dict[int, bytes]


class _Cursor(bytes):
    """A cursor and its node: it is valid only for this node."""

    node: object = None


def first_cursors(port: Port) -> Cursors:
    """Return the cursors with which a scan of all nodes begins."""
    return dict.fromkeys(port.nodes, b"0")


def scan(
    port: Port, cursors: Cursors, options: Args
) -> Batch[tuple[Cursors, Mapping[int, list[bytes]], list[NodeFailure]]]:
    """Read a page of keys on each node that has more.

    Args:
        cursors: those of the previous page, or `first_cursors`.
        options: the options of SCAN.

    Returns the cursors of the nodes that still have more, keys by host id, and what failed.
    """
    nodes = port.nodes
    pages, failures = yield from call_each(
        port,
        {
            host_id: (b"SCAN", _cursor_for(nodes[host_id], cursor), *options)
            for host_id, cursor in cursors.items()
            if host_id in nodes  # one may have left the cluster meanwhile
        },
        is_page,
    )
    rest: Cursors = {}
    for host_id, (cursor, _) in pages.items():
        node = port.nodes.get(host_id)
        if node is not nodes[host_id]:
            rest[host_id] = b"0"  # it was replaced while it was asked
        elif cursor != b"0":
            rest[host_id] = further = _Cursor(cursor)
            further.node = node
    keys = {host_id: found for host_id, (_, found) in pages.items() if found}
    if port.layout is not None and port.router.has_slots:
        keys = yield from owned(port, port.layout, keys)
    return rest, keys, failures


def _cursor_for(node: object, cursor: bytes) -> bytes:
    """Return a cursor as it is sent to a node; that of a new scan if it was another node's."""
    is_others = isinstance(cursor, _Cursor) and cursor.node is not node
    return b"0" if is_others else bytes(cursor)


def delete_pages(port: Port, pages: Mapping[int, list[bytes]]) -> Batch[Outcome[int]]:
    """Delete keys that a scan has found; return how many there were.

    They are deleted on the node where they were found. In a Redis Cluster, they may have moved.
    """
    if port.router.has_slots:
        return (yield from count(port, b"UNLINK", list(chain.from_iterable(pages.values()))))
    commands: dict[int, Args] = {host_id: (b"UNLINK", *keys) for host_id, keys in pages.items()}
    counts, failures = yield from call_each(port, commands, is_number)
    return sum(counts.values()), failures
