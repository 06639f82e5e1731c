"""What all management commands have in common: options, nodes, output, questions.

A command inherits from `NodesCommand` and has three parts: `add_arguments` calls
`add_node_arguments`; `handle` asks all nodes in parallel (`call_clusters` for one command
each, `at_once` for several steps with each cluster) and writes the replies, as a table or as
one JSON document; and `fail_for` reports the failed nodes and ends with exit status 1.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol, TextIO, TypeVar

import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    OutputWrapper,
)

from .. import clusters, conf
from ..engine import Cluster
from ..engine.wording import escaped
from .output import Paint, Progress, Screen, Shown, as_json, format_table, width_of

T = TypeVar("T")

NodeName = tuple[str, int]  # a cluster's alias and a host id


# The errors if the file that output is written to cannot grow.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Hashable(Protocol):
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=_Hashable)


class NodesCommand(BaseCommand):
    """A command about nodes. Mistakes in RB_CLUSTERS become CommandErrors by themselves."""

    # Commands validate the settings that they need. They should also work on a site that has
    # a mistake elsewhere.
    requires_system_checks = []

    _is_quiet = False
    _timeout: float | None = None

    def __init__(
        self, stdout: TextIO | None = None, stderr: TextIO | None = None, **options: Any
    ) -> None:
        super().__init__(stdout, stderr, **options)
        self.stdout = Screen(stdout or sys.stdout)
        self.stderr = Screen(stderr or sys.stderr)
        self.stderr.style_func = self.style.ERROR

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a process: Ctrl-C and a closed pipe end it without a traceback."""
        # The command itself reports failing nodes, so they are not logged on standard error.
        # Handlers that the site has configured still get the records.
        logging.getLogger("django_rb.health").addHandler(logging.NullHandler())
        try:
            super().run_from_argv(argv)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted.")
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:  # as in `manage.py rb_status | head -1`
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.dup2(nowhere, sys.stderr.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.stderr.write(f"Standard output cannot be written: {error.strerror}.")
            sys.exit(1)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._is_quiet = options.get("verbosity") == 0
        self._timeout = options.get("timeout")
        for name in ("stdout", "stderr"):
            if stream := options.pop(name, None):
                setattr(self, name, Screen(stream))
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(escaped(error)) from error
        except CommandError as error:
            error.args = (escaped(error, keep="\n"),)
            raise
        finally:
            self.stdout.flush()  # here, where a closed pipe is detected

    # Options.

    def add_node_arguments(self, parser: CommandParser) -> None:
        """Add the options of every command: --cluster, --format and --timeout."""
        self.add_cluster_argument(parser)
        self.add_format_argument(parser)
        self.add_timeout_argument(parser)

    def add_cluster_argument(
        self,
        parser: CommandParser,
        text: str = "A cluster in settings.RB_CLUSTERS. May be repeated. Default: all.",
    ) -> None:
        parser.add_argument("--cluster", action="append", metavar="ALIAS", help=text)

    def add_format_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--format",
            choices=("table", "json"),
            default="table",
            help='Output format. "json" writes one document to standard output, for programs.',
        )

    def add_timeout_argument(
        self,
        parser: CommandParser,
        text: str = "Seconds to wait for each node before it counts as failed. Default: the "
        "timeouts in POOL_OPTIONS.",
    ) -> None:
        parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help=text)

    def add_confirm_arguments(self, parser: CommandParser, dry_run: str) -> None:
        """Add --no-input (`interactive`), and --dry-run with this help."""
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Do not ask for confirmation.",
        )
        parser.add_argument("--dry-run", action="store_true", help=dry_run)

    def get_clusters(self, aliases: str | Iterable[str] | None) -> dict[str, Cluster]:
        """Return the clusters of --cluster, by default all.

        The nodes of a Redis Cluster are asked which nodes it has. If none answers, those of
        HOSTS are used.
        """
        chosen = as_aliases(aliases) or conf.get_aliases()
        if not chosen:
            raise CommandError(
                f"settings.{conf.SETTING} is missing or empty: there are no nodes. "
                f"Add {conf.SETTING} = {{'default': {{'HOSTS': [{{'host': '127.0.0.1'}}]}}}}."
            )
        return known_clusters(chosen, self._timeout)

    def learn(self, cluster: Cluster) -> None:
        """Let a cluster find its nodes, if they answer."""
        learn(cluster, self._timeout)

    # Output.

    def write_json(self, document: object, *, in_one_line: bool = False) -> None:
        """Write one JSON document to standard output, and flush it.

        Raises:
            ValueError: it contains an infinite number, or NaN, which JSON does not have.
        """
        self.stdout.write(as_json(document, None if in_one_line else 2))
        self.stdout.flush()  # before a child process writes to the same file

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str | int]],
        paint: Paint | None = None,
        right: Sequence[str] = (),
    ) -> Shown:
        """Return a table as wide as the terminal allows; see `format_table`."""
        return format_table(header, rows, paint, right=right, width=width_of(self.stdout))

    def screen(self, output_format: str) -> OutputWrapper:
        """Return the stream for people: standard error if standard output has JSON."""
        return self.stderr if output_format == "json" else self.stdout

    def progress(self, what: str, total: int | None, unit: str) -> Progress:
        """Return a progress bar on standard error; it is hidden with --verbosity 0."""
        return Progress(None if self._is_quiet else self.stderr, what, total, unit)

    def fail_for(
        self,
        errors: Mapping[Any, object],
        total: int,
        done: str = "queried",
        noun: str = "node",
    ) -> None:
        """End with exit status 1 and report the failures, if there are any.

        Args:
            errors: by node, as (alias, host id) or as text.
            total: the number of nodes, including those without an error.
            done: what should have been done with them.
        """
        if not errors:
            return
        lines = list(map(failure_of, errors, errors.values()))
        raise CommandError(
            f"{len(errors)} of {total} {noun}{'' if total == 1 else 's'} "
            f"could not be {done}:\n" + "\n".join(lines)
        )

    # Questions.

    def confirm(self, question: str, name: str, output_format: str) -> bool:
        """Ask and return whether the answer is "yes".

        Args:
            question: what is lost, and whether to continue.
            name: the name of the action, as in "Flush".

        Raises:
            CommandError: there is no terminal to ask on, or the answer is Ctrl-C.
        """
        screen = self.screen(output_format)
        text = f"\n{question}\n\n    Type 'yes' to continue, or 'no' to cancel: "
        try:
            screen.write(text, str, ending="")
            screen.flush()
            answer = input()
        except KeyboardInterrupt:
            screen.write()
            raise CommandError(f"{name} cancelled.", returncode=128 + signal.SIGINT) from None
        except EOFError:
            screen.write()
            raise CommandError(
                f"{name} cancelled: standard input is not a terminal, so confirmation is not "
                "possible. Use --no-input to continue without confirmation."
            ) from None
        if answer != "yes":
            screen.write(f"{name} cancelled.", str)
        return answer == "yes"


def known_clusters(aliases: Iterable[str], timeout: float | None) -> dict[str, Cluster]:
    """Return clusters that know their nodes, if these answer within `timeout` seconds."""
    found = {alias: clusters[alias] for alias in aliases}
    at_once(
        {
            alias: partial(learn, cluster, timeout)
            for alias, cluster in found.items()
            if cluster.layout is not None
        }
    )
    return found


def learn(cluster: Cluster, timeout: float | None) -> None:
    """Let a cluster find its nodes, if they answer."""
    with suppress(redis.RedisError):
        cluster.learn(timeout)


def as_aliases(chosen: str | Iterable[str] | None) -> list[str]:
    """Return the aliases of --cluster without duplicates; none if it was not given."""
    if isinstance(chosen, str):  # call_command(…, cluster="default")
        chosen = [chosen]
    return list(dict.fromkeys(chosen or ()))


def seconds(text: str) -> float:
    """Return the value of an option that is a time in seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds above 0.")
    return value


def name_of(node: NodeName) -> str:
    """Return a node as text: ``default 0``."""
    alias, host_id = node
    return f"{alias} {host_id}"


def failure_of(node: NodeName | str, error: object) -> str:
    """Return what failed, and why, as a line of text."""
    return escaped(f"{node if isinstance(node, str) else name_of(node)}: {error}")


def describe_node(node: NodeName, address: str) -> dict[str, Any]:
    """Return a node for JSON.

    Args:
        address: with its database, as from `Cluster.get_address`.
    """
    alias, host_id = node
    server, _, database = address.rpartition("/")
    return {
        "cluster": alias,
        "host_id": host_id,
        "address": server,
        "database": int(database),
    }


def all_nodes(chosen: Mapping[str, Cluster]) -> list[NodeName]:
    """Return all nodes of the clusters."""
    return [(alias, host_id) for alias, cluster in chosen.items() for host_id in cluster.hosts]


class Deadline:
    """The time when --timeout is over, for several commands to one node.

    Args:
        timeout: seconds from now; None for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + timeout

    def left(self) -> float | None:
        """Return the remaining seconds, as a timeout for the engine."""
        return None if self._end is None else max(0.0, self._end - monotonic())


def call_clusters(
    chosen: Mapping[str, Cluster],
    nodes: Iterable[NodeName],
    *command: Any,
    timeout: float | None = None,
) -> tuple[dict[NodeName, Any], dict[NodeName, Exception]]:
    """Run one command on nodes of several clusters in parallel.

    Returns:
        The replies by node, and the errors of nodes that did not reply.
    """
    host_ids: dict[str, list[int]] = {}
    for alias, host_id in nodes:
        host_ids.setdefault(alias, []).append(host_id)
    # A batch is for one cluster. In parallel, so that waits for clusters do not add up.
    outcomes = at_once(
        {
            alias: partial(chosen[alias].call_nodes, *command, hosts=hosts, timeout=timeout)
            for alias, hosts in host_ids.items()
        }
    )
    replies: dict[NodeName, Any] = {}
    errors: dict[NodeName, Exception] = {}
    for alias in host_ids:
        outcome = outcomes[alias]
        if isinstance(outcome, Exception):
            raise outcome
        answered, failures = outcome
        replies.update({(alias, host_id): reply for host_id, reply in answered.items()})
        errors.update({(alias, failure.host_id): failure.error for failure in failures})
    return replies, errors


def at_once(tasks: Mapping[K, Callable[[], T]]) -> dict[K, T | Exception]:
    """Run tasks in parallel; return what each returned or raised.

    Ctrl-C does not wait for them, as a node may not answer for a long time.
    """
    outcomes: SimpleQueue[tuple[K, T | Exception]] = SimpleQueue()

    def run(name: K, task: Callable[[], T]) -> None:
        try:
            outcomes.put((name, task()))
        except Exception as error:  # noqa: BLE001 (for the thread that waits)
            outcomes.put((name, error))

    for name, task in tasks.items():
        threading.Thread(target=run, args=(name, task), daemon=True).start()
    found = dict(outcomes.get() for _ in tasks)
    return {name: found[name] for name in tasks}
