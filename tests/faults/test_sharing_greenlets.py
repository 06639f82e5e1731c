"""gevent with monkey.patch_all(): greenlets share a cluster as threads do."""

from __future__ import annotations

import contextlib
import socket

from django_rb.testing import LocalNodes
from tests.faults.sharing.programs import run_program

# While one greenlet waits (1.5 s), the others go on. A busy machine may stop all of them for
# a bit.
PAUSE = 1.0


def test_greenlets_wait_for_nodes_at_the_same_time(nodes: LocalNodes) -> None:
    found = run_program("greenlets", "side_by_side", nodes.hosts)
    assert found["took"] < found["one after the other"] / 2
    assert found["longest pause"] < PAUSE
    assert found["connections"] <= 1


def test_a_killed_greenlet_or_a_timeout_leaves_nothing_in_doubt(nodes: LocalNodes) -> None:
    """Killed at each place where a call gives way to other greenlets."""
    found = run_program("greenlets", "killed_everywhere,timed_out", nodes.hosts)
    assert found["killed_everywhere"] > 50
    assert found["timed_out"] > 50


def test_silent_nodes_block_nobody_but_those_who_ask_them(nodes: LocalNodes) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        hosts = {0: nodes.hosts[0]}
        for host_id, server in enumerate(silent, start=1):
            hosts[host_id] = {"host": "127.0.0.1", "port": server.getsockname()[1]}
        # RESP3 begins with HELLO, so that opening a connection waits for an answer.
        found = run_program("greenlets", "silent_nodes", hosts, socket_timeout=1.5, protocol=3)
    assert found["longest pause"] < PAUSE
    assert found["answered"] > 5


def test_greenlets_see_what_threads_see(nodes: LocalNodes) -> None:
    found = run_program("greenlets", "probed,stale_and_closed", nodes.hosts)
    assert found["probed"] >= 20
    assert found["stale_and_closed"] >= 20
