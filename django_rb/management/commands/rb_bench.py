"""manage.py rb_bench: how fast a cluster is from this machine, and which node is slow."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...engine import Cluster
from ..base import NodeName, NodesCommand, describe_node, failure_of
from ..bench import OPERATIONS, Bench, Series, TooLittleMemory
from ..keys import number
from ..output import bytes_of, count_of, width_of

KEYS = 1000
SIZE = 1024
SLOW = "<< slow"

PERCENTILES = ("p50", "p95", "p99", "max")


class Command(NodesCommand):
    help = (
        "Measures get, set, get_many and set_many on clusters, from this machine, for about "
        "two seconds each. Uses temporary keys, and deletes them afterwards. Marks nodes that "
        "are slower than the others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        parser.add_argument(
            "--keys", type=number, default=KEYS, metavar="N", help=f"Default: {KEYS}."
        )
        parser.add_argument(
            "--size",
            type=number,
            default=SIZE,
            metavar="BYTES",
            help=f"Size of each value in bytes. Default: {SIZE}.",
        )
        parser.add_argument("--nodes", action="store_true", help="Show the times of each node.")

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = self.get_clusters(options["cluster"])
        failures: dict[NodeName, Exception] = {}
        refusals: dict[str, TooLittleMemory] = {}
        documents = []
        for alias, cluster in chosen.items():  # sequentially, to not disturb each other
            bench = Bench(cluster, options["keys"], options["size"], options["timeout"])
            try:
                self.run(alias, bench, options)
            except TooLittleMemory as error:
                refusals[alias] = error
            failures.update(
                {(alias, host_id): e for host_id, e in sorted(bench.failures.items())}
            )
            if options["format"] == "json":
                documents.append(describe(alias, cluster, bench, options, refusals.get(alias)))
            elif alias not in refusals:
                self.show(alias, cluster, bench, show_nodes=options["nodes"])
        if options["format"] == "json":
            self.write_json({"clusters": documents})
        if refusals:
            reasons = [failure_of(*refusal) for refusal in refusals.items()]
            reasons += [failure_of(*failure) for failure in failures.items()]
            raise CommandError("\n".join(reasons))
        total = sum(len(cluster.hosts) for cluster in chosen.values())
        self.fail_for(failures, total, done="measured")

    def run(self, alias: str, bench: Bench, options: Mapping[str, Any]) -> None:
        """Measure a cluster; delete the keys even after errors.

        Raises:
            TooLittleMemory: nothing was measured.
        """
        keys, size = options["keys"], options["keys"] * bench.bytes_per_key
        self.screen(options["format"]).write(
            f"{alias}: {count_of(keys)} keys of {bytes_of(options['size'])}, "
            f"{bytes_of(size)} in all"
        )
        bench.check_memory()
        try:
            with self.progress("Storing", keys, "keys") as progress:
                bench.fill(progress)
            with self.progress("Measuring", len(OPERATIONS), "operations") as progress:
                bench.measure(progress)
        finally:
            try:
                bench.remove()
            except KeyboardInterrupt:  # only a second one can leave keys
                bench.remove()
                raise

    def show(self, alias: str, cluster: Cluster, bench: Bench, *, show_nodes: bool) -> None:
        """Write the times of a cluster as tables."""
        slow = bench.slow()
        header = ["OPERATION", "CALLS", *(f"{name.upper()} ms" for name in PERCENTILES)]
        rows = [[name, *cells(series)] for name, series in bench.whole.items()]
        if rows:
            self.stdout.write(self.table(header, rows, right=header[2:]))
        if show_nodes:
            rows = [
                [name, host_id, *cells(series), SLOW if name in slow.get(host_id, ()) else ""]
                for name, by_node in bench.by_node.items()
                for host_id, series in by_node.items()
            ]
            table = self.table(
                [header[0], "NODE", *header[1:], "REMARK"],
                rows,
                {SLOW: self.style.WARNING},
                right=header[2:],
            )
            self.stdout.write()
            self.stdout.write(table)
        for host_id, names in slow.items():
            where = f"node {host_id} ({cluster.get_address(host_id)})"
            text = f"{SLOW}: {where}, {', '.join(names)}"
            lines = textwrap.wrap(text, width_of(self.stdout), subsequent_indent="   ")
            self.stdout.write("\n".join(lines), self.style.WARNING)


def cells(series: Series) -> list[str | int]:
    """Return the cells for a series: the number of calls, and times in milliseconds."""
    times = series.percentiles()
    return [len(series.seconds), *(f"{times[name] * 1000:.2f}" for name in PERCENTILES)]


def describe(
    alias: str,
    cluster: Cluster,
    bench: Bench,
    options: Mapping[str, Any],
    refusal: TooLittleMemory | None,
) -> dict[str, Any]:
    """Return the results for JSON."""
    slow = bench.slow()
    return {
        "cluster": alias,
        "keys": options["keys"],
        "size": options["size"],
        "error": None if refusal is None else str(refusal),
        "operations": {name: in_seconds(series) for name, series in bench.whole.items()},
        "nodes": [
            {
                **describe_node((alias, host_id), cluster.get_address(host_id)),
                "keys": len(keys),
                "operations": {
                    name: in_seconds(by_node[host_id])
                    for name, by_node in bench.by_node.items()
                    if host_id in by_node
                },
                "slow": slow.get(host_id, []),
                "error": str(bench.failures[host_id]) if host_id in bench.failures else None,
            }
            for host_id, keys in bench.owned.items()
        ],
    }


def in_seconds(series: Series) -> dict[str, float]:
    """Return a series for JSON: the number of calls, and their times in seconds."""
    return {"calls": len(series.seconds), **series.percentiles()}
