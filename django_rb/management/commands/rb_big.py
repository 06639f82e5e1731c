"""manage.py rb_big: the largest keys of all nodes, by a sample."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from ..big import SAMPLE, BigKeys, fetch_big
from ..keys import KeysCommand, Keyspace, for_json, number, readable
from ..output import bytes_of
from ..readings import pattern_hint
from ..scanning import Nodes

TOP = 10


class Command(KeysCommand):
    help = (
        "Shows the keys that use the most memory, and the total for each group of similar "
        "keys. Measures a sample of keys with MEMORY USAGE."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        parser.add_argument(
            "--pattern",
            default="*",
            metavar="PATTERN",
            help="Only keys that match this glob pattern: *, ?, [abc]. Escape these characters "
            "with a backslash. Default: all keys.",
        )
        parser.add_argument(
            "--sample",
            type=number,
            default=SAMPLE,
            metavar="N",
            help="Number of keys to measure, on all nodes together. Default: %(default)s.",
        )
        parser.add_argument(
            "--top",
            type=number,
            default=TOP,
            metavar="N",
            help="Number of keys and of groups of keys to show. Default: %(default)s.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keyspace = self.get_keyspace(options["cluster"], options["cache"])
        pattern = keyspace.pattern(options["pattern"])
        nodes = Nodes(keyspace.clusters, options["timeout"])
        with self.progress("Measuring", options["sample"], "keys") as progress:
            found = fetch_big(
                keyspace,
                nodes,
                pattern,
                sample=options["sample"],
                top=options["top"],
                progress=progress,
            )
        if options["format"] == "json":
            self.write_json(document_of(found, keyspace))
        else:
            self.show(found, keyspace)
        if not found.measured and (
            hint := pattern_hint(keyspace, options["pattern"], options["timeout"])
        ):
            self.stderr.write(hint, self.style.WARNING)
        self.fail_for(nodes.failures, len(nodes.addresses))

    def show(self, found: BigKeys, keyspace: Keyspace) -> None:
        """Write tables."""
        if found.measured:
            keys = [
                (bytes_of(one.size), one.kind, *map(str, one.node), keyspace.readable(one.key))
                for one in found.keys
            ]
            header = ["SIZE", "TYPE", "CLUSTER", "NODE", "KEY"]
            self.stdout.write(self.table(header, keys, right=["SIZE"]))
            alike = [
                (
                    bytes_of(one.size),
                    f"{one.size / found.size:.1%}",
                    one.keys,
                    readable(one.pattern),
                )
                for one in found.patterns
            ]
            header = ["SIZE", "SHARE", "KEYS", "KEYS LIKE"]
            table = self.table(header, alike, right=["SIZE", "SHARE"])
            self.stdout.write("")
            self.stdout.write(table)
            self.stdout.write("")
        self.stdout.write(
            f"{found.measured:,} of {found.total:,} keys measured: {bytes_of(found.size)}"
        )


def document_of(found: BigKeys, keyspace: Keyspace) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "measured": found.measured,
        "total": found.total,
        "size": found.size,
        "keys": [
            {
                **keyspace.described(one.key),
                "cluster": one.node[0],
                "host_id": one.node[1],
                "type": one.kind,
                "size": one.size,
            }
            for one in found.keys
        ],
        "patterns": [
            {"pattern": for_json(one.pattern), "keys": one.keys, "size": one.size}
            for one in found.patterns
        ],
    }
