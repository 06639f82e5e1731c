"""manage.py rb_route: which node owns a key."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

from django.core.management.base import CommandError, CommandParser

from ...engine import Cluster
from ..base import NodeName, all_nodes, call_clusters, describe_node, name_of
from ..keys import KeysCommand, Keyspace, from_argument, readable

CHUNK = 10_000  # lines
BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉"
Errors = Mapping[NodeName, Exception]


class Command(KeysCommand):
    help = (
        "Shows the node that owns each key, and its slot or hash. With --stdin, shows how "
        "many keys of a list each node owns."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        parser.add_argument("keys", nargs="*", metavar="KEY")
        parser.add_argument(
            "--stdin",
            action="store_true",
            help="Read keys from standard input, one per line, and show their distribution "
            "across the nodes.",
        )
        parser.add_argument(
            "--offline",
            action="store_true",
            help="Do not connect to the nodes. The location of a key does not depend on their "
            "state.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keyspace = self.get_keyspace(options["cluster"], options["cache"])
        if bool(options["keys"]) == options["stdin"]:
            raise CommandError("Give either keys or --stdin.")
        self.check_owners_known(keyspace)
        nodes = all_nodes(keyspace.clusters)
        errors: Errors = {}
        if not options["offline"]:
            _, errors = call_clusters(
                keyspace.clusters, nodes, "PING", timeout=options["timeout"]
            )
        show = self.show_distribution if options["stdin"] else self.show_keys
        show(keyspace, errors, options)
        self.fail_for(errors, len(nodes))

    def show_keys(self, keyspace: Keyspace, errors: Errors, options: Mapping[str, Any]) -> None:
        """Show the node of each key in each cluster."""
        typed = list(map(from_argument, options["keys"]))
        places = [
            (key, (alias, cluster.get_host_for_key(key)), cluster.router.explain(key))
            for key in keyspace.stored(typed)
            for alias, cluster in keyspace.clusters.items()
        ]
        if options["format"] == "json":
            documents = [
                {
                    **keyspace.described(key),
                    **describe(keyspace.clusters, node, errors, options),
                    "hash": reason,
                }
                for key, node, reason in places
            ]
            self.write_json({"keys": documents})
            return
        names = {name for _, _, reason in places for name in reason}
        header = ["KEY", "NODE", "ADDRESS", *(name.upper() for name in sorted(names))]
        rows: list[list[str | int]] = []
        for key, node, reason in places:
            address = keyspace.clusters[node[0]].get_address(node[1])
            numbers = [reason.get(name, "") for name in sorted(names)]
            rows.append([readable(key), name_of(node), address, *numbers])
        self.show_table(header, rows, [node for _, node, _ in places], errors, options)

    def show_distribution(
        self, keyspace: Keyspace, errors: Errors, options: Mapping[str, Any]
    ) -> None:
        """Show how many of the keys on standard input each node owns."""
        counts = dict.fromkeys(all_nodes(keyspace.clusters), 0)
        with self.progress("Reading", None, "keys") as progress:
            for typed in chunks(lines(getattr(sys.stdin, "buffer", sys.stdin))):
                keys = keyspace.stored(typed)
                for alias, cluster in keyspace.clusters.items():
                    owners = Counter(cluster.router.get_hosts_for_keys(keys))
                    for host_id, count in owners.items():
                        counts[alias, host_id] += count
                progress.add(len(keys))
        total = progress.done
        shares = {node: count / total if total else 0.0 for node, count in counts.items()}
        if options["format"] == "json":
            documents = [
                {
                    **describe(keyspace.clusters, node, errors, options),
                    "keys": count,
                    "share": shares[node],
                }
                for node, count in counts.items()
            ]
            self.write_json({"keys": total, "nodes": documents})
            return
        most, encoding = max(shares.values()) or 1, getattr(self.stdout, "encoding", None)
        rows: list[list[str | int]] = [
            [
                name_of(node),
                f"{count:,}",
                f"{shares[node]:.1%}",
                bar(shares[node] / most, encoding),
            ]
            for node, count in counts.items()
        ]
        header = ["NODE", "KEYS", "SHARE", "DISTRIBUTION"]
        self.show_table(header, rows, list(counts), errors, options)
        self.stdout.write(f"\n{total:,} {'key' if total == 1 else 'keys'}")

    def show_table(
        self,
        header: list[str],
        rows: list[list[str | int]],
        nodes: Iterable[NodeName],
        errors: Errors,
        options: Mapping[str, Any],
    ) -> None:
        """Write a table, with the state of the nodes if they were asked."""
        if not options["offline"]:
            header = [*header, "STATE"]
            rows = [
                [*row, "dead" if node in errors else "alive"]
                for row, node in zip(rows, nodes, strict=True)
            ]
        paint = {"alive": self.style.SUCCESS, "dead": self.style.ERROR}
        self.stdout.write(self.table(header, rows, paint, right=("KEYS", "SHARE")))


def describe(
    clusters: Mapping[str, Cluster],
    node: NodeName,
    errors: Errors,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a node for JSON, and its error if it was asked."""
    alias, host_id = node
    described = describe_node(node, clusters[alias].get_address(host_id))
    if not options["offline"]:
        described["error"] = str(errors[node]) if node in errors else None
    return described


def lines(stream: BinaryIO | Iterable[str]) -> Iterator[bytes]:
    """Yield the lines of a stream that are not empty, without their ends."""
    for line in stream:
        data = from_argument(line) if isinstance(line, str) else line
        if key := data.removesuffix(b"\n").removesuffix(b"\r"):
            yield key


def chunks(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield keys in lists of at most CHUNK."""
    while chunk := list(islice(keys, CHUNK)):
        yield chunk


def bar(share: float, encoding: str | None) -> str:
    """Return a bar of at most BAR_CELLS characters, in ASCII if others cannot be encoded."""
    eighths = round(share * BAR_CELLS * 8)
    text = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "#" * round(share * BAR_CELLS)
    return text
