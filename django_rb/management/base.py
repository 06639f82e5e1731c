"""What the management commands share: options, tables, JSON, and all clusters at once."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from .. import clusters, conf
from ..engine import Cluster

WIDTH = 80

NodeName = tuple[str, int]  # a cluster's alias and a host id
Paint = Mapping[str, Callable[[str], str]]


class NodesCommand(BaseCommand):
    """A command about nodes. Mistakes in RB_CLUSTERS become CommandErrors by themselves."""

    # What they need of the settings they check themselves. A site with another mistake
    # somewhere is one whose nodes are looked at.
    requires_system_checks = []

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def add_format_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--format",
            choices=("table", "json"),
            default="table",
            help='"json" is for programs: one document on standard output.',
        )

    def add_cluster_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--cluster",
            action="extend",
            nargs="+",
            metavar="ALIAS",
            help="A cluster of settings.RB_CLUSTERS. May be repeated; default: all.",
        )

    def add_timeout_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--timeout",
            type=seconds,
            metavar="SECONDS",
            help="Nodes that have not answered by then have failed. Default: as long as "
            "POOL_OPTIONS lets a node be silent.",
        )

    def get_clusters(self, aliases: str | Iterable[str] | None) -> dict[str, Cluster]:
        """Return the clusters that --cluster names, all of them by default."""
        if isinstance(aliases, str):  # call_command(…, cluster="default")
            aliases = [aliases]
        chosen = dict.fromkeys(aliases or conf.get_aliases())
        if not chosen:
            raise CommandError(
                f"settings.{conf.SETTING} is missing or empty: there are no nodes. "
                f"Add {conf.SETTING} = {{'default': {{'HOSTS': [{{'host': '127.0.0.1'}}]}}}}."
            )
        return {alias: clusters[alias] for alias in chosen}

    def write_json(self, document: object) -> None:
        self.stdout.write(json.dumps(document, indent=2))
        self.stdout.flush()  # before a child writes to the same place


def seconds(text: str) -> float:
    """Return the value of an option that is a time in seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds above 0.")
    return value


def call_clusters(
    chosen: Mapping[str, Cluster],
    nodes: Iterable[NodeName],
    *command: Any,
    timeout: float | None = None,
) -> tuple[dict[NodeName, Any], dict[NodeName, Exception]]:
    """Run one command on nodes of several clusters, on all of them at once.

    Returns:
        What each node replied, and the errors of those that did not.
    """
    host_ids: dict[str, list[int]] = {}
    for alias, host_id in nodes:
        host_ids.setdefault(alias, []).append(host_id)
    replies: dict[NodeName, Any] = {}
    errors: dict[NodeName, Exception] = {}
    # A batch is one cluster's. The wait for one cluster is not added to another's.
    with ThreadPoolExecutor(max_workers=max(1, len(host_ids))) as executor:
        calls = {
            alias: executor.submit(
                chosen[alias].call_nodes, *command, hosts=hosts, timeout=timeout
            )
            for alias, hosts in host_ids.items()
        }
    for alias, call in calls.items():
        answered, failures = call.result()
        replies.update({(alias, host_id): reply for host_id, reply in answered.items()})
        errors.update({(alias, failure.host_id): failure.error for failure in failures})
    return replies, errors


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str | int]], paint: Paint | None = None
) -> str:
    """Return a table of at most 80 columns; a text that does not fit goes on below.

    Args:
        rows: numbers go to the right of their column.
        paint: colours for the last column, by its text.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    gaps = 2 * (len(widths) - 1)
    while sum(widths) + gaps > WIDTH:
        widths[widths.index(max(widths))] -= 1
    is_number = [any(isinstance(cell, int) for cell in column) for column in columns]
    lines = []
    for row in (header, *rows):
        texts = [str(cell) for cell in row]
        color = (paint or {}).get(texts[-1], str)
        wrapped = [
            textwrap.wrap(text, width, break_on_hyphens=False)
            for text, width in zip(texts, widths, strict=True)
        ]
        for parts in zip_longest(*wrapped, fillvalue=""):
            *cells, last = (
                part.rjust(width) if right else part.ljust(width)
                for part, width, right in zip(parts, widths, is_number, strict=True)
            )
            lines.append("  ".join([*cells, color(last.rstrip())]).rstrip())
    return "\n".join(lines)
