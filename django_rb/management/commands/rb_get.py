"""manage.py rb_get: what is stored under a key."""

from __future__ import annotations

import json
import pprint
from math import isfinite
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...cache import RBCache
from ...engine.wording import escaped
from ..base import describe_node, name_of
from ..entries import KINDS, MISSING, Entry, cell, find, read
from ..keys import (
    KeysCommand,
    Keyspace,
    for_json,
    from_argument,
    number,
    readable,
)
from ..output import Shown, bytes_of, painted, sliced, time_of, width_of
from ..readings import key_hint
from ..scanning import Nodes

LIMIT = 20


class Command(KeysCommand):
    help = (
        "Shows the value, time to live, size and node of a key. With --cache, the value is "
        "decoded as by the cache. Warning: caches use pickle by default, and unpickling a "
        "value can run code that was put into it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        parser.add_argument("key", metavar="KEY")
        parser.add_argument(
            "--limit",
            type=number,
            default=LIMIT,
            metavar="N",
            help="Show at most N lines of a value, or N elements of a list, hash, set, sorted "
            f"set or stream. Default: {LIMIT}. With --format json, strings and values of a "
            "cache are always complete.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keyspace = self.get_keyspace(options["cluster"], options["cache"])
        self.check_owners_known(keyspace)
        typed = from_argument(options["key"])
        (key,) = keyspace.stored([typed])
        owners = {
            (alias, cluster.get_host_for_key(key)): cluster
            for alias, cluster in keyspace.clusters.items()
        }
        nodes = Nodes(keyspace.clusters, options["timeout"])
        addresses = {node: cluster.get_address(node[1]) for node, cluster in owners.items()}
        for_programs = options["format"] == "json"
        entries = find(nodes, addresses, key)
        read(nodes, entries, key, options["limit"], whole=for_programs)
        entries = [entry for entry in entries if entry.node not in nodes.failures]
        if keyspace.cache is not None:
            for entry in entries:
                decode(entry, keyspace.cache, typed.decode())
        if for_programs:
            documents = [document(entry, keyspace, key) for entry in entries]
            errors = [
                {**describe_node(node, addresses[node]), "error": str(error)}
                for node, error in nodes.failures.items()
            ]
            self.write_json({"entries": documents, "errors": errors})
        elif entries:
            parts = [self.show(entry, key, options["limit"]) for entry in entries]
            self.stdout.write(Shown("\n\n".join(parts)))
        self.fail_for(nodes.failures, len(owners))
        if not entries:
            where = ", ".join(f"{name_of(node)} ({addresses[node]})" for node in owners)
            hint = key_hint(keyspace, options["key"], options["timeout"])
            raise CommandError(
                f"Key {readable(key)} was not found on its node: {where}. {hint}".rstrip()
            )

    def show(self, entry: Entry, key: bytes, limit: int) -> Shown:
        """Return an entry as text."""
        width = width_of(self.stdout)
        sizes = []
        if entry.length is not None:
            noun = "element" if entry.length == 1 else "elements"
            is_string = entry.kind == "string"
            text = bytes_of(entry.length) if is_string else f"{entry.length:,} {noun}"
            sizes.append(f"{text}{' stored' if is_string else ''}")
        if entry.memory is not None:
            sizes.append(f"{bytes_of(entry.memory)} of memory")
        facts = {
            "Key": readable(key),
            "Node": f"{name_of(entry.node)}, {entry.address}",
            "Type": entry.kind,
            "TTL": "never expires" if entry.ttl is None else time_of(entry.ttl),
            "Size": ", ".join(sizes) or "?",
        }
        lines = [
            line
            for name, text in facts.items()
            for line in sliced(f"{name:<6}{escaped(text)}", width)
        ]
        if entry.problem:
            lines += ["", painted(entry.problem, self.style.WARNING)]
        return Shown("\n".join([*lines, "", *self.contents(entry, limit, width)]).rstrip())

    def contents(self, entry: Entry, limit: int, width: int) -> list[str]:
        """Return at most `limit` lines of a value, or elements, and how many there are more."""
        if entry.value is not MISSING:
            lines = pprint.pformat(entry.value, width=width).splitlines()
            lines = [part for line in lines for part in sliced(escaped(line), width)]
            return [*lines[:limit], *rest(limit, len(lines), "lines")]
        if entry.data is not None:
            lines = sliced(readable(entry.data), width)
            return [*lines, *rest(len(entry.data), entry.length or 0, "bytes")]
        if not entry.elements:
            return []
        header = [name.upper() for name in KINDS[entry.kind].columns]
        rows = [list(map(cell, element)) for element in entry.elements]
        table = self.table(header, rows, right=("SCORE",))
        return [table, *rest(len(rows), entry.length or 0, "elements")]


def decode(entry: Entry, cache: RBCache, key: str) -> None:
    """Set the value that a cache reads, or the reason why it cannot."""
    if entry.kind != "string":
        entry.problem = f"This is a {entry.kind}. Values of a cache are strings."
        return
    try:
        entry.value = cache.get(key, MISSING)
    except Exception as error:  # noqa: BLE001 (serializers may raise anything)
        entry.problem = f"The cache cannot decode it: {type(error).__name__}: {error}"
    else:
        if entry.value is MISSING:
            entry.problem = (
                "The cache treats this value as a miss: its signature is invalid, or it has "
                "just expired."
            )


def document(entry: Entry, keyspace: Keyspace, key: bytes) -> dict[str, Any]:
    """Return an entry for JSON."""
    columns = KINDS[entry.kind].columns if entry.kind in KINDS else ()
    described = {
        **keyspace.described(key),
        **describe_node(entry.node, entry.address),
        "type": for_json(from_argument(entry.kind)),
        "ttl": entry.ttl,
        "memory": entry.memory,
        "length": entry.length,
        "problem": entry.problem or None,
    }
    if entry.value is not MISSING:
        name, said = (
            ("value", entry.value) if is_json(entry.value) else ("repr", repr(entry.value))
        )
        return {**described, name: said}
    if entry.data is not None:
        return {**described, "value": for_json(entry.data)}
    elements = [[plain(part) for part in element] for element in entry.elements]
    if len(columns) == 1:
        return {**described, "value": [part for (part,) in elements]}
    return {
        **described,
        "value": [dict(zip(columns, parts, strict=True)) for parts in elements],
    }


def is_json(value: object) -> bool:
    """Whether JSON can represent a value exactly."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def plain(part: Any) -> Any:
    """Return a part of an element for JSON."""
    if isinstance(part, bytes):
        return for_json(part)
    if isinstance(part, float) and not isfinite(part):
        return str(part)
    return list(map(plain, part)) if isinstance(part, list) else part


def rest(shown: int, total: int, unit: str) -> list[str]:
    """Return the text about the part that is not shown."""
    if shown >= total:
        return []
    return [f"… {shown:,} of {total:,} {unit}. --limit shows more."]
