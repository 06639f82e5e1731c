"""manage.py rb_delete: delete the keys that match a pattern."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ..base import NodeName, describe_node, failure_of, name_of
from ..keys import KeysCommand, for_json, from_argument, readable
from ..readings import pattern_hint
from ..scanning import Nodes

QUESTION = """You have requested the deletion of {keys} on {nodes}:
{what}.
This will IRREVERSIBLY DELETE them.
Are you sure you want to do this?"""

Counts = dict[NodeName, int]


class Command(KeysCommand):
    help = (
        "Deletes the keys that match a pattern from all nodes, in small batches so that no "
        "server is blocked. Counts the keys and asks for confirmation first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_cache_argument(parser)
        self.add_confirm_arguments(
            parser, "Show how many keys would be deleted, without deleting them."
        )
        parser.add_argument(
            "pattern",
            metavar="PATTERN",
            help="A glob pattern: *, ?, [abc]. Escape these characters with a backslash.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keyspace = self.get_keyspace(options["cluster"], options["cache"])
        pattern = keyspace.pattern(options["pattern"])
        nodes = Nodes(keyspace.clusters, options["timeout"])
        outcome = Outcome(nodes, pattern)
        if options["dry_run"] or options["interactive"]:
            outcome.found = self.count(nodes, pattern)
            hint = pattern_hint(keyspace, options["pattern"], options["timeout"])
            if hint:
                self.stderr.write(
                    f"The pattern applies to keys as the servers store them. {hint}",
                    self.style.WARNING,
                )
        if not options["dry_run"] and outcome.may_have_keys:
            what = describe(options["pattern"], keyspace.cache_alias)
            if options["interactive"] and not self.is_wanted(outcome, what, options["format"]):
                return
            self.delete(outcome, pattern)
        self.report(outcome, options)
        done = "queried" if outcome.deleted is None else "finished"
        self.fail_for(nodes.failures, len(nodes.addresses), done)

    def count(self, nodes: Nodes, pattern: bytes) -> Counts:
        """Return how many keys match on each node that answers."""
        sizes = nodes.sizes()
        found = dict.fromkeys(sizes, 0)
        with self.progress("Counting", sum(sizes.values()), "keys") as progress:
            for pages in nodes.scan(pattern, sizes, progress):
                for node, keys in pages.items():
                    found[node] += len(keys)
        return {node: count for node, count in found.items() if node not in nodes.failures}

    def delete(self, outcome: Outcome, pattern: bytes) -> None:
        """Delete the keys that match, and count those that existed."""
        nodes = outcome.nodes
        sizes = nodes.sizes()
        outcome.deleted = deleted = dict.fromkeys(sizes, 0)
        try:
            with self.progress("Deleting", sum(sizes.values()), "keys looked at") as progress:
                for pages in nodes.scan(pattern, sizes, progress):
                    for node, number in nodes.delete(pages).items():
                        deleted[node] += number
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: at least {count_of(sum(deleted.values()), 'key')} deleted, "
                "others may remain.",
                returncode=128 + signal.SIGINT,
            ) from None

    def is_wanted(self, outcome: Outcome, what: str, output_format: str) -> bool:
        """Show what would be deleted, and return whether the answer is "yes"."""
        assert outcome.found is not None
        screen = self.screen(output_format)
        screen.write(self.show(outcome), str)
        for node, error in outcome.nodes.failures.items():
            screen.write(failure_of(node, error), self.style.WARNING)
        count = sum(outcome.found.values())
        nodes = count_of(len(outcome.found), "node")
        question = QUESTION.format(keys=count_of(count, "key"), nodes=nodes, what=what)
        return self.confirm(question, "Deletion", output_format)

    def report(self, outcome: Outcome, options: Mapping[str, Any]) -> None:
        """Write the result for each node."""
        if options["format"] == "table":
            self.stdout.write(self.show(outcome))
            return
        nodes = [
            {
                **describe_node(node, address),
                "found": (outcome.found or {}).get(node),
                "deleted": (outcome.deleted or {}).get(node),
                "error": outcome.error(node),
            }
            for node, address in outcome.nodes.addresses.items()
        ]
        self.write_json({"pattern": for_json(outcome.pattern), "nodes": nodes})

    def show(self, outcome: Outcome) -> str:
        """Return the nodes as a table with the columns that are known so far."""
        counts = {"FOUND": outcome.found, "DELETED": outcome.deleted}
        known = {name: counted for name, counted in counts.items() if counted is not None}
        rows: list[list[str | int]] = [
            [
                name_of(node),
                address,
                *(counted.get(node, "?") for counted in known.values()),
                outcome.result(node),
            ]
            for node, address in outcome.nodes.addresses.items()
        ]
        paint = {"deleted": self.style.SUCCESS, "failed": self.style.ERROR}
        return self.table(["NODE", "ADDRESS", *known, "RESULT"], rows, paint)


@dataclass
class Outcome:
    """What was found and deleted on each node; None is not known yet."""

    nodes: Nodes
    pattern: bytes
    found: Counts | None = None
    deleted: Counts | None = None

    @property
    def may_have_keys(self) -> bool:
        """Whether there are keys to delete, as far as is known."""
        return self.found is None or any(self.found.values())

    def result(self, node: NodeName) -> str:
        """Return the result for a node's keys as text."""
        if node in self.nodes.failures:
            return "failed"
        if self.deleted is not None:
            return "deleted"
        return "would be deleted" if self.may_have_keys else "no such keys"

    def error(self, node: NodeName) -> str | None:
        """Return why a node failed, None if it did not."""
        failure = self.nodes.failures.get(node)
        return None if failure is None else str(failure)


def describe(pattern: str, cache: str | None) -> str:
    """Return as text which keys are to be deleted."""
    owner = "" if cache is None else f" of the cache {cache!r}"
    if not pattern.strip("*"):
        return f"ALL keys{owner or ', including those of other programs'}"
    return f"those{owner} that match {readable(from_argument(pattern))}"


def count_of(number: int, noun: str) -> str:
    """Return a number and a noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
