"""manage.py serve: the bookshop on four local nodes, with nothing to set up."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

PROJECT = Path(__file__).parents[3]
HOST = "127.0.0.1"
TRIES = 50

# Who may see the pages about the nodes.
OPERATOR, OPERATOR_PASSWORD = "operator", "marginalia"


class Command(BaseCommand):
    help = "Serves the bookshop on local nodes, at a port that is free. Ctrl-C ends both."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("port", nargs="?", type=int, default=8000, help="8000 by default.")
        parser.add_argument("--count", default="4", metavar="N", help="Nodes; 4 by default.")
        parser.add_argument(
            "--topology", default="static", help='"redis-cluster" for a Redis Cluster.'
        )

    def handle(self, *args: Any, **options: Any) -> None:
        port = find_port(options["port"])
        if options["port"] not in {0, port}:
            self.stdout.write(f"Port {options['port']} is taken; the next free one is {port}.")
        call_command("migrate", verbosity=0)
        make_operator()
        connections.close_all()
        self.stdout.write(
            f"Marginalia opens at http://{HOST}:{port}/\n"
            f"Its nodes are at http://{HOST}:{port}/admin/rb_admin/node/ "
            f"(log in as {OPERATOR} with the password {OPERATOR_PASSWORD})"
        )
        if apps.is_installed("debug_toolbar"):
            self.stdout.write(
                "Each page has the debug toolbar (DJDT, on the right). Its panel django-rb "
                "shows what the page asked the nodes for."
            )
        self.stdout.write("\n")
        nodes = ["--count", options["count"], "--topology", options["topology"]]
        call_command("rb_nodes", *nodes, "--", *uvicorn(port))


def make_operator() -> None:
    """Make the user for the admin. Nobody but this machine reaches the shop."""
    users = get_user_model().objects
    if not users.filter(username=OPERATOR).exists():
        users.create_superuser(OPERATOR, password=OPERATOR_PASSWORD)


def uvicorn(port: int) -> list[str]:
    """Return the words that start uvicorn, an ASGI server."""
    return [
        *(sys.executable, "-m", "uvicorn", "bookshop.asgi:application"),
        *("--app-dir", str(PROJECT), "--host", HOST, "--port", str(port)),
        *("--lifespan", "off", "--no-access-log"),
    ]


def find_port(wanted: int) -> int:
    """Return the wanted port, or the next one that is free."""
    for port in range(wanted, wanted + TRIES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            free: int = probe.getsockname()[1]
            return free
    raise CommandError(f"No port from {wanted} to {wanted + TRIES - 1} is free; name another.")
