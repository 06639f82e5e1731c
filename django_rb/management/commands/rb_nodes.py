"""manage.py rb_nodes: local nodes for as long as a command runs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.core.management.base import CommandError, CommandParser

from ... import conf
from ...engine.topology.settings import REDIS_CLUSTER, SENTINEL, STATIC, TOPOLOGIES
from ...testing import LocalNodes, NodesError
from ...testing.control import ask
from ...testing.nodes import START_SECONDS
from ..base import NodesCommand, as_aliases
from ..running import run, wait

DEFAULT_COUNT = 4
DEFAULT_PRIMARIES = 3
SERVER_DATABASES = 16  # a server's default

# The socket for requests to a running rb_nodes to stop or start nodes.
CONTROL_VARIABLE = "DJANGO_RB_CONTROL"

MAX_PORT = 65535

TITLES = {SENTINEL: "monitored by three Sentinels", REDIS_CLUSTER: "a Redis Cluster"}


class Command(NodesCommand):
    help = (
        "Starts local nodes and runs a command with them: a management command of this "
        "project, or any program. Without a command it waits for Ctrl-C. The nodes and their "
        "data are removed when it ends."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--count",
            type=count,
            metavar="N",
            help="Number of nodes. Default: that of the largest cluster in "
            f"settings.RB_CLUSTERS, or {DEFAULT_COUNT} if there is none. For a Redis "
            f"Cluster, the number of primaries; default: {DEFAULT_PRIMARIES}.",
        )
        parser.add_argument(
            "--topology",
            choices=TOPOLOGIES,
            help='"static" for independent nodes, "sentinel" for nodes monitored by three '
            'Sentinels, "redis-cluster" for a Redis Cluster. '
            "Default: the TOPOLOGY of each cluster in settings.RB_CLUSTERS.",
        )
        parser.add_argument(
            "--replicas",
            type=replicas,
            metavar="N",
            help="Number of replicas of each primary. Default: 0 for a Redis Cluster, 1 with "
            "Sentinels.",
        )
        parser.add_argument(
            "--port",
            type=port,
            metavar="PORT",
            help="The port of node 0. The other nodes use the following ports. Default: free "
            "ports.",
        )
        parser.add_argument(
            "--keep",
            metavar="DIR",
            help="Keep the data in this directory, and load the data that is there.",
        )
        for name, text in (
            (
                "stop",
                "Stop a node that another rb_nodes has started. Its `export` line must be set "
                "in this environment.",
            ),
            ("restart", "Restart such a node, whether it is running or stopped."),
        ):
            parser.add_argument(f"--{name}", type=host_id, metavar="N", help=text)
        self.add_cluster_argument(
            parser,
            "A cluster in settings.RB_CLUSTERS that gets local nodes; the others keep their "
            "configured nodes. May be repeated. Default: all clusters.",
        )
        self.add_format_argument(parser)
        self.add_timeout_argument(
            parser,
            f"Seconds to wait for each node to start. Default: {START_SECONDS:g}.",
        )
        parser.add_argument(
            "command",
            nargs="*",
            metavar="COMMAND",
            help="The command to run and its arguments, after two dashes: -- runserver 8000",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for name, do in (("stop", "kill"), ("restart", "restart")):
            if options[name] is not None:
                self.ask(do, options[name])
                return
        if conf.NODES_VARIABLE in os.environ:
            raise CommandError(
                f"The environment variable {conf.NODES_VARIABLE} is set: local nodes are "
                "already used in place of the configured ones, as inside another rb_nodes. "
                "Unset it to start new ones."
            )
        command = self.resolve(options["command"])
        aliases = get_aliases(options["cluster"])
        topologies = {alias: options["topology"] or find_topology(alias) for alias in aliases}
        if options["replicas"] and {*topologies.values()} == {STATIC}:
            raise CommandError(
                "--replicas can only be used with --topology redis-cluster or --topology "
                "sentinel."
            )
        if options["keep"] and {*topologies.values()} != {STATIC}:
            raise CommandError(
                "--keep can only be used with independent nodes: --topology static."
            )
        status = 0
        try:
            with ExitStack() as stack:
                placed = start_nodes(stack, topologies, options)
                variables = {conf.NODES_VARIABLE: json.dumps(environment_of(placed))}
                if len(placed) == 1:  # otherwise a host id would be ambiguous
                    variables[CONTROL_VARIABLE] = placed[0].nodes.control
                self.report(placed, variables, options["format"])
                if command:
                    status = run(command, self.environment(variables, options["pythonpath"]))
                else:
                    wait(
                        self.stderr.write if options["format"] == "json" else self.stdout.write
                    )
        except NodesError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:  # while the nodes were starting or ending
            status = 128 + signal.SIGINT
        if status:
            sys.exit(status)

    def ask(self, do: str, host_id: int) -> None:
        """Stop or start a node of another rb_nodes."""
        control = os.environ.get(CONTROL_VARIABLE)
        if not control:
            raise CommandError(
                f"The environment variable {CONTROL_VARIABLE} is not set, so there are no "
                "local nodes to stop or start. Run the `export` line that rb_nodes has "
                "printed first."
            )
        try:
            ask(control, do, host_id)
        except NodesError as error:
            raise CommandError(str(error)) from error
        done = "stopped" if do == "kill" else "restarted"
        self.stdout.write(f"Node {host_id} was {done}.", self.style.SUCCESS)

    def resolve(self, command: Sequence[str]) -> list[str]:
        """Return the command line that starts a management command or a program."""
        if not command:
            return []
        name = command[0]
        known = get_commands()
        if name in known:
            return [sys.executable, *self.entry_point(), *command]
        if program := shutil.which(name):
            return [program, *command[1:]]
        near = get_close_matches(name, known, n=1)
        raise CommandError(
            f"{name!r} is neither a management command of this project nor a program on "
            f"the PATH. {f'Did you mean {near[0]!r}? ' if near else ''}"
            "`manage.py help` lists the commands."
        )

    def entry_point(self) -> list[str]:
        """Return the command line that runs management commands of this project."""
        script = Path(sys.argv[0])
        if script.name == "manage.py" or (
            getattr(self, "_called_from_command_line", False)
            and script.name not in {"django-admin", "__main__.py"}
        ):
            return [str(script)]
        return ["-m", "django"]

    def environment(
        self, variables: Mapping[str, str], pythonpath: str | None
    ) -> dict[str, str]:
        """Return the environment of a command: this one's, and the nodes."""
        environment = {**os.environ, **variables}
        if pythonpath:  # it was added to sys.path; the child has its own
            paths = [pythonpath, environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return environment

    def report(self, placed: Sequence[Placed], variables: Mapping[str, str], form: str) -> None:
        """Write where the nodes are."""
        if form == "json":
            self.write_json(
                {
                    "server": placed[0].nodes.server,
                    "nodes": [place for group in placed for place in group.places()],
                    "clusters": {a: urls for group in placed for a, urls in group.urls.items()},
                    "environment": variables,
                }
            )
            return
        for group in placed:
            nodes, places = group.nodes, group.places()
            total = sum("is_sentinel" not in place for place in places)
            title = f"{total} {'node' if total == 1 else 'nodes'} of {nodes.server}"
            header = ["HOST ID", "ADDRESS", "PID"]
            rows = [
                [str(place["host_id"]), f"{place['host']}:{place['port']}", place["pid"]]
                for place in places
            ]
            if nodes.topology != STATIC:
                kind = TITLES[nodes.topology]
                title += f", {kind} for {' and '.join(group.urls)}"
                header.append("ROLE")
                for row, place in zip(rows, places, strict=True):
                    row.append(role_of(place))
            self.stdout.write(title, self.style.SUCCESS)
            end = "\n" if group is placed[-1] else "\n\n"
            self.stdout.write(f"\n{self.table(header, rows)}", ending=end)
        databases = [
            (alias, urls[0].rpartition("/")[2])
            for group in placed
            for alias, urls in group.urls.items()
        ]
        for part in (
            self.table(("CLUSTER", "DATABASE"), databases),
            "To use them from other programs, set:\nexport "
            + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()),
        ):
            self.stdout.write(f"\n{part}")
        self.stdout.write()
        self.stdout.flush()  # before a child process writes to the same file


@dataclass
class Placed:
    """Local nodes, and the clusters that are on them, with their URLs."""

    nodes: LocalNodes
    urls: Mapping[str, list[str]]

    def places(self) -> list[dict[str, Any]]:
        """Return each node for JSON."""
        nodes = self.nodes
        places = []
        for number in nodes.states():
            address = nodes.address(number)
            place = {
                "host_id": number,
                "host": address["host"],
                "port": address["port"],
                "pid": nodes.pid(number),
            }
            if nodes.topology != STATIC:
                is_primary = number < nodes.count
                is_sentinel = number >= nodes.count * (1 + nodes.replicas)
                is_replica = not is_primary and not is_sentinel
                place["replica_of"] = number % nodes.count if is_replica else None
                if is_sentinel:
                    place["is_sentinel"] = True
            places.append(place)
        return places


def role_of(place: Mapping[str, Any]) -> str:
    """Return the role of a node when it starts, as text."""
    if place.get("is_sentinel"):
        return "Sentinel"
    primary = place["replica_of"]
    return "primary" if primary is None else f"replica of {primary}"


def start_nodes(
    stack: ExitStack, topologies: Mapping[str, str], options: Mapping[str, Any]
) -> list[Placed]:
    """Start nodes for clusters: shared ones for static clusters, separate ones for others."""
    placed: list[Placed] = []
    next_port = options["port"]
    start_seconds = options["timeout"] or START_SECONDS
    static = [alias for alias, topology in topologies.items() if topology == STATIC]
    if static:
        nodes = LocalNodes(
            options["count"] or find_count(static),
            options={"databases": str(max(SERVER_DATABASES, len(static)))},
            start_seconds=start_seconds,
            first_port=next_port,
            keep=options["keep"],
        )
        placed.append(Placed(stack.enter_context(nodes), assign_databases(nodes, static)))
        next_port = next_port and next_port + nodes.count
    for alias in [alias for alias in topologies if alias not in static]:
        is_watched = topologies[alias] == SENTINEL
        default = find_count([alias]) if is_watched else DEFAULT_PRIMARIES
        replicas = int(is_watched) if options["replicas"] is None else options["replicas"]
        nodes = LocalNodes(
            options["count"] or default,
            topology=topologies[alias],
            replicas=replicas,
            start_seconds=start_seconds,
            first_port=next_port,
        )
        placed.append(Placed(stack.enter_context(nodes), {alias: nodes.urls}))
        next_port = next_port and next_port + len(nodes.states())
    return placed


def environment_of(placed: Sequence[Placed]) -> dict[str, object]:
    """Return the content of NODES_VARIABLE."""
    return {
        alias: urls
        if group.nodes.topology == STATIC
        else {
            "TOPOLOGY": group.nodes.topology,
            "HOSTS": urls,
            **({"SENTINELS": group.nodes.sentinels} if group.nodes.sentinels else {}),
        }
        for group in placed
        for alias, urls in group.urls.items()
    }


def find_topology(alias: str) -> str:
    """Return a cluster's topology in the settings."""
    try:
        return conf.get_topology(conf.get_config(alias))
    except ImproperlyConfigured:  # as in find_count()
        return STATIC


def replicas(text: str) -> int:
    """Return the value of --replicas."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas, 0 or more.")
    return int(text)


def port(text: str) -> int:
    """Return the value of --port."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to {MAX_PORT}.")
    return int(text)


def host_id(text: str) -> int:
    """Return the value of --stop or --restart."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not the host id of a node.")
    return int(text)


def count(text: str) -> int:
    """Return the value of --count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nodes, 1 or more.")
    return int(text)


def get_aliases(chosen: str | Iterable[str] | None) -> list[str]:
    """Return the clusters that get local nodes: those of --cluster, all by default."""
    known = conf.get_aliases() or ["default"]
    aliases = as_aliases(chosen) or known
    for alias in aliases:
        if alias not in known:
            conf.check_alias(alias)
    return aliases


def find_count(aliases: Sequence[str]) -> int:
    """Return how many hosts the largest cluster has."""
    counts = []
    for alias in aliases:
        try:
            counts.append(len(conf.make_cluster(alias).hosts))
        except ImproperlyConfigured:
            # Hosts that exist only in production are a reason to use rb_nodes. The command
            # that needs the cluster reports other mistakes.
            continue
    return max(counts, default=DEFAULT_COUNT)


def assign_databases(nodes: LocalNodes, aliases: Sequence[str]) -> dict[str, list[str]]:
    """Return ``{alias: [URL, …]}``: all nodes for each cluster, a database for each."""
    return {
        alias: [f"{url.removesuffix('/0')}/{number}" for url in nodes.urls]
        for number, alias in enumerate(aliases)
    }
