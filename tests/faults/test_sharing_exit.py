"""The end of the interpreter: silent, prompt, and with the status that was asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from django_rb.testing import LocalNodes
from tests.faults.sharing.programs import run_program

# To start Python and import Django, on a busy machine, and to end.
SECONDS = 15

Hosts = dict[int, dict[str, Any]]


@pytest.fixture
def hosts_and_silence(nodes: LocalNodes) -> Iterator[Hosts]:
    """Host 0 is a node; host 1 takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yield {0: nodes.hosts[0], 1: {"host": "127.0.0.1", "port": port}}


@pytest.mark.parametrize(
    "name",
    [
        "with_idle_connections_of_threads",
        "with_a_daemon_in_a_batch",
    ],
)
def test_a_program_just_ends(name: str, nodes: LocalNodes) -> None:
    began = time.monotonic()
    assert run_program("exits", name, nodes.hosts) is None
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("name", ["with_a_status", "by_an_exception_in_mid_batch"])
def test_a_program_ends_with_its_status(name: str, nodes: LocalNodes) -> None:
    run_program("exits", name, nodes.hosts, status=7)


def test_no_opening_is_waited_for(hosts_and_silence: Hosts) -> None:
    """A node that is a black hole does not keep a program from its end."""
    began = time.monotonic()
    run_program(
        "exits", "with_openings_pending", hosts_and_silence, socket_timeout=40, protocol=3
    )
    assert time.monotonic() - began < SECONDS


def test_handlers_at_exit_may_use_the_cache(nodes: LocalNodes) -> None:
    assert run_program("exits", "with_atexit_handlers", nodes.hosts) == "used"


def test_handlers_at_exit_end_in_time(hosts_and_silence: Hosts) -> None:
    took = run_program(
        "exits", "with_atexit_and_silent_nodes", hosts_and_silence, socket_timeout=1, protocol=3
    )
    # The deadline, or where no thread can be started any more the timeouts of each node.
    assert took < 4
