"""manage.py rb_hot: the keys of all nodes that are used most."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from ..base import describe_node, name_of, seconds
from ..hot import UNITS, HotKeys, fetch_hot
from ..keys import KeysCommand, Keyspace, for_json, number, readable
from ..output import bytes_of, count_of, painted
from ..scanning import Nodes

SECONDS = 5.0
TOP = 10


class Command(KeysCommand):
    help = (
        "Shows the keys that are used most, and the total for each group of similar keys. "
        "Uses the best source that each server has; never MONITOR."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        parser.add_argument(
            "--seconds",
            type=seconds,
            default=SECONDS,
            metavar="SECONDS",
            help="Seconds to observe the nodes. Default: %(default)s.",
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
        nodes = Nodes(keyspace.clusters, options["timeout"])
        with self.progress("Looking", round(options["seconds"]), "seconds") as progress:
            found = fetch_hot(
                keyspace,
                nodes,
                seconds=options["seconds"],
                top=options["top"],
                progress=progress,
            )
        if options["format"] == "json":
            self.write_json(document_of(found, keyspace, nodes, options["seconds"]))
        else:
            self.show(found, keyspace)
        self.fail_for(nodes.failures, len(nodes.addresses))

    def show(self, found: HotKeys, keyspace: Keyspace) -> None:
        """Write tables."""
        for source, unit in UNITS.items():
            keys = [
                (count_of(one.score), *map(str, one.node), keyspace.readable(one.key))
                for one in found.keys
                if one.source == source
            ]
            if not keys:
                continue
            alike = [
                (count_of(one.score), one.keys, readable(one.pattern))
                for one in found.patterns
                if one.source == source
            ]
            self.stdout.write(painted(f"{source}: {unit}", self.style.MIGRATE_HEADING))
            header = [source.upper(), "CLUSTER", "NODE", "KEY"]
            self.stdout.write(self.table(header, keys, right=[source.upper()]))
            self.stdout.write("")
            header = [source.upper(), "KEYS", "KEYS LIKE"]
            self.stdout.write(self.table(header, alike, right=[source.upper()]))
            self.stdout.write("")
        if found.slots:
            self.stdout.write(painted("slots", self.style.MIGRATE_HEADING))
            slots: list[tuple[str | int, ...]] = [
                (
                    f"{one.cpu:,} µs",
                    bytes_of(one.bytes_in),
                    bytes_of(one.bytes_out),
                    one.slot,
                    *map(str, one.node),
                    " ".join(map(keyspace.readable, one.keys)),
                )
                for one in found.slots
            ]
            header = ["CPU", "IN", "OUT", "SLOT", "CLUSTER", "NODE", "SOME KEYS"]
            self.stdout.write(self.table(header, slots, right=header[:3]))
            self.stdout.write("")
        for node, told in found.nodes.items():
            line = f"{name_of(node)}: {told.source or 'no information'}"
            if told.looked_at is not None:
                line += f", {told.looked_at:,} of {told.total:,} keys looked at"
            self.stdout.write(line + (f". {told.note}" if told.note else ""))


def document_of(
    found: HotKeys, keyspace: Keyspace, nodes: Nodes, seconds: float
) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "seconds": seconds,
        "keys": [
            {
                **keyspace.described(one.key),
                "cluster": one.node[0],
                "host_id": one.node[1],
                "source": one.source,
                "score": one.score,
            }
            for one in found.keys
        ],
        "patterns": [
            {
                "pattern": for_json(one.pattern),
                "source": one.source,
                "keys": one.keys,
                "score": one.score,
            }
            for one in found.patterns
        ],
        "slots": [
            {
                "slot": one.slot,
                "cluster": one.node[0],
                "host_id": one.node[1],
                "cpu": one.cpu,
                "bytes_in": one.bytes_in,
                "bytes_out": one.bytes_out,
                "examples": [for_json(key) for key in one.keys],
            }
            for one in found.slots
        ],
        "nodes": [
            {
                **describe_node(node, nodes.addresses[node]),
                "source": told.source,
                "looked_at": told.looked_at,
                "total": told.total,
                "note": told.note,
            }
            for node, told in found.nodes.items()
        ],
    }
