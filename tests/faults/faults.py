"""What can be wrong with a node, as a table, and how it is brought about.

Each fault is real where it can be: a server that is killed, stopped, full, loading …;
otherwise the proxy plays it. docs/when-a-node-dies.md has a row for every entry.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from redis import exceptions

from django_rb.engine import NodeBusy, ProtocolError
from tests.faults.operations import Effect
from tests.faults.proxy import (
    cut_after,
    delayed,
    dripping,
    instead,
    only_first,
    preceded,
    reset_after,
    stall_after,
    swallow,
    without_the_last,
)
from tests.faults.rig import CONNECT_TIMEOUT, FAULTY, PASSWORD, SOCKET_TIMEOUT, USER, Rig
from tests.helpers import wait_until, without_redirects

AT_ONCE = 0.0
DIES_AFTER = 0.05

Fate = Literal["well", "fails", "either"]

ALL_FAIL: Mapping[Effect, Fate] = {"reads": "fails", "stores": "fails", "changes": "fails"}
ALL_WELL: Mapping[Effect, Fate] = {"reads": "well", "stores": "well", "changes": "well"}
WRITES_FAIL: Mapping[Effect, Fate] = {**ALL_FAIL, "reads": "well"}
READS_MAY_FAIL: Mapping[Effect, Fate] = {**ALL_FAIL, "reads": "either"}
STORES_FAIL: Mapping[Effect, Fate] = {**ALL_WELL, "stores": "fails"}


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a node.

    Attributes:
        inflict: brings it about and, at the end of its block, ends it.
        fates: what becomes of operations.
        error: what is raised where they fail,
        says: and part of its text.
        takes: after how many seconds, at most.
        is_answer: the node says so itself: an error reply.
        proxied: the node is reached through its proxy.
    """

    inflict: Callable[[Rig], AbstractContextManager[object]]
    fates: Mapping[Effect, Fate]
    error: type[Exception] | tuple[type[Exception], ...] = redis.ConnectionError
    says: str = ""
    takes: float = AT_ONCE
    is_answer: bool = False
    proxied: bool = False

    @property
    def is_silence(self) -> bool:
        """Whether a client waits in vain."""
        return self.error is redis.TimeoutError


# Of real servers.


@contextlib.contextmanager
def killed(rig: Rig) -> Iterator[None]:
    rig.nodes.kill(FAULTY)
    try:
        yield
    finally:
        rig.nodes.restart(FAULTY)


@contextlib.contextmanager
def stopped(rig: Rig) -> Iterator[None]:
    rig.nodes.pause(FAULTY)
    try:
        yield
    finally:
        rig.nodes.resume(FAULTY)


@contextlib.contextmanager
def restarted(rig: Rig) -> Iterator[None]:
    rig.nodes.restart(FAULTY)
    rig.fill(FAULTY)
    yield


@contextlib.contextmanager
def restarted_in_mid_batch(rig: Rig) -> Iterator[None]:
    """The node holds the batch's commands, unread, when it dies and another one comes."""
    rig.nodes.pause(FAULTY)
    is_over = threading.Event()

    def restart() -> None:
        wait_for_unread(rig.nodes.hosts[FAULTY]["port"], is_over)
        rig.nodes.restart(FAULTY)

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        yield
    finally:
        is_over.set()
        restarting.join()


def wait_for_unread(port: int, is_over: threading.Event) -> None:
    """Wait until a server that stands still was sent something, or it is too late."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        is_over.wait(DIES_AFTER)
        return
    # Its address, the client's, ESTABLISHED, and the bytes of its queues.
    unread = re.compile(rb": \w+:%04X \w+:\w+ 01 \w+:(?!0+ )" % port)
    while not unread.search(table.read_bytes()) and not is_over.wait(0.002):
        pass


def drop_clients(rig: Rig) -> None:
    rig.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@contextlib.contextmanager
def configured(rig: Rig, **settings: object) -> Iterator[None]:
    """Let the faulty node have other settings (CONFIG SET) until the block ends."""
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    before: dict[str, Any] = {}
    for name, value in names.items():
        before |= rig.ask("CONFIG GET", name)
        rig.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            rig.ask("CONFIG", "SET", name, value)


@contextlib.contextmanager
def max_clients(rig: Rig) -> Iterator[None]:
    drop_clients(rig)
    with configured(rig, maxclients=1):  # that is us
        yield


@contextlib.contextmanager
def loading(rig: Rig) -> Iterator[None]:
    """Let the node load a dump of its data so slowly that it is not done before the test."""
    rig.ask("DEBUG", "POPULATE", 2000, "filler", 2048)
    with (
        configured(rig, rdbcompression="no", loading_process_events_interval_bytes=1024),
        own_connection(rig) as reloading,
    ):
        rig.ask("CONFIG", "SET", "key-load-delay", 2000)  # microseconds
        reloading.sendall(b"DEBUG RELOAD\r\n")
        try:
            wait_until(lambda: rig.ask("INFO", "persistence")["loading"])
            yield
        finally:
            rig.ask("CONFIG", "SET", "key-load-delay", 0)
            assert reloading.recv(100) == b"+OK\r\n"


@contextlib.contextmanager
def busy(rig: Rig) -> Iterator[None]:
    """Let a script that never ends run on the node."""

    def is_busy() -> bool:
        try:
            rig.ask("PING")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    with configured(rig, lua_time_limit=1), own_connection(rig) as looping:
        looping.sendall(b'EVAL "while true do end" 0\r\n')
        wait_until(is_busy)
        try:
            yield
        finally:
            rig.ask("SCRIPT", "KILL")
            assert b"Script killed" in looping.recv(1000)


@contextlib.contextmanager
def own_connection(rig: Rig) -> Iterator[socket.socket]:
    host = rig.nodes.hosts[FAULTY]
    with socket.create_connection((host["host"], host["port"]), timeout=10) as connection:
        yield connection


@contextlib.contextmanager
def replica(rig: Rig, **settings: object) -> Iterator[None]:
    """Let the node be a replica of a master that is dead."""
    with configured(rig, **settings):
        rig.ask("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            rig.ask("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def wrong_password(rig: Rig) -> Iterator[None]:
    rig.ask("ACL", "SETUSER", USER, "resetpass", ">another")
    drop_clients(rig)
    try:
        yield
    finally:
        rig.ask("ACL", "SETUSER", USER, "resetpass", f">{PASSWORD}")


@contextlib.contextmanager
def no_permission(rig: Rig) -> Iterator[None]:
    rig.ask("ACL", "SETUSER", USER, "-@all")
    try:
        yield
    finally:
        rig.ask("ACL", "SETUSER", USER, "+@all", *without_redirects())


# Of the proxy.


@contextlib.contextmanager
def idle_connections_closed(rig: Rig) -> Iterator[None]:
    rig.proxy.hang_up()
    yield


@contextlib.contextmanager
def accepted_and_never_answered(rig: Rig) -> Iterator[None]:
    rig.proxy.hang_up()
    with rig.proxy.tampering(requests=lambda: swallow):
        yield


SILENCE = "No reply within|Timeout|timed out"

FAULTS: dict[str, Fault] = {
    "killed": Fault(killed, ALL_FAIL, says="refused|reset"),
    "stopped": Fault(
        stopped, ALL_FAIL, error=redis.TimeoutError, says=SILENCE, takes=SOCKET_TIMEOUT
    ),
    "restarted between two calls": Fault(restarted, ALL_WELL),
    "restarted in mid-batch": Fault(
        restarted_in_mid_batch, READS_MAY_FAIL, takes=2 * DIES_AFTER
    ),
    "connection refused": Fault(
        lambda rig: rig.proxy.refusing(), ALL_FAIL, says="refused", proxied=True
    ),
    "connection black-holed": Fault(
        lambda rig: rig.proxy.black_hole(),
        ALL_FAIL,
        error=redis.TimeoutError,
        says="Timeout connecting",
        takes=CONNECT_TIMEOUT,
        proxied=True,
    ),
    "accepted and never answered": Fault(
        accepted_and_never_answered,
        ALL_FAIL,
        error=redis.TimeoutError,
        says=SILENCE,
        takes=SOCKET_TIMEOUT,
        proxied=True,
    ),
    "reset before a reply": Fault(
        lambda rig: rig.proxy.tampering(replies=only_first(reset_after(0))),
        WRITES_FAIL,
        says="Connection lost",
        proxied=True,
    ),
    "reset in mid-reply": Fault(
        lambda rig: rig.proxy.tampering(replies=only_first(reset_after(3))),
        READS_MAY_FAIL,
        says="Connection lost",
        proxied=True,
    ),
    "closed in mid-reply": Fault(
        lambda rig: rig.proxy.tampering(replies=cut_after(3)),
        ALL_FAIL,
        says="Connection lost|closed",
        proxied=True,
    ),
    "stalled in mid-reply": Fault(
        lambda rig: rig.proxy.tampering(replies=stall_after(3)),
        ALL_FAIL,
        error=redis.TimeoutError,
        says=SILENCE,
        takes=SOCKET_TIMEOUT,
        proxied=True,
    ),
    "closed by the server's idle timeout": Fault(
        idle_connections_closed, ALL_WELL, proxied=True
    ),
    "late replies": Fault(
        lambda rig: rig.proxy.tampering(replies=delayed(0.02)), ALL_WELL, proxied=True
    ),
    "slow drip": Fault(
        lambda rig: rig.proxy.tampering(replies=dripping(0)),
        ALL_WELL,
        takes=SOCKET_TIMEOUT,
        proxied=True,
    ),
    "garbage instead of RESP": Fault(
        lambda rig: rig.proxy.tampering(replies=instead(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ALL_FAIL,
        error=exceptions.InvalidResponse,
        says="RESP|Protocol",
        proxied=True,
    ),
    "a reply too many": Fault(
        lambda rig: rig.proxy.tampering(replies=only_first(preceded(b"+intruder\r\n"))),
        ALL_FAIL,
        error=ProtocolError,
        says="more replies than expected",
        proxied=True,
    ),
    "a reply too few": Fault(
        lambda rig: rig.proxy.tampering(replies=without_the_last(5)),
        ALL_FAIL,
        error=redis.TimeoutError,
        says=SILENCE,
        takes=SOCKET_TIMEOUT,
        proxied=True,
    ),
    "max clients": Fault(max_clients, ALL_FAIL, says="max number of clients"),
    "loading": Fault(
        loading, ALL_FAIL, error=exceptions.BusyLoadingError, says="loading", is_answer=True
    ),
    "busy": Fault(busy, ALL_FAIL, error=NodeBusy, says="BUSY", is_answer=True),
    "out of memory": Fault(
        lambda rig: configured(rig, maxmemory=1),
        STORES_FAIL,
        error=exceptions.OutOfMemoryError,
        says="maxmemory",
        is_answer=True,
    ),
    "read-only": Fault(
        replica,
        WRITES_FAIL,
        error=exceptions.ReadOnlyError,
        says="read only replica",
        is_answer=True,
    ),
    "master down": Fault(
        lambda rig: replica(rig, replica_serve_stale_data="no"),
        ALL_FAIL,
        error=(exceptions.MasterDownError, exceptions.ReadOnlyError),  # writes: the latter
        says="Link with MASTER is down|read only replica",
        is_answer=True,
    ),
    "wrong password": Fault(
        wrong_password, ALL_FAIL, error=redis.AuthenticationError, says="username-password"
    ),
    "no permission": Fault(
        no_permission,
        ALL_FAIL,
        error=exceptions.NoPermissionError,
        says="no permissions",
        is_answer=True,
    ),
}
