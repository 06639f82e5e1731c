"""Use the cache from many threads and processes while nodes die, hang and come back.

    python -m tests.soak --minutes 10

Values say which key they are of and which write they come from, so that a reply that goes
astray is seen. Progress goes to standard error, the outcome to standard output. Ctrl-C ends
it early, with the outcome so far. The exit status is 1 for a wrong value, an exception that
no node's failure explains, a call that took longer than is promised, a descriptor or a
connection left in doubt, or a node that a process did not get back.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import django
import hiredis
import redis

from django_rb.engine.topology.settings import STATIC, TOPOLOGIES
from django_rb.testing import LocalNodes
from tests.soak.chaos import Chaos, ClusterChaos
from tests.soak.names import Names
from tests.soak.report import Ending, Report, Tally

MODES = ("threads", "asyncio")
SABOTAGE = ("value", "descriptor", "node")
END_SECONDS = 60.0


class Worker:
    """A process that uses the cache, and what it said so far."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.tally = Tally()
        self.ending: Ending | None = None
        self.begun = threading.Event()  # to work, or it died before
        # In a session of its own, as Ctrl-C goes to all processes of a terminal's.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.soak.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._tell(json.dumps(job))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it died; the report says so
            pass

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "tally" in said:
                self.tally = Tally.from_json(said["tally"])
                self.begun.set()
            else:
                self.ending = Ending(**said["ending"])
        self.begun.set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Tell it to end."""
        self._tell("end")

    def wait(self) -> None:
        """Wait for its last words; kill it if it has none."""
        self._listener.join(END_SECONDS)
        self.kill()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; return the exit status."""
    options = parse(arguments)
    with make_nodes(options) as nodes, tempfile.TemporaryDirectory() as folder:
        report = soak(nodes, Path(folder), options)
    if options.format == "json":
        print(json.dumps(report.as_json(), indent=2))
    else:
        print(report.as_table())
    return 1 if report.problems else 0


def make_nodes(options: argparse.Namespace) -> LocalNodes:
    """Return the nodes of a soak; those of a Redis Cluster have a replica each."""
    if options.topology == STATIC:
        return LocalNodes(options.nodes)
    return LocalNodes(
        options.nodes,
        topology=options.topology,
        replicas=1,
        options={"cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"},
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="default 3")
    parser.add_argument("--processes", type=int, default=3, help="default 3")
    parser.add_argument("--threads", type=int, default=4, help="in each process; default 4")
    parser.add_argument(
        "--mode",
        choices=[*MODES, "mixed"],
        default="mixed",
        help="how operations run side by side in a process; default: one after the other",
    )
    parser.add_argument("--nodes", type=int, default=4, help="default 4")
    parser.add_argument(
        "--topology",
        choices=TOPOLOGIES,
        default=STATIC,
        help="of the nodes; those of a Redis Cluster have a replica each, and change places",
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="default: another each time"
    )
    parser.add_argument(
        "--slack",
        type=float,
        default=0.5,
        help="seconds by which a call may exceed what is promised; default 0.5",
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument(
        "--sabotage", choices=SABOTAGE, help="spoil something, to see that it is noticed"
    )
    options = parser.parse_args(arguments)
    for name, least in (("processes", 1), ("threads", 1), ("nodes", 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; give it at least {least}.")
    if options.topology != STATIC and options.nodes < 3:
        parser.error(f"--nodes is {options.nodes}; a Redis Cluster has at least 3 primaries.")
    if not 0 < options.minutes < 10_000:
        parser.error(f"--minutes is {options.minutes}; give it a number above 0.")
    return options


def soak(nodes: LocalNodes, folder: Path, options: argparse.Namespace) -> Report:
    """Run workers and chaos for as long as was asked for, or until Ctrl-C."""
    about = {
        "python": platform.python_version(),
        "django": django.__version__,
        "redis-py": redis.__version__,
        "hiredis": hiredis.__version__,
        "server": nodes.server,
        "topology": options.topology,
        "nodes": options.nodes,
        "processes": options.processes,
        "threads": options.threads,
        "seed": options.seed,
    }
    names = Names(folder / "names.json")
    make_chaos = Chaos if options.topology == STATIC else ClusterChaos
    chaos = make_chaos(nodes, names, options.seed)
    workers: list[Worker] = []
    began = time.monotonic()
    try:
        try:
            workers += [
                start_worker(nodes, names, options, number)
                for number in range(options.processes)
            ]
            pids = " ".join(str(worker.pid) for worker in workers)
            say(f"Soaking with seed {options.seed}, in the processes {pids}.")
            for worker in workers:
                worker.begun.wait(END_SECONDS)
            began = time.monotonic()
            chaos.start()
            watch(workers, chaos, began, began + options.minutes * 60)
        except KeyboardInterrupt:
            say("Ending early …")
        seconds = time.monotonic() - began
        chaos.stop()
        if options.sabotage == "node":
            nodes.kill(0)
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.kill()
    total = Tally()
    for worker in workers:
        total.add(worker.tally)
    endings = [worker.ending for worker in workers]
    return Report(about, seconds, total, endings, chaos.done, options.slack)


def start_worker(
    nodes: LocalNodes, names: Names, options: argparse.Namespace, number: int
) -> Worker:
    modes = MODES if options.mode == "mixed" else (options.mode,)
    return Worker(
        {
            "number": number,
            "topology": nodes.topology,
            "hosts": {
                host_id: {**host, "host": names.name(host_id)}
                for host_id, host in nodes.hosts.items()
            }
            if nodes.topology == STATIC
            else nodes.hosts,  # they tell their addresses, and no names
            "names": str(names.path),
            "threads": options.threads,
            "seed": options.seed,
            "mode": modes[number % len(modes)],
            "sabotage": options.sabotage,
        }
    )


def watch(workers: Sequence[Worker], chaos: Chaos, began: float, end: float) -> None:
    """Print how it goes, until it is over or a worker has died."""
    every = 5.0 if end - began > 60 else 1.0
    while time.monotonic() < end and all(worker.is_alive for worker in workers):
        if chaos.error is not None:
            return
        time.sleep(min(every, max(0.0, end - time.monotonic())))
        total = Tally()
        for worker in workers:
            total.add(worker.tally)
        kind, longest = total.longest_call
        say(
            f"{time.monotonic() - began:6.0f} s  {total.operations.total():>9,} operations  "
            f"{total.failures.total():>7,} failures  {total.wrong} wrong  "
            f"longest {longest:.2f} s ({kind})  "
            f"nodes {', '.join(chaos.states.values())}"
        )


def say(text: str) -> None:
    """Tell whoever waits how it goes."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
