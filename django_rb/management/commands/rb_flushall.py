"""manage.py rb_flushall: empty the nodes of clusters."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from ..base import NodesCommand, failure_of
from ..flushing import Target, call, count_keys, find_targets, names

QUESTION = """You have requested a flush of {what}.
This will IRREVERSIBLY DELETE every key there.
Are you sure you want to do this?"""


class Command(NodesCommand):
    help = (
        "Deletes all keys in the configured database of each node. Asks for confirmation first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_node_arguments(parser)
        self.add_confirm_arguments(
            parser,
            "Show what would be flushed and how many keys it contains, without flushing it.",
        )
        parser.add_argument(
            "--all-databases",
            action="store_true",
            help="Flush all databases of the servers (FLUSHALL), not only the configured one.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = self.get_clusters(options["cluster"])
        all_databases, dry_run = options["all_databases"], options["dry_run"]
        targets = find_targets(chosen, all_databases=all_databases)
        if dry_run or options["interactive"]:
            count_keys(chosen, targets, options["timeout"], all_databases=all_databases)
        if dry_run:
            for target in targets:
                target.result = "failed" if target.error else "would be flushed"
        elif options["interactive"] and not self.is_wanted(targets, options["format"]):
            return
        else:
            command = "FLUSHALL" if all_databases else "FLUSHDB"
            call(chosen, targets, command, "ASYNC", timeout=options["timeout"])
            for target in targets:
                target.result = "failed" if target.error else "flushed"
        self.report(targets, options["format"])
        self.fail_for(
            {names(target): target.error for target in targets if target.error},
            len(targets),
            done="queried" if dry_run else "flushed",
            noun=noun(targets),
        )

    def is_wanted(self, targets: list[Target], output_format: str) -> bool:
        """Show what would be deleted, and return whether the answer is "yes"."""
        screen = self.screen(output_format)
        screen.write(self.show(targets), str)
        for target in targets:
            if target.error:
                screen.write(failure_of(names(target), target.error), self.style.WARNING)
        return self.confirm(QUESTION.format(what=count(targets)), "Flush", output_format)

    def report(self, targets: list[Target], output_format: str) -> None:
        """Write the result for each node."""
        if output_format == "table":
            self.stdout.write(self.show(targets))
            return
        nodes = []
        for target in targets:
            (alias, host_id), *others = target.names
            nodes.append(
                {
                    "cluster": alias,
                    "host_id": host_id,
                    "address": target.address,
                    "database": target.database,
                    "keys": target.keys,
                    "result": target.result,
                    "error": target.error or None,
                    "also": [{"cluster": name, "host_id": other} for name, other in others],
                }
            )
        self.write_json({"nodes": nodes})

    def show(self, targets: list[Target]) -> str:
        """Return the targets as a table with the columns that are known so far."""
        header, rows = ["NODE", "ADDRESS", "DATABASE"], []
        has_keys = any(target.keys is not None for target in targets)
        has_result = any(target.result for target in targets)
        header += ["KEYS"] * has_keys + ["RESULT"] * has_result
        for target in targets:
            row: list[str | int] = [names(target), target.address, target.database]
            if has_keys:
                row.append("?" if target.keys is None else target.keys)
            if has_result:
                row.append(target.result)
            rows.append(row)
        paint = {"flushed": self.style.SUCCESS, "failed": self.style.ERROR}
        return self.table(header, rows, paint)


def count(targets: list[Target]) -> str:
    """Return how many nodes, or databases of nodes, there are."""
    return f"{len(targets)} {noun(targets)}{'' if len(targets) == 1 else 's'}"


def noun(targets: list[Target]) -> str:
    """Return what is flushed: servers, or one database of each."""
    return "server" if targets[0].database == "all" else "database"
