"""manage.py rb_status, as a person and as a program would use it, on real nodes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_rb import clusters
from django_rb.management.commands.rb_status import fitted
from django_rb.management.status import PINGS, TURN_SECONDS
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import wait_until, without_redirects

from .calls import plain
from .processes import (
    DJANGO,
    ROOT,
    SECONDS,
    Running,
    Terminal,
    django,
    kill,
    on_nodes,
    project,
    read_until,
    start,
)

INFO = "server_name:valkey\r\nvalkey_version:9.9.9\r\nrole:master\r\nused_memory:1000\r\n"

SLOW = 0.3

NOT_SAID = {
    "role", "version", "up_since", "uptime", "memory_used", "memory_limit", "keys", "hits",
    "misses", "hit_rate", "evictions", "ops_per_second", "clients", "ping",
}  # fmt: skip


def status(*args: str, **options: Any) -> str:
    """Run the command in this process; return what it writes."""
    out = StringIO()
    call_command("rb_status", *args, stdout=out, no_color=True, **options)
    return out.getvalue()


def status_and_fail(*args: str) -> tuple[str, str]:
    """Return what the command writes before it fails, and its error."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("rb_status", *args, stdout=out, no_color=True)
    assert caught.value.returncode == 1
    return out.getvalue(), str(caught.value)


def document(*args: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(status("--format", "json", *args))
    return loaded


def document_and_error(*args: str) -> tuple[dict[str, Any], str]:
    out, error = status_and_fail("--format", "json", *args)
    return json.loads(out), error


def tables_in(said: str) -> list[list[str]]:
    """Return the lines of each part of the output that an empty line ends."""
    return [part.splitlines() for part in said.strip("\n").split("\n\n")]


def ask(nodes: LocalNodes, host_id: int, *command: Any) -> Any:
    with redis.Redis(**nodes.hosts[host_id]) as client:
        return client.execute_command(*command)


def answer_info(connection: socket.socket) -> None:
    connection.sendall(b"$%d\r\n%s\r\n" % (len(INFO), INFO.encode()))


def answer_pings_slowly(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
    if command[0] == b"INFO":
        answer_info(connection)
    else:
        sleep(SLOW)
        connection.sendall(b"+PONG\r\n")


@pytest.fixture
def filled(nodes: LocalNodes) -> LocalNodes:
    """Nodes with 10, 20, 30 and 40 keys in database 0, and a few look-ups."""
    for host_id in nodes.hosts:
        ask(nodes, host_id, "CONFIG", "RESETSTAT")
        for number in range(10 * (host_id + 1)):
            ask(nodes, host_id, "SET", f"key:{number}", "x" * 100)
    for key in ("key:0", "key:1", "key:2", "nothing"):
        ask(nodes, 1, "GET", key)
    for key in ("nothing", "nought"):
        ask(nodes, 2, "GET", key)
    return nodes


class TestDocument:
    def test_a_node(self, filled: LocalNodes) -> None:
        before = time()
        whole = document()
        assert before <= whole["time"] <= time()
        node = whole["nodes"][1]
        with redis.Redis(**filled.hosts[1]) as client:
            info = client.info()
        assert node["cluster"] == "default"
        assert node["host_id"] == 1
        assert node["address"] == f"127.0.0.1:{filled.hosts[1]['port']}"
        assert node["database"] == 0
        assert node["error"] is None
        assert node["health"] == {
            "state": "up", "failures": 0, "since": None, "error": None, "retry_in": None,
        }  # fmt: skip
        assert node["role"] == info["role"] == "master"
        assert node["version"] == filled.server
        assert abs(node["up_since"] - (time() - info["uptime_in_seconds"])) < 5
        assert 0 <= info["uptime_in_seconds"] - node["uptime"] < 60
        assert 0.5 < node["memory_used"] / info["used_memory"] < 2
        assert node["memory_limit"] == info["maxmemory"] == 0
        assert node["keys"] == 20
        assert (node["hits"], node["misses"], node["hit_rate"]) == (3, 1, 0.75)
        assert node["evictions"] == 0
        assert node["ops_per_second"] >= 0
        assert node["clients"] >= 1
        assert 0 < node["ping"]["min"] <= node["ping"]["median"] <= node["ping"]["max"] < 1
        assert node["replication"] == {
            "link": None, "replicas": 0, "lag_seconds": None, "lag_bytes": None,
            "connected": [],
        }  # fmt: skip
        assert node["said_by"] is None

    def test_a_cluster(self, filled: LocalNodes) -> None:
        whole = document()
        nodes = whole["nodes"]
        assert [node["host_id"] for node in nodes] == [0, 1, 2, 3]
        assert list(whole["clusters"]) == ["default"]
        cluster = whole["clusters"]["default"]
        assert (cluster["nodes"], cluster["answered"]) == (4, 4)
        totals = cluster["totals"]
        assert totals["keys"] == 100
        assert totals["balance"]["keys"] == pytest.approx(40 / 25)
        assert (totals["hits"], totals["misses"]) == (3, 3)
        assert totals["hit_rate"] == 0.5  # and not the mean of the nodes' rates
        used = [node["memory_used"] for node in nodes]
        assert totals["memory_used"] == sum(used)
        assert totals["balance"]["memory"] == pytest.approx(max(used) * 4 / sum(used))
        for name in ("clients", "ops_per_second", "evictions"):
            assert totals[name] == sum(node[name] for node in nodes)

    def test_a_memory_limit_and_evictions(self, own_nodes: LocalNodes) -> None:
        for host_id in own_nodes.hosts:
            ask(own_nodes, host_id, "CONFIG", "SET", "maxmemory", "8mb")
        ask(own_nodes, 0, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        for number in range(100):
            ask(own_nodes, 0, "SET", f"key:{number}", "x" * 200_000)
        whole = document()
        assert {node["memory_limit"] for node in whole["nodes"]} == {8 * 1024**2}
        assert whole["clusters"]["default"]["totals"]["memory_limit"] == 32 * 1024**2
        assert whole["nodes"][0]["evictions"] > 0
        ask(own_nodes, 3, "CONFIG", "SET", "maxmemory", "0")
        assert document()["clusters"]["default"]["totals"]["memory_limit"] == 0
        load = tables_in(status())[2]
        assert ["8.00 MiB" in line for line in load[1:]] == [True, True, True, False, False]
        assert ["none" in line for line in load[1:]] == [False, False, False, True, True]

    def test_several_clusters(self, filled: LocalNodes) -> None:
        hosts = list(filled.hosts.values())
        config = {
            "default": {"HOSTS": hosts},
            "sessions": {"HOSTS": hosts[:2], "HOST_DEFAULTS": {"db": 1}},
        }
        with override_settings(RB_CLUSTERS=config):
            whole = document()
            assert [(n["cluster"], n["host_id"]) for n in whole["nodes"]] == [
                *(("default", host_id) for host_id in range(4)),
                ("sessions", 0),
                ("sessions", 1),
            ]
            assert [node["keys"] for node in whole["nodes"]] == [10, 20, 30, 40, 0, 0]
            assert whole["clusters"]["sessions"]["totals"]["balance"]["keys"] is None
            assert [n["database"] for n in document("--cluster", "sessions")["nodes"]] == [1, 1]
            both = document("--cluster", "sessions", "--cluster", "default")
            assert list(both["clusters"]) == ["sessions", "default"]
            assert re.findall(r"(?m)^(\w+): \d of \d nodes answered", status()) == list(config)
            alone = {"default": {"HOSTS": hosts[:1]}}
            with override_settings(RB_CLUSTERS=alone):
                assert "default: 1 of 1 node answered, " in status()


class TestReplication:
    @pytest.fixture
    def replicas(self, own_nodes: LocalNodes) -> LocalNodes:
        """Nodes of which 2 and 3 are replicas of 0, and do not send calls on to it."""
        ask(own_nodes, 0, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
        for host_id in (2, 3):
            ask(own_nodes, host_id, "ACL", "SETUSER", "default", *without_redirects())
            ask(
                own_nodes,
                host_id,
                "CONFIG",
                "SET",
                "masterauth",
                own_nodes.hosts[0]["password"],
            )
            ask(own_nodes, host_id, "REPLICAOF", "127.0.0.1", own_nodes.hosts[0]["port"])
            wait_until(partial(is_linked, own_nodes, host_id), 20)
        wait_until(lambda: ask_info(own_nodes, 0).count(b"state=online") == 2, 20)
        return own_nodes

    def test_replicas_and_their_master(self, replicas: LocalNodes) -> None:
        nodes = document()["nodes"]
        assert [node["role"] for node in nodes] == ["master", "master", "replica", "replica"]
        master, one = nodes[0]["replication"], nodes[3]["replication"]
        assert (master["link"], master["replicas"]) == (None, 2)
        assert (one["link"], one["replicas"]) == ("up", 0)
        for side in (master, one):
            assert 0 <= side["lag_seconds"] < 20
            assert 0 <= side["lag_bytes"] < 100_000
        lines = tables_in(status())[3]
        assert re.search(r"  2  \d+ s  ", lines[1])
        assert re.search(r"  0 +-  ", lines[2])
        assert re.search(r"  0  \d+ s  ", lines[4])

    def test_a_stopped_replica_lags(self, replicas: LocalNodes) -> None:
        replicas.pause(3)
        ask(replicas, 0, "SET", "key", "x" * 1000)

        def lag() -> Any:
            return document_and_error("--timeout", "0.5")[0]["nodes"][0]["replication"]

        wait_until(lambda: lag()["lag_seconds"] >= 2, 20)
        assert lag()["lag_bytes"] >= 1000

    def test_a_link_that_is_down(self, replicas: LocalNodes) -> None:
        replicas.kill(0)
        wait_until(lambda: b"master_link_status:down" in ask_info(replicas, 3), 20)
        whole, _ = document_and_error()
        assert whole["nodes"][3]["replication"]["link"] == "down"
        assert whole["nodes"][3]["replication"]["lag_seconds"] >= 0
        out, _ = status_and_fail()
        assert "  link down  " in tables_in(out)[3][4]


def is_linked(nodes: LocalNodes, host_id: int) -> bool:
    return b"master_link_status:up" in ask_info(nodes, host_id)


def ask_info(nodes: LocalNodes, host_id: int) -> bytes:
    with redis.Redis(**nodes.hosts[host_id]) as client:
        client.set_response_callback("INFO", bytes)
        info: Any = client.execute_command("INFO", "replication")
        return bytes(info)


class TestTable:
    def test_on_a_pipe(self, filled: LocalNodes) -> None:
        done = django("rb_status", env=on_nodes(default=filled.hosts), finalizes=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 80
        (title,), where, load, speed, (balance,) = tables_in(done.stdout)
        assert re.fullmatch(
            r"default: 4 of 4 nodes answered, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", title
        )
        assert where[0].split("  ")[0] == "NODE"
        version = re.escape(filled.server)
        for host_id, line in enumerate(where[1:]):
            address = f"127.0.0.1:{filled.hosts[host_id]['port']}/0"
            assert re.fullmatch(
                rf"{host_id}     {address} +master  {version} +[\d-]{{10}} \d\d:\d\d  up", line
            )
        assert " ".join(load[0].split()) == (
            "NODE KEYS MEMORY LIMIT HIT RATE EVICTED OPS/S CLIENTS"
        )
        assert [line.split()[:2] for line in load[1:]] == [
            ["0", "10"], ["1", "20"], ["2", "30"], ["3", "40"], ["total", "100"],
        ]  # fmt: skip
        assert [line.split()[5] for line in load[1:]] == ["?", "75.0%", "0.0%", "?", "50.0%"]
        assert {len(line) for line in load} == {len(load[0])}
        assert " ".join(speed[0].split()) == ("NODE PING MIN MEDIAN MAX REPLICAS LAG UP FOR")
        assert len(speed) == 5
        assert re.fullmatch(r"Largest share over the mean: keys 1\.60, memory 1\.\d\d", balance)

    def test_on_a_terminal(self, filled: LocalNodes) -> None:
        env = on_nodes(default=filled.hosts)
        with Terminal("rb_status", env=env) as terminal:
            ended, said = terminal.read_to_end()
        assert ended == 0
        assert said.count("  \x1b[32;1mup\x1b[0m\n") == 4
        plain = re.sub(r"\x1b\[[\d;]*m", "", said)
        assert max(map(len, plain.splitlines())) <= 80
        assert len(tables_in(plain)) == 5

    def test_on_a_wide_terminal(self, filled: LocalNodes) -> None:
        env = on_nodes(default=filled.hosts)
        with Terminal("rb_status", "--no-color", env=env, columns=220) as terminal:
            _, said = terminal.read_to_end()
        title, table, balance = tables_in(said)
        assert len(title) == len(balance) == 1
        assert table[0].split()[1] == "ADDRESS"
        assert table[0].split()[-2:] == ["UP", "FOR"]
        assert "\x1b" not in said

    def test_colours_of_the_users(self, hurt_nodes: LocalNodes) -> None:
        env = on_nodes(default=hurt_nodes.hosts)
        env["DJANGO_COLORS"] = "light;warning=magenta"
        with Terminal("rb_status", "--timeout=1", env=env) as terminal:
            ended, said = terminal.read_to_end()
        assert ended == 1
        assert said.count("\x1b[35mfailing\x1b[0m") >= 1

    def test_an_empty_cluster_has_no_balance(self, nodes: LocalNodes) -> None:
        assert "Largest share over the mean: keys ?, memory 1." in status()


class TestNodesThatFail:
    def test_the_others_are_asked(self, hurt_nodes: LocalNodes) -> None:
        ask(hurt_nodes, 3, "SET", "key", 1)
        began = monotonic()
        whole, error = document_and_error("--timeout", "1.5")
        assert 1.4 < monotonic() - began < 5
        summary, killed, stopped = error.splitlines()
        assert summary == "2 of 4 nodes could not be queried:"
        ports = [host["port"] for host in hurt_nodes.hosts.values()]
        assert re.fullmatch(
            rf"default 1: .* refused\. \[node 1, 127\.0\.0\.1:{ports[1]}/0, cluster default\]",
            killed,
        )
        assert re.fullmatch(
            rf"default 2: .*\[node 2, 127\.0\.0\.1:{ports[2]}/0, cluster default\]", stopped
        )
        for host_id, line in ((1, killed), (2, stopped)):
            node = whole["nodes"][host_id]
            assert line == f"default {host_id}: {node['error']}"
            assert {node[name] for name in NOT_SAID} == {None}
            assert set(node["replication"].values()) == {None}
        assert whole["nodes"][1]["health"]["state"] == "failing"
        assert "refused" in whole["nodes"][1]["health"]["error"]
        cluster = whole["clusters"]["default"]
        assert (cluster["nodes"], cluster["answered"]) == (4, 2)
        assert (cluster["totals"]["keys"], cluster["totals"]["balance"]["keys"]) == (1, 2.0)
        for host_id in (0, 3):  # their times are their own
            assert whole["nodes"][host_id]["error"] is None
            assert whole["nodes"][host_id]["ping"]["max"] < 1

    def test_as_a_person_sees_it(self, hurt_nodes: LocalNodes) -> None:
        began = monotonic()
        done = django("rb_status", env=on_nodes(default=hurt_nodes.hosts), finalizes=True)
        assert monotonic() - began < 15  # socket_timeout is 2 s
        assert done.returncode == 1
        title, where, load, speed, _ = tables_in(done.stdout)
        assert title[0].startswith("default: 2 of 4 nodes answered, ")
        assert [line.split()[-1] for line in where[1:]] == ["up", "failing", "failing", "up"]
        assert load[2].split() == speed[2].split()[:1] + ["?"] * 7 == ["1"] + ["?"] * 7
        # One line each: what the log has to say of it is said.
        lines = done.stderr.splitlines()
        assert lines[0] == "CommandError: 2 of 4 nodes could not be queried:"
        assert [line[:11] for line in lines[1:]] == ["default 1: ", "default 2: "]

    def test_a_log_of_the_sites_own_is_written(
        self, tmp_path: Path, own_nodes: LocalNodes
    ) -> None:
        own_nodes.kill(1)
        log = tmp_path / "site.log"
        logging = {
            "version": 1,
            "handlers": {"file": {"class": "logging.FileHandler", "filename": str(log)}},
            "root": {"handlers": ["file"]},
        }
        config = {"default": {"HOSTS": own_nodes.hosts}}
        env = project(tmp_path, config, f"LOGGING = {logging!r}")
        # As users start it: such LOGGING disables loggers that were there before.
        process = start(*DJANGO, "rb_status", env=env)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert log.read_text().startswith("Node 1 fails: ")

    def test_a_node_that_refuses(self, own_nodes: LocalNodes) -> None:
        ask(own_nodes, 1, "ACL", "SETUSER", "default", "-info")
        whole, error = document_and_error()
        assert error.startswith("1 of 4 nodes could not be queried:\ndefault 1: ")
        assert "NOPERM" in error or "no permissions" in error
        assert whole["nodes"][1]["health"]["state"] == "up"
        out, _ = status_and_fail()
        assert [line.split()[-1] for line in tables_in(out)[1][1:]] == [
            "up", "error", "up", "up",
        ]  # fmt: skip

    def test_a_user_who_may_do_little(self, own_nodes: LocalNodes) -> None:
        ask(own_nodes, 0, "ACL", "SETUSER", "ann", "on", "nopass", "-@all", "+info", "+ping")
        config = {"default": {"HOSTS": [{**own_nodes.hosts[0], "username": "ann"}]}}
        with override_settings(RB_CLUSTERS=config):
            assert document()["nodes"][0]["error"] is None
            clusters.reset()

    def test_what_a_node_said_before_it_fell_silent(self, nodes: LocalNodes) -> None:
        def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
            if command[0] == b"INFO":
                answer_info(connection)
            elif peer.commands.count([b"PING"]) <= 2:
                connection.sendall(b"+PONG\r\n")

        with Peer(answer) as peer:
            config = {"default": {"HOSTS": [peer.host, *nodes.hosts.values()]}}
            with override_settings(RB_CLUSTERS=config):
                whole, error = document_and_error("--timeout", "1.5")
                clusters.reset()
        assert error.startswith("1 of 5 nodes could not be queried:\ndefault 0: ")
        node = whole["nodes"][0]
        assert (node["version"], node["memory_used"]) == ("valkey 9.9.9", 1000)
        assert (node["memory_limit"], node["keys"]) == (None, None)
        assert node["error"] is not None
        assert node["ping"]["max"] < 1.5

    def test_the_time_is_for_all_questions_together(self) -> None:
        with (
            Peer(answer_pings_slowly) as peer,
            override_settings(RB_CLUSTERS={"default": {"HOSTS": [peer.host]}}),
        ):
            began = monotonic()
            _, error = document_and_error("--timeout", "0.8")
            took = monotonic() - began
            clusters.reset()
        assert "Deadline exceeded [node 0, " in error
        assert took < PINGS * SLOW

    def test_a_slow_node_makes_no_other_look_slow(self, nodes: LocalNodes) -> None:
        def answer_late_then_at_once(
            peer: Peer, connection: socket.socket, command: list[bytes]
        ) -> None:
            if command[0] == b"INFO":
                wait_until(lambda: [b"PING"] in slow.commands)
                answer_info(connection)
            else:
                connection.sendall(b"+PONG\r\n")

        with Peer(answer_pings_slowly) as slow, Peer(answer_late_then_at_once) as quick:
            config = {"default": {"HOSTS": [*nodes.hosts.values(), slow.host, quick.host]}}
            with override_settings(RB_CLUSTERS=config):
                pings = [node["ping"] for node in document()["nodes"]]
                clusters.reset()
            assert slow.commands == quick.commands == [[b"INFO"], *[[b"PING"]] * PINGS]
        slow_ping = pings.pop(4)
        assert slow_ping["min"] >= SLOW
        assert max(ping["median"] for ping in pings) < SLOW / 2
        assert max(ping["min"] for ping in pings) < TURN_SECONDS / 2

    def test_clusters_side_by_side(self, own_nodes: LocalNodes) -> None:
        own_nodes.pause(0)
        own_nodes.pause(1)
        hosts = own_nodes.hosts
        config = {"one": {"HOSTS": [hosts[0], hosts[2]]}, "two": {"HOSTS": [hosts[1]]}}
        with override_settings(RB_CLUSTERS=config):
            began = monotonic()
            _, error = status_and_fail("--timeout", "2")
            assert monotonic() - began < 3.8
        assert error.startswith("2 of 3 nodes could not be queried:\none 0: ")
        assert "\ntwo 0: " in error

    @override_settings(
        RB_CLUSTERS={"default": {"HOSTS": ["redis://ann:hunter2@127.0.0.1:1/3"]}}
    )
    @pytest.mark.parametrize("form", ["table", "json"])
    def test_no_secret_is_told(self, form: str) -> None:
        out, error = status_and_fail("--format", form)
        assert "127.0.0.1:1" in out
        for secret in ("hunter2", "ann"):
            assert secret not in out + error


class TestWatch:
    @pytest.fixture
    def watching(self, nodes: LocalNodes) -> Iterator[Terminal]:
        env = on_nodes(default=nodes.hosts)
        with Terminal("rb_status", "--watch=0.1", env=env) as terminal:
            yield terminal

    def test_a_terminal_is_redrawn(self, watching: Terminal) -> None:
        clear = "\x1b[2J\x1b[H"
        wait_for_looks(watching, clear, 3)
        watching.type("\x03")
        ended, said = watching.read_to_end()
        assert ended == 0
        assert "Traceback" not in said
        nothing, *looks = said.split(clear)
        assert nothing == ""
        for look in looks[:-1]:
            assert look.count("nodes answered") == 1
            assert look.endswith("\n")
        # Nothing that the terminal would have to be freed of, whatever ends the command.
        assert set(re.findall(r"\x1b\[[\d;?]*([A-Za-z])", said)) == {"J", "H", "m"}

    def test_it_fits_the_terminal(self, hurt_nodes: LocalNodes) -> None:
        env = on_nodes(default=hurt_nodes.hosts)
        options = ("--watch=30", "--timeout=0.3")
        with Terminal("rb_status", *options, env=env) as terminal:
            terminal.read_until("Largest share")
            terminal.type("\x03")
            _, said = terminal.read_to_end()
        *screen, last = plain(said.partition("^C")[0])
        assert last == ""
        assert len(screen) < 24
        assert "default: 2 of 4 nodes answered, " in screen[0]
        assert screen[1].startswith("default 1: ")
        assert screen[-1].startswith("Largest share")
        assert "" not in screen

    def test_what_does_not_fit_at_all_is_cut(self) -> None:
        sections = [["one: 1 of 1", "a\nb"], ["two: 1 of 1", "c\nd"]]
        whole = ["one: 1 of 1", "", "a", "b", "", "two: 1 of 1", "", "c", "d", "error"]
        assert fitted(sections, ["error"], 10) == whole
        assert fitted(sections, ["error"], 9) == [
            *["one: 1 of 1", "two: 1 of 1", "error"],
            *["one: 1 of 1", "a", "b", "two: 1 of 1", "c", "d"],
        ]
        assert fitted(sections, ["error"], 5) == [
            *["one: 1 of 1", "two: 1 of 1", "error", "one: 1 of 1"],
            "… and 5 more lines: enlarge the window, or use --cluster",
        ]

    def test_on_a_pipe_one_is_below_the_other(self, nodes: LocalNodes) -> None:
        process = Running("rb_status", "--watch", "0.1", env=on_nodes(default=nodes.hosts))
        try:
            said = "".join(read_until(process, "Largest share") for _ in range(3))
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=20)
        finally:
            kill(process)
        assert process.returncode == 0
        assert said.count("\n\ndefault: 4 of 4 nodes answered") == 2
        assert "\x1b" not in said + rest

    def test_json_is_a_document_a_line(self, nodes: LocalNodes) -> None:
        command = ["rb_status", "--watch", "0.1", "--format", "json"]
        process = Running(*command, env=on_nodes(default=nodes.hosts))
        try:
            looks = [json.loads(read_until(process, "{")) for _ in range(3)]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            kill(process)
        assert process.returncode == 0
        assert looks[0]["time"] < looks[1]["time"] < looks[2]["time"]
        assert [len(look["nodes"]) for look in looks] == [4, 4, 4]

    def test_a_node_that_dies_and_comes_back(self, own_nodes: LocalNodes) -> None:
        command = ["rb_status", "--watch", "0.05", "--format", "json"]
        process = Running(*command, env=on_nodes(default=own_nodes.hosts))

        def wait_for_state(state: str) -> Mapping[str, Any]:
            end = monotonic() + 20
            while monotonic() < end:
                node: dict[str, Any] = json.loads(read_until(process, "{"))["nodes"][1]
                if node["health"]["state"] == state:
                    return node
            raise AssertionError(f"It was never {state}")

        try:
            wait_for_state("up")
            own_nodes.kill(1)
            node = wait_for_state("down")
            assert node["health"]["failures"] >= 3
            assert node["health"]["retry_in"] is not None
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=20)
        finally:
            kill(process)
        assert process.returncode == 1
        assert "CommandError: 1 of 4 nodes could not be queried:\ndefault 1: " in said


def wait_for_looks(terminal: Terminal, clear: str, count: int) -> None:
    while terminal.said.count(clear) < count:
        seen = terminal.said
        terminal.said = ""
        terminal.read_until(clear)
        terminal.said = seen + terminal.said


class TestMistakes:
    def test_wrong_alias(self, nodes: LocalNodes) -> None:
        for form in ("table", "json"):
            env = on_nodes(default=nodes.hosts)
            done = django("rb_status", "--cluster", "defualt", "--format", form, env=env)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                "CommandError: There is no cluster 'defualt' in settings.RB_CLUSTERS. "
                "Did you mean 'default'?\n"
            )

    @pytest.mark.parametrize("form", ["table", "json"])
    def test_no_clusters(self, tmp_path: Path, form: str) -> None:
        done = django("rb_status", "--format", form, env=project(tmp_path, {}))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            "CommandError: settings.RB_CLUSTERS is missing or empty: there are no nodes. Add "
        )

    @pytest.mark.parametrize("option", ["--timeout", "--watch"])
    @pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
    def test_a_time_that_is_none(self, nodes: LocalNodes, option: str, value: str) -> None:
        with pytest.raises(CommandError, match=f"'{value}' is not a time in seconds above 0"):
            status(f"{option}={value}")


class TestEnds:
    @pytest.mark.parametrize("form", ["table", "json"])
    def test_a_reader_who_has_left(self, nodes: LocalNodes, form: str) -> None:
        env = on_nodes(default=nodes.hosts)
        del env["PYTHONUNBUFFERED"]
        process = subprocess.Popen(
            [*DJANGO, "rb_status", "--format", form],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=ROOT,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        with process.stderr:
            said = process.stderr.read()
        assert (process.wait(30), said) == (128 + signal.SIGPIPE, "")

    def test_ctrl_c_waits_for_no_node(self, tmp_path: Path, own_nodes: LocalNodes) -> None:
        own_nodes.pause(2)
        config = {
            "default": {
                "HOSTS": own_nodes.hosts,
                "POOL_OPTIONS": {"socket_timeout": None, "socket_connect_timeout": None},
            }
        }
        env = project(tmp_path, config)
        with Terminal("rb_status", env=env) as terminal:
            wait_until(lambda: clients_of(own_nodes, 3) > 1, 30)
            terminal.type("\x03")
            ended, said = terminal.read_to_end()
        assert ended == 130
        assert "Interrupted." in said
        assert "Traceback" not in said


def clients_of(nodes: LocalNodes, host_id: int) -> int:
    with redis.Redis(**nodes.hosts[host_id]) as client:
        return int(client.info("clients")["connected_clients"])
