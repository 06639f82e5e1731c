"""The sessions that docs/commands.md shows, run on nodes of their own.

A session is a block of the page with the state of the nodes above it:

    <!-- nodes: hurt -->
    ```console
    $ python manage.py rb_status

`python -m tests.management.documented` puts into the page what the commands say now;
test_documented.py compares it with the page, but for numbers that differ from run to run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes

from .processes import ROOT, Terminal, environment, on_nodes

PAGE = ROOT / "docs" / "commands.md"
SESSION = re.compile(
    r"(?P<head><!-- nodes: (?P<state>[a-z]+) -->\n```console\n"
    r"\$ python manage\.py (?P<command>[^\n]*)\n)"
    r"(?P<output>.*?)(?=^```$)",
    re.DOTALL | re.MULTILINE,
)
PROMPT = "to cancel: "
ERASED = re.compile(r"[^\n]*\r\x1b\[K")  # progress bars


@contextmanager
def nodes_in(state: str) -> Iterator[dict[str, str]]:
    """Start four nodes for two clusters; yield the environment in which they are known.

    Args:
        state: "living"; "hurt": 1 is killed and 2 is stopped; "killed": 1 is; "none": there
            are no nodes, as where `rb_nodes` starts them.
    """
    if state == "none":
        yield environment("tests.management.documented_settings")
        return
    with LocalNodes(4) as nodes:
        fill(nodes, "page", 20_000)
        sessions = {host_id: {**host, "db": 1} for host_id, host in nodes.hosts.items()}
        fill(nodes, "session", 1_000, db=1)
        for host_id in {"living": (), "killed": (1,), "hurt": (1,)}[state]:
            nodes.kill(host_id)
        if state == "hurt":
            nodes.pause(2)
        yield on_nodes(default=nodes.hosts, sessions=sessions)


def fill(nodes: LocalNodes, prefix: str, count: int, db: int = 0) -> None:
    """Store keys, and look up some that are there and some that are not."""
    cluster = Cluster(nodes.hosts, {"db": db}, router_cls=SlotRouter)
    with cluster.map() as client:
        for number in range(count):
            client.set(f"{prefix}:{number}", "x" * 100)
    with cluster.map() as client:
        for number in range(count // 10, count + count // 10):
            client.get(f"{prefix}:{number}")
    cluster.close()


def run(state: str, command: str, shown: str) -> str:
    """Return what a person sees who types a command, and "yes" where the page has it."""
    with nodes_in(state) as env:
        env["DJANGO_COLORS"] = "nocolor"
        with Terminal(*shlex.split(command), env=env) as terminal:
            for _ in range(shown.count(f"{PROMPT}yes\n")):
                terminal.read_until(PROMPT)
                terminal.type("yes\n")
            _, said = terminal.read_to_end()
    return ERASED.sub("", said)


def rewrite(page: Path) -> None:
    """Put what the commands say now into a page."""

    def renewed(session: re.Match[str]) -> str:
        return session["head"] + run(session["state"], session["command"], session["output"])

    page.write_text(SESSION.sub(renewed, page.read_text()))


if __name__ == "__main__":
    rewrite(PAGE)
