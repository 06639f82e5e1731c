"""manage.py rb_status: the state of the nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser

from ...engine import Cluster
from ..base import NodesCommand, failure_of, seconds
from ..looks import Look, NodeRow, document_of, take_look
from ..output import (
    CLEAR_SCREEN,
    Shown,
    bytes_of,
    count_of,
    height_of,
    painted,
    sliced,
    table_width,
    time_of,
    width_of,
)
from ..status import Totals, sum_up


class Command(NodesCommand):
    help = (
        "Shows the state of all nodes: role, version, memory, keys, hit rate, latency, health "
        "and replication. Exits with status 1 if a node did not answer."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        parser.add_argument(
            "--watch",
            type=seconds,
            metavar="SECONDS",
            help="Repeat every SECONDS seconds, until Ctrl-C.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = self.get_clusters(options["cluster"])
        if options["watch"] is not None:
            look = self.watch(chosen, options)
        else:
            look = take_look(chosen, options["timeout"])
            self.show(look, options["format"])
        self.fail_for(look.errors, len(look.nodes))

    def watch(self, chosen: Mapping[str, Cluster], options: Mapping[str, Any]) -> Look:
        """Show the nodes repeatedly until Ctrl-C; return the last look."""
        look = take_look(chosen, options["timeout"])
        try:
            while True:
                if options["format"] == "json":
                    self.write_json(document_of(look), in_one_line=True)
                else:
                    self.redraw(look)
                time.sleep(options["watch"])
                look = take_look(chosen, options["timeout"])
        except KeyboardInterrupt:
            self.screen(options["format"]).write()
            return look

    def redraw(self, look: Look) -> None:
        """Redraw the terminal with the nodes; append them if it is not a terminal."""
        width = width_of(self.stdout)
        errors: list[str] = [
            painted(line, self.style.ERROR)
            for name, error in look.errors.items()
            for line in sliced(failure_of(name, error), width)
        ]
        if self.stdout.isatty():
            lines = fitted(self.sections(look), errors, height_of(self.stdout) - 1)
            self.stdout.write(Shown(CLEAR_SCREEN + "\n".join(lines)))
        else:
            self.show(look, "table")
            self.stdout.write(Shown("\n".join([*errors, "\n"])), ending="")
        self.stdout.flush()

    def show(self, look: Look, output_format: str) -> None:
        """Write a look."""
        if output_format == "json":
            self.write_json(document_of(look))
            return
        parts = [part for section in self.sections(look) for part in section]
        self.stdout.write(Shown("\n\n".join(parts)))

    def sections(self, look: Look) -> list[list[Shown]]:
        """Return for each cluster its headline and its tables."""
        clock = f"{datetime.fromtimestamp(look.time):%Y-%m-%d %H:%M:%S}"
        found: list[list[Shown]] = []
        for alias, nodes in look.clusters.items():
            answered = sum(node.status.error is None for node in nodes)
            noun = "node" if len(nodes) == 1 else "nodes"
            title = f"{alias}: {answered} of {len(nodes)} {noun} answered, {clock}"
            warmings = [Shown(one.words) for one in look.warmings if one.cluster == alias]
            heading = painted(title, self.style.MIGRATE_HEADING)
            found.append([heading, *self.tables(nodes, look.time), *warmings])
        return found

    def tables(self, nodes: Sequence[NodeRow], now: float) -> list[Shown]:
        """Return as few tables as the width of the terminal allows, and the balance."""
        totals = sum_up(node.status for node in nodes)
        tables: list[tuple[Column, ...]] = []
        groups = GROUPS if all(node.slots is None for node in nodes) else (*GROUPS, SLOTS)
        for group in groups:
            wider = (*tables[-1], *group) if tables else (NODE, *group)
            if table_width(*cells(wider, nodes, totals)) <= width_of(self.stdout):
                tables[-1:] = [wider]
            else:
                tables.append((NODE, *group))
        paint = {
            "up": self.style.SUCCESS,
            "failing": self.style.WARNING,
            "down": self.style.ERROR,
            "error": self.style.ERROR,
        }
        right = [column.header for group in groups[1:] for column in group]
        texts = [self.table(*cells(columns, nodes, totals), paint, right) for columns in tables]
        if any(
            node.said_by or node.primary_since or node.status.replication.connected
            for node in nodes
        ):
            texts.append(self.table(*shard_cells(nodes, now), paint, ["FOR"]))
        balance = totals.balance
        shares = (
            "Largest share over the mean: "
            f"keys {known(balance.keys, '{:.2f}'.format)}, "
            f"memory {known(balance.memory, '{:.2f}'.format)}"
        )
        return [*texts, Shown(shares)]


def fitted(sections: Sequence[Sequence[str]], errors: Sequence[str], room: int) -> list[str]:
    """Return lines that fit on a screen: unchanged, without blank lines, or truncated.

    If they do not fit unchanged, all headlines come first, and then the errors.
    """
    parts = [part for section in sections for part in section]
    whole = [*"\n\n".join(parts).split("\n"), *errors]
    if len(whole) <= room:
        return whole
    titles = [title for title, *_ in sections]
    tables = parts if len(sections) > 1 else parts[1:]
    lines = [*titles, *errors, *"\n".join(tables).split("\n")]
    if len(lines) <= room:
        return lines
    kept = max(0, room - 1)
    return [
        *lines[:kept],
        f"… and {len(lines) - kept} more lines: enlarge the window, or use --cluster",
    ]


def known(value: Any, show: Callable[[Any], str]) -> str:
    """Return a value as text, or a question mark if it is unknown."""
    return "?" if value is None else show(value)


@dataclass(frozen=True)
class Column:
    """A column of the table: its cell for a node, and for all nodes together."""

    header: str
    of_node: Callable[[NodeRow], str]
    of_all: Callable[[Totals], str] | None = None


def figure(
    header: str, name: str, show: Callable[[Any], str], *, is_sum: bool = True
) -> Column:
    """Return a column for a field of `NodeStatus` and, if `is_sum`, of `Totals`."""

    def of_all(totals: Totals) -> str:
        return known(getattr(totals, name), show)

    return Column(
        header,
        lambda node: known(getattr(node.status, name), show),
        of_all if is_sum else None,
    )


def ping(header: str, name: str) -> Column:
    """Return a column for one of the times of `Ping`."""
    return Column(
        header,
        lambda node: known(
            node.status.ping, lambda times: f"{getattr(times, name) * 1000:.2f} ms"
        ),
    )


def limit_of(size: int) -> str:
    """Return a memory limit as text."""
    return bytes_of(size) if size else "none"


def date_of(unix_time: float) -> str:
    """Return a time as text, in the time zone of the settings."""
    return f"{datetime.fromtimestamp(unix_time):%Y-%m-%d %H:%M}"


def lag_of(node: NodeRow) -> str:
    """Return a node's replication lag as text."""
    replication = node.status.replication
    if replication.link not in {None, "up"}:
        return "link down"
    if replication.lag_seconds is not None:
        return time_of(replication.lag_seconds)
    return "?" if node.status.role in {None, "replica"} else "-"


NODE = Column("NODE", lambda node: str(node.name[1]), lambda _: "total")

# Columns that belong together.
GROUPS = (
    (
        Column("ADDRESS", lambda node: f"{node.address}/{node.database}"),
        figure("ROLE", "role", str, is_sum=False),
        figure("VERSION", "version", str, is_sum=False),
        figure("UP SINCE", "up_since", date_of, is_sum=False),
        Column("HEALTH", lambda node: node.word),
    ),
    (
        figure("KEYS", "keys", count_of),
        figure("MEMORY", "memory_used", bytes_of),
        figure("LIMIT", "memory_limit", limit_of),
        figure("HIT RATE", "hit_rate", "{:.1%}".format),
        figure("EVICTED", "evictions", count_of),
        figure("OPS/S", "ops_per_second", count_of),
        figure("CLIENTS", "clients", count_of),
    ),
    (
        ping("PING MIN", "min"),
        ping("MEDIAN", "median"),
        ping("MAX", "max"),
        Column("REPLICAS", lambda node: known(node.status.replication.replicas, str)),
        Column("LAG", lag_of),
        figure("UP FOR", "uptime", time_of, is_sum=False),
    ),
)


def slots(header: str, name: str) -> Column:
    """Return a column for a field of `SlotsStatus`."""
    return Column(
        header,
        lambda node: known(node.slots and getattr(node.slots, name), str),
    )


# Columns that only the nodes of a Redis Cluster have.
SLOTS = (
    slots("SLOTS", "slots"),
    slots("LEAVING", "leaving"),
    slots("ARRIVING", "arriving"),
    slots("CLUSTER STATE", "state"),
)


def cells(
    columns: Sequence[Column], nodes: Sequence[NodeRow], totals: Totals
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table; the totals, if any, are last."""
    rows = [[column.of_node(node) for column in columns] for node in nodes]
    if any(column.of_all for column in columns[1:]):
        rows.append([column.of_all(totals) if column.of_all else "" for column in columns])
    return [column.header for column in columns], rows


def shard_cells(nodes: Sequence[NodeRow], now: float) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of shards: a row for each replica."""
    rows: list[list[str]] = []
    for node in nodes:
        lasted = None if node.primary_since is None else max(0.0, now - node.primary_since)
        first = [
            str(node.name[1]),
            node.address,
            node.said_by or "settings",
            "-" if node.said_by is None and lasted is None else known(lasted, time_of),
        ]
        replicas = [
            [replica.address, replica.state, known(replica.lag_seconds, time_of)]
            for replica in node.status.replication.connected or ()
        ]
        for replica in replicas or [["none", "", ""]]:
            rows.append([*first, *replica])
            first = [""] * len(first)
    return ["SHARD", "PRIMARY", "SAID BY", "FOR", "REPLICA", "STATE", "LAG"], rows
