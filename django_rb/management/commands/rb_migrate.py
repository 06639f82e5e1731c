"""manage.py rb_migrate: copy the keys of one cluster to their owners in another."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...cache import RBCache, get_cache
from ...checks.site import caches_of_kind
from ..base import describe_node, failure_of
from ..keys import KeysCommand, Keyspace, for_json, home_of, number, readable
from ..migration.alone import OtherRunError, alone
from ..migration.copies import DIFFERENT, Transfer
from ..migration.migrating import Migration, Wishes
from ..migration.sides import Side, Sides
from ..output import RateProgress, bytes_of

QUESTION = """You have requested a copy of keys from {old} to {new}:
{what}.
{losses}
Are you sure you want to do this?"""


class Command(KeysCommand):
    help = (
        "Copies the keys of one cluster to the nodes that own them in another, with their "
        "types and expiry. Keys that exist in the new cluster are not changed. You can stop "
        "the command and start it again at any time. --dry-run shows how many keys and bytes "
        "would be copied from which node to which."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "old", metavar="OLD", help="The cluster in settings.RB_CLUSTERS to copy from."
        )
        parser.add_argument(
            "new",
            metavar="NEW",
            help="The cluster to copy to. Keys with the same node in both clusters are not "
            "copied.",
        )
        parser.add_argument(
            "pattern",
            nargs="?",
            default="*",
            metavar="PATTERN",
            help="Only keys that match this glob pattern: *, ?, [abc]. Escape these characters "
            "with a backslash. Default: all keys.",
        )
        parser.add_argument(
            "--cache",
            metavar="ALIAS",
            help="Only keys of this cache in settings.CACHES, with its prefix and version. "
            "Default: all keys.",
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="Overwrite keys that exist in the new cluster. Default: do not change them.",
        )
        parser.add_argument(
            "--delete",
            action="store_true",
            help="Delete keys from the old cluster once the new one has them with the same "
            "value and expiry. Keys that change in the meantime are kept.",
        )
        parser.add_argument(
            "--verify",
            action="store_true",
            help="Compare the keys that exist in both clusters, and report those that differ.",
        )
        parser.add_argument(
            "--from-any-node",
            action="store_true",
            help="Copy keys from the node where they are found, for keys that another program "
            "has placed. Default: only from the node that owns them in the old cluster; others "
            "may have outdated copies.",
        )
        parser.add_argument(
            "--rate", type=number, metavar="N", help="Copy at most N keys per second."
        )
        self.add_confirm_arguments(
            parser,
            "Show how many keys and bytes would be copied where, without changing anything.",
        )
        self.add_format_argument(parser)
        self.add_timeout_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        old, new = options["old"], options["new"]
        if old == new:
            raise CommandError(f"OLD and NEW are both {old!r}. Give two different clusters.")
        chosen = self.get_clusters([old, new])
        self.check_owners_known(Keyspace(chosen))
        cache = get_cache(options["cache"]) if options["cache"] else None
        if cache is not None:
            cache.check_settings()
        pattern = Keyspace({}, cache, options["cache"]).pattern(options["pattern"])
        names = Wishes.__dataclass_fields__.keys() - {"seals"}
        wishes = Wishes(
            **{name: options[name] for name in names}, seals=is_warmed(new, from_cluster=old)
        )
        if not wishes.dry_run and not self.is_wanted(wishes, options):
            return
        sides = Sides(*(Side(alias, chosen[alias], options["timeout"]) for alias in (old, new)))
        sizes = sides.old.nodes.sizes()
        what = "Counting" if wishes.dry_run else "Copying"
        screen = None if self._is_quiet else self.stderr
        with RateProgress(screen, what, sum(sizes.values()), "keys") as progress:
            is_interrupted = False
            try:
                with nullcontext() if wishes.dry_run else alone(sides.old, wishes.delete):
                    Migration(sides, wishes, progress).run(pattern, sizes)
            except KeyboardInterrupt:
                is_interrupted = True
            except OtherRunError:
                raise CommandError(
                    f"Another rb_migrate is copying keys from {old}, and one of the two uses "
                    "--delete. Wait until it has ended, or stop it, and then start this one "
                    "again."
                ) from None
        self.report(sides, pattern, options)
        if is_interrupted:
            raise CommandError(
                "Interrupted. Run the command again to continue: keys that were copied are "
                "not copied again.",
                returncode=128 + signal.SIGINT,
            )
        self.fail(sides, options)

    def is_wanted(self, wishes: Wishes, options: Mapping[str, Any]) -> bool:
        """Ask for confirmation, unless no keys can be lost, or with --no-input."""
        old, new = options["old"], options["new"]
        losses = []
        if wishes.replace:
            losses.append(f"This will OVERWRITE keys that exist in {new}.")
        if wishes.delete:
            losses.append(f"This will DELETE keys from {old} once {new} has them.")
        if not losses or not options["interactive"]:
            return True
        of = f" of the cache {options['cache']!r}" if options["cache"] else ""
        question = QUESTION.format(
            old=old,
            new=new,
            what=f"those that match '{options['pattern']}'{of}",
            losses="\n".join(losses),
        )
        return self.confirm(question, "Migration", options["format"])

    # The result.

    def report(self, sides: Sides, pattern: bytes, options: Mapping[str, Any]) -> None:
        """Write what was copied from which node to which."""
        if options["format"] == "json":
            self.write_json(describe(sides, pattern, is_dry_run=options["dry_run"]))
            return
        self.stdout.write(self.show(sides, options))
        for count, text in (
            (sides.tally.stayed, "have the same node in both"),
            (
                sides.tally.strays,
                "were skipped, because they are on nodes that do not own them",
            ),
            (sides.tally.taken_back, "were deleted in the meantime, and are not copied"),
        ):
            if count:
                self.stdout.write(f"{keys_of(count)} {text}.")

    def show(self, sides: Sides, options: Mapping[str, Any]) -> str:
        """Return the transfers as a table, without empty columns."""
        old, new, transfers = sides.old.alias, sides.new.alias, sides.tally.transfers
        total = Transfer()
        for transfer in transfers.values():
            for name, value in vars(transfer).items():
                setattr(total, name, getattr(total, name) + value)
        columns = ["keys", "size", "there"]
        columns += ["deleted"] if options["delete"] else []
        columns += [name for name in ("different", "failed") if getattr(total, name)]
        first = "WOULD GO" if options["dry_run"] else "COPIED"
        names = {"keys": first, "size": "BYTES", "there": "THERE"}
        rows: list[list[str | int]] = [
            [f"{old} {source}", f"{new} {owner}", *cells(transfer, columns)]
            for (source, owner), transfer in sorted(transfers.items())
        ]
        rows.append(["total", "", *cells(total, columns)])
        header = ["FROM", "TO", *(names.get(name, name.upper()) for name in columns)]
        return self.table(header, rows, right=header[2:])

    def fail(self, sides: Sides, options: Mapping[str, Any]) -> None:
        """End with exit status 1 if a node failed, or keys are missing or different."""
        errors = {**sides.old.nodes.failures, **sides.new.nodes.failures}
        problems = [
            f"{keys_of(problem.count)}, such as {', '.join(map(readable, problem.keys))}: {why}"
            for why, problem in sides.tally.problems.items()
        ]
        if DIFFERENT in sides.tally.problems and not options["replace"]:
            problems.append("Use --replace to overwrite them with those of the old cluster.")
        try:
            total = len(sides.old.nodes.addresses) + len(sides.new.nodes.addresses)
            self.fail_for(errors, total, done="read completely")
        except CommandError as error:
            raise CommandError("\n".join([str(error), *problems])) from None
        if problems:
            raise CommandError("\n".join(problems))


def is_warmed(cluster: str, *, from_cluster: str) -> bool:
    """Return whether a cache of the site on a cluster has the other one as its WARM_FROM."""
    return any(
        home_of(alias) == cluster
        and (config.get("OPTIONS") or {}).get("WARM_FROM") == from_cluster
        for alias, config in caches_of_kind(RBCache)
    )


def cells(transfer: Transfer, columns: Sequence[str]) -> list[str | int]:
    """Return the cells for a transfer."""
    return [
        bytes_of(transfer.size) if name == "size" else f"{getattr(transfer, name):,}"
        for name in columns
    ]


def keys_of(count: int) -> str:
    """Return a number of keys as text."""
    return f"{count:,} key{'' if count == 1 else 's'}"


def describe(sides: Sides, pattern: bytes, *, is_dry_run: bool) -> dict[str, Any]:
    """Return the result for JSON."""
    tally = sides.tally

    def node(side: Side, host_id: int) -> dict[str, Any]:
        name = (side.alias, host_id)
        return describe_node(name, side.cluster.get_address(host_id))

    return {
        "pattern": for_json(pattern),
        "dry_run": is_dry_run,
        "transfers": [
            {
                "from": node(sides.old, source),
                "to": node(sides.new, owner),
                "keys": transfer.keys,
                "bytes": transfer.size,
                "there": transfer.there,
                "different": transfer.different,
                "deleted": transfer.deleted,
                "failed": transfer.failed,
            }
            for (source, owner), transfer in sorted(tally.transfers.items())
        ],
        "stayed": tally.stayed,
        "strays": tally.strays,
        "taken_back": tally.taken_back,
        "problems": [
            {"problem": why, "count": one.count, "keys": list(map(for_json, one.keys))}
            for why, one in tally.problems.items()
        ],
        "errors": [
            {**node(side, name[1]), "error": failure_of(name, why).partition(": ")[2]}
            for side in (sides.old, sides.new)
            for name, why in side.nodes.failures.items()
        ],
    }
