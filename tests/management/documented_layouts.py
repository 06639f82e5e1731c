"""The sessions that docs/nodes-that-come-and-go.md shows, each on nodes of its own.

A session is a block of commands that run one after the other, with a name above it that says
which two layouts there are; they are the clusters "old" and "default":

    <!-- layouts: added -->
    ```console
    $ python manage.py rb_migrate old default --dry-run

`python -m tests.management.documented_layouts` puts into the page what the commands say now;
test_documented_layouts.py compares it with the page, but for numbers.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django_rb.engine import Cluster, PartitionRouter, SlotRouter
from django_rb.testing import LocalNodes

from .documented import ERASED
from .processes import ROOT, Terminal, project

PAGE = ROOT / "docs" / "nodes-that-come-and-go.md"
SESSION = re.compile(
    r"(?P<head><!-- layouts: (?P<name>[a-z-]+) -->\n```console\n)(?P<said>.*?)(?=^```$)",
    re.DOTALL | re.MULTILINE,
)
PROMPT = "$ python manage.py "
PARTITIONS = "django_rb.engine.PartitionRouter"
KEYS = 3000


def layouts(name: str, nodes: LocalNodes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the old and the new cluster of a session."""
    hosts = nodes.hosts

    def some(*host_ids: int, **settings: Any) -> dict[str, Any]:
        return {"HOSTS": {host_id: hosts[host_id] for host_id in host_ids}, **settings}

    managed = {"HOSTS": list(hosts.values()), "TOPOLOGY": nodes.topology}
    match name:
        case "added":
            return some(0, 1, 2), some(0, 1, 2, 3)
        case "removed":
            return some(0, 1, 2, 3), some(0, 1, 3)
        case "replaced":
            return some(0, 1, 2), {"HOSTS": {0: hosts[0], 1: hosts[3], 2: hosts[2]}}
        case "weights":
            return some(0, 1, 2), some(0, 1, 2, ROUTER_OPTIONS={"weights": {2: 2}})
        case "several":
            return some(0), some(0, 1, 2)
        case "from-rb":
            return some(0, 1, 2, ROUTER=PARTITIONS), some(0, 1, 2)
        case "sharded":  # PartitionRouter plays a program that places keys in its own way
            return some(0, 1), some(0, 1, 2, 3)
        case "from-cluster":
            return managed, {}
    return some(0, 1), managed


@contextmanager
def layouts_in(name: str) -> Iterator[dict[str, str]]:
    """Start nodes, store keys in the old layout; yield the environment that knows both."""
    with ExitStack() as stack:
        nodes = stack.enter_context(LocalNodes(4))
        old, new = layouts(name, nodes)
        if name in {"to-cluster", "from-cluster"}:
            managed = stack.enter_context(LocalNodes(3, topology="redis-cluster"))
            if name == "to-cluster":
                new = layouts(name, managed)[1]
            else:
                old, new = layouts(name, managed)[0], {"HOSTS": nodes.hosts}
        router = PartitionRouter if name in {"from-rb", "sharded"} else SlotRouter
        if "TOPOLOGY" in old:
            cluster = Cluster(old["HOSTS"], topology=old["TOPOLOGY"])
        else:
            cluster = Cluster(old["HOSTS"], router_cls=router)
        with cluster.map() as client:
            for number in range(KEYS):
                client.set(f":1:page:{number}", "x" * 100, ex=3600)
        cluster.close()
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        env = project(Path(directory), {"old": old, "default": new})
        env["DJANGO_COLORS"] = "nocolor"
        yield env


def run(name: str, said: str) -> str:
    """Return what a person sees who types the commands of a session one after the other."""
    seen = []
    with layouts_in(name) as env:
        for line in said.splitlines():
            if line.startswith(PROMPT):
                command = line.removeprefix(PROMPT)
                with Terminal(*shlex.split(command), env=env) as terminal:
                    _, shown = terminal.read_to_end()
                seen.append(f"{line}\n{ERASED.sub('', shown)}")
    return "".join(seen)


def rewrite(page: Path) -> None:
    """Put what the commands say now into the page."""

    def renewed(session: re.Match[str]) -> str:
        return session["head"] + run(session["name"], session["said"])

    page.write_text(SESSION.sub(renewed, page.read_text()))


if __name__ == "__main__":
    rewrite(PAGE)
