"""manage.py rb_scan: the keys of all nodes, as they are found."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from django.core.management.base import CommandParser, OutputWrapper

from ...engine.protocol.encoding import Args
from ...engine.wording import did_you_mean
from ..base import NodeName
from ..keys import KeysCommand, Keyspace, for_json, number, readable, ttl_of
from ..output import Progress, as_json, bytes_of, time_of, width_of
from ..readings import pattern_hint
from ..scanning import PAGE_SIZE, Nodes, Pages

TYPES = ("string", "list", "set", "zset", "hash", "stream")

# The values of --with, in the order of the columns: the command that returns it, and its reply
# for a key that no longer exists.
FIELDS: dict[str, tuple[tuple[str, ...], object]] = {
    "ttl": (("PTTL",), -2),
    "size": (("MEMORY", "USAGE"), None),
    "type": (("TYPE",), b"none"),
}
COLUMNS = {"ttl": "{:>12}", "size": "{:>8}", "type": "{:<6}"}


class Found(NamedTuple):
    """A key, its node, and its values for --with."""

    node: NodeName
    key: bytes
    facts: dict[str, Any]


class Command(KeysCommand):
    help = (
        "Lists the keys of all nodes that match a pattern, as they are found. Reads them in "
        "pages, so that no server is blocked. A key may be listed twice."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        parser.add_argument(
            "pattern",
            nargs="?",
            default="*",
            metavar="PATTERN",
            help="A glob pattern: *, ?, [abc]. Escape these characters with a backslash. "
            "Default: all keys.",
        )
        parser.add_argument("--type", choices=TYPES, help="Only keys of this type.")
        parser.add_argument("--limit", type=number, metavar="N", help="Stop after N keys.")
        parser.add_argument(
            "--with",
            type=fields,
            default=[],
            dest="fields",
            metavar="FIELDS",
            help="Additional fields to show for each key, separated by commas: "
            f"{','.join(FIELDS)}.",
        )

    def add_format_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--format",
            choices=("table", "json"),
            default="table",
            help='Output format. "json" writes one object per line, for programs.',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keyspace = self.get_keyspace(options["cluster"], options["cache"])
        pattern = keyspace.pattern(options["pattern"])
        nodes = Nodes(keyspace.clusters, options["timeout"])
        limit, asked = options["limit"] or sys.maxsize, options["fields"]
        if isinstance(asked, str):  # call_command(…, fields="ttl")
            asked = fields(asked)
        is_table = options["format"] == "table"
        page_size = min(PAGE_SIZE, max(10, limit))
        shown = 0
        sizes = nodes.sizes()
        with self.progress("Scanning", sum(sizes.values()), "keys") as progress:
            if asked and is_table:
                progress.clear()
                self.stdout.write(
                    self.line([name.upper() for name in COLUMNS if name in asked], "KEY", asked)
                )
            for page in nodes.scan(
                pattern, sizes, progress, page_size=page_size, kind=options["type"]
            ):
                if found := look_at(nodes, page, asked, limit - shown):
                    progress.clear()
                    write = self.lines if is_table else self.documents
                    self.stdout.write("\n".join(write(found, keyspace, asked)))
                    self.stdout.flush()
                    shown += len(found)
                if shown == limit:
                    break
        if is_table and self.stdout.isatty():
            self.stdout.write(summary(shown, is_all=shown < limit), self.style.SUCCESS)
        if not shown and (
            hint := pattern_hint(
                keyspace, options["pattern"], options["timeout"], options["type"]
            )
        ):
            self.stderr.write(hint, self.style.WARNING)
        self.fail_for(nodes.failures, len(nodes.addresses))

    def progress(self, what: str, total: int | None, unit: str) -> Progress:
        """Return a progress bar, unless another program may be writing to the same terminal."""
        if self.stderr.isatty() and is_pipe(self.stdout):
            return Progress(None, what, total, unit)
        return super().progress(what, total, unit)

    def documents(
        self, found: Sequence[Found], keyspace: Keyspace, asked: Sequence[str]
    ) -> Iterator[str]:
        """Yield lines of JSON."""
        for (alias, host_id), key, facts in found:
            document = {**keyspace.described(key), "cluster": alias, "host_id": host_id}
            if "ttl" in facts:
                document["ttl"] = ttl_of(facts["ttl"])
            if "size" in facts:
                document["size"] = facts["size"]
            if "type" in facts:
                document["type"] = for_json(facts["type"])
            yield as_json(document)

    def lines(
        self, found: Sequence[Found], keyspace: Keyspace, asked: Sequence[str]
    ) -> Iterator[str]:
        """Yield lines of text."""
        for _, key, facts in found:
            cells = []
            if "ttl" in facts:
                left = ttl_of(facts["ttl"])
                cells.append("never" if left is None else time_of(left))
            if "size" in facts:
                cells.append(bytes_of(facts["size"]))
            if "type" in facts:
                cells.append(readable(facts["type"]))
            yield self.line(cells, keyspace.readable(key), asked)

    def line(self, cells: Sequence[str], key: str, asked: Sequence[str]) -> str:
        """Return a row. Long keys are wrapped only on a terminal."""
        if not asked:
            return key
        named = (COLUMNS[name] for name in COLUMNS if name in asked)
        start = "".join(f"{form.format(c)}  " for form, c in zip(named, cells, strict=True))
        if not self.stdout.isatty():
            return start + key
        room = max(10, width_of(self.stdout) - len(start))
        parts = [key[at : at + room] for at in range(0, len(key), room)] or [""]
        return start + f"\n{' ' * len(start)}".join(parts)


def fields(text: str) -> list[str]:
    """Return the values of --with, in the order of the columns."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    for name in names:
        if name not in FIELDS:
            raise argparse.ArgumentTypeError(
                f"There is no field {name!r}. {did_you_mean(name, list(FIELDS))}"
            )
    return [name for name in FIELDS if name in names]


def look_at(nodes: Nodes, page: Pages, asked: Sequence[str], limit: int) -> list[Found]:
    """Return at most `limit` keys of a page with their values for --with, in parallel."""
    keys = [(node, key) for node, keys in page.items() for key in keys][:limit]
    if not asked:
        return [Found(node, key, {}) for node, key in keys]
    commands: dict[NodeName, list[Args]] = {}
    for node, key in keys:
        commands.setdefault(node, []).extend((*FIELDS[name][0], key) for name in asked)
    replies = {node: iter(replies) for node, replies in nodes.run(commands).items()}
    found = [
        Found(node, key, {name: next(replies[node]) for name in asked})
        for node, key in keys
        if node in replies
    ]
    return [
        one for one in found if not any(one.facts[name] == FIELDS[name][1] for name in asked)
    ]


def is_pipe(stream: OutputWrapper) -> bool:
    """Whether the stream is a pipe to another program."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # in memory, or closed
        return False


def summary(shown: int, is_all: bool) -> str:
    """Return the number of keys as text."""
    noun = "key" if shown == 1 else "keys"
    return f"{shown:,} {noun}" if is_all else f"The first {shown:,} {noun}"
