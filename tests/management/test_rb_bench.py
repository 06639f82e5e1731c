"""manage.py rb_bench: how fast a cluster is, and which node is slow."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import Any

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.management.bench import Series, find_slow
from django_rb.testing import LocalNodes
from tests.helpers import Servers, wait_until

from .calls import plain, rows, run, run_and_fail, run_json
from .processes import Running, Terminal, django, on_nodes

OPERATIONS = ["get", "set", "get_many", "set_many"]


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    with Servers(nodes.hosts) as servers:
        servers.ask(0, "SET", "of the site", 1)
        yield servers


def assert_clean(servers: Servers) -> None:
    assert servers.keys() == {0: {b"of the site"}, 1: set(), 2: set(), 3: set()}


@pytest.fixture
def shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for a moment only: what is compared here are no times."""
    monkeypatch.setattr("django_rb.management.bench.SECONDS", 0.05)


@pytest.mark.usefixtures("shortly")
class TestMeasurement:
    def test_the_cluster(self, servers: Servers) -> None:
        header, *table = run("rb_bench").splitlines()
        assert header == "default: 1,000 keys of 1.00 KiB, 1.15 MiB in all"
        cells = rows("\n".join(table))[:4]
        assert [row[0] for row in cells] == OPERATIONS
        for _, calls, *times in cells:
            assert 5 <= int(calls) <= 800
            assert list(map(float, times)) == sorted(map(float, times))
        assert_clean(servers)

    def test_each_node(self, servers: Servers) -> None:
        out = run("rb_bench", "--keys", "500", "--size", "10", "--nodes")
        _, table = out.split("\n\n")
        cells = rows(table)[:16]
        assert [row[:2] for row in cells] == [
            [name, str(host_id)] for name in OPERATIONS for host_id in range(4)
        ]
        assert_clean(servers)

    def test_json(self, servers: Servers, cluster: Cluster) -> None:
        (document,) = run_json("rb_bench", "--keys", "400", "--size", "99")["clusters"]
        assert (document["cluster"], document["keys"], document["size"]) == ("default", 400, 99)
        assert list(document["operations"]) == OPERATIONS
        assert [f"{node['address']}/{node['database']}" for node in document["nodes"]] == [
            cluster.get_address(n) for n in range(4)
        ]
        assert sum(node["keys"] for node in document["nodes"]) == 400
        for measured in (document, *document["nodes"]):
            for times in measured["operations"].values():
                assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"] < 30
        assert [node["error"] for node in document["nodes"]] == [None] * 4
        assert_clean(servers)

    def test_what_the_cache_sends(self, servers: Servers) -> None:
        servers.reset_counts()
        run("rb_bench", "--keys", "400")
        for counts in servers.counts().values():
            assert set(counts) == {"get", "mget", "set", "unlink"}

    def test_fewer_keys_than_nodes(self, servers: Servers) -> None:
        (document,) = run_json("rb_bench", "--keys", "1")["clusters"]
        measured = [node for node in document["nodes"] if node["operations"]]
        assert [node["keys"] for node in measured] == [1]
        assert list(document["operations"]) == OPERATIONS
        assert_clean(servers)

    def test_clusters_one_after_the_other(self, nodes: LocalNodes) -> None:
        config = {alias: {"HOSTS": nodes.hosts} for alias in ("one", "two")}
        with override_settings(RB_CLUSTERS=config):
            found = run_json("rb_bench", "--keys", "20")["clusters"]
            assert [one["cluster"] for one in found] == ["one", "two"]
            (only,) = run_json("rb_bench", "--keys", "20", "--cluster", "two")["clusters"]
        assert only["cluster"] == "two"

    @pytest.mark.parametrize("option", ["--keys=0", "--keys=many", "--size=-1"])
    def test_numbers_that_are_none(self, nodes: LocalNodes, option: str) -> None:
        done = django("rb_bench", option, env=on_nodes(default=nodes.hosts))
        assert done.returncode == 2
        assert "is not a whole number, 1 or more." in done.stderr


@pytest.mark.usefixtures("shortly")
class TestMemory:
    @pytest.fixture
    def small(self) -> Iterator[Cluster]:
        options = {"maxmemory": "4mb", "maxmemory-policy": "allkeys-lru"}
        with LocalNodes(1, options=options) as nodes:
            with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}}):
                yield clusters["default"]
            clusters.reset()

    def test_more_than_there_is(self, small: Cluster) -> None:
        small.get_local_client(0).set("of the site", 1)
        out, error = run_and_fail("rb_bench", "--keys", "1000", "--size", "100000")
        assert out.startswith("default: 1,000 keys of 97.7 KiB, 95.5 MiB in all")
        assert error.startswith("default: Node 0 (127.0.0.1:")
        assert "of 4,194,304 bytes free. The measurement needs " in error
        assert small.get_local_client(0).keys() == [b"of the site"]

    def test_a_full_node_takes_no_other_cluster_along(
        self, nodes: LocalNodes, small: Cluster
    ) -> None:
        info = small.hosts[0]
        full = [{"host": info.host, "port": info.port, "password": info.password}]
        config = {
            "before": {"HOSTS": nodes.hosts},
            "full": {"HOSTS": full},
            "after": {"HOSTS": nodes.hosts},
        }
        args = ["rb_bench", "--keys", "100", "--size", "40000"]
        with override_settings(RB_CLUSTERS=config):
            said, error = run_and_fail(*args, "--format", "json")
            table, _ = run_and_fail(*args)
        assert error.startswith("full: Node 0 (127.0.0.1:")
        before, refused, after = json.loads(said)["clusters"]
        assert list(before["operations"]) == list(after["operations"]) == OPERATIONS
        assert (before["error"], after["error"]) == (None, None)
        assert refused["operations"] == refused["nodes"][0]["operations"] == {}
        assert f"full: {refused['error']}" == error
        assert table.count("\nget_many ") == 2

    def test_a_full_cache_may_be_measured_with_little(self, small: Cluster) -> None:
        client = small.get_local_client(0)
        with client.pipeline(transaction=False) as pipe:
            for n in range(2000):
                pipe.set(str(n), "x" * 10_000)
            pipe.execute()
        assert client.info("stats")["evicted_keys"] > 0
        run("rb_bench", "--keys", "50", "--size", "100")
        _, error = run_and_fail("rb_bench", "--keys", "50", "--size", "100000")
        assert "of 4,194,304 bytes free. The measurement needs " in error


class TestEnds:
    def test_ctrl_c_leaves_nothing(self, servers: Servers, nodes: LocalNodes) -> None:
        env = on_nodes(default=nodes.hosts)
        args = ["--size", "20000", "--no-color"]
        with Terminal("rb_bench", *args, env=env) as terminal:
            terminal.read_until("Measuring [#")
            assert sum(map(len, servers.keys().values())) == 1001
            terminal.process.send_signal(signal.SIGINT)
            status, said = terminal.read_to_end()
        assert status == 128 + signal.SIGINT
        assert plain(said)[-2] == "Interrupted."
        assert "Traceback" not in said
        assert_clean(servers)

    def test_keys_go_by_themselves_if_it_is_killed(
        self, servers: Servers, nodes: LocalNodes
    ) -> None:
        process = Running("rb_bench", env=on_nodes(default=nodes.hosts))
        wait_until(lambda: sum(map(len, servers.keys().values())) == 1001, 30)
        process.kill()
        process.communicate()
        for host_id, keys in servers.keys().items():
            for key in keys - {b"of the site"}:
                assert key.startswith(b"rb_bench:")
                assert 0 < servers.ask(host_id, "TTL", key) <= 300

    def test_nodes_that_die_on_the_way(self, own_nodes: LocalNodes) -> None:
        env = on_nodes(default=own_nodes.hosts)
        with Terminal("rb_bench", "--timeout", "1", "--no-color", env=env) as terminal:
            terminal.read_until("Measuring")
            own_nodes.kill(1)
            own_nodes.pause(2)
            status, said = terminal.read_to_end()
        assert status == 1
        assert "CommandError: 2 of 4 nodes could not be measured:\ndefault 1: " in said
        assert "Traceback" not in said
        with Servers({n: own_nodes.hosts[n] for n in (0, 3)}) as servers:
            assert servers.keys() == {0: set(), 3: set()}

    def test_a_dead_node(self, own_nodes: LocalNodes, shortly: None) -> None:
        own_nodes.kill(1)
        out, error = run_and_fail("rb_bench", "--keys", "100", "--format", "json")
        assert error.startswith("1 of 4 nodes could not be measured:\ndefault 1: ")
        assert '"error": "Error 111 connecting' in out
        with Servers({n: own_nodes.hosts[n] for n in (0, 2, 3)}) as servers:
            assert servers.keys() == {0: set(), 2: set(), 3: set()}


class TestSlowNode:
    def test_it_stands_out(self, nodes: LocalNodes) -> None:
        with delayed(nodes.hosts[2]["port"], 0.05) as port:
            hosts = {**nodes.hosts, 2: {**nodes.hosts[2], "port": port}}
            with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
                found = run_json("rb_bench")["clusters"][0]["nodes"]
                assert found[2]["slow"] == OPERATIONS
            with Terminal("rb_bench", "--nodes", env=on_nodes(default=hosts)) as screen:
                status, said = screen.read_to_end()
            clusters.reset()
        assert status == 0
        slow = [line.split()[:2] for line in plain(said) if line.endswith("<< slow")]
        assert [[name, "2"] for name in OPERATIONS] == [one for one in slow if one[1] == "2"]
        assert "\x1b[33;1m<< slow\x1b[0m" in said
        shown = [line for line in plain(said) if line.startswith("<< slow: node 2 ")]
        assert shown == [f"<< slow: node 2 (127.0.0.1:{port}/0), get, set, get_many, set_many"]

    @pytest.mark.parametrize(
        ("slow", "times"),
        [
            ([], {0: (1, 2), 1: (1.1, 3), 2: (0.9, 2)}),
            ([2], {0: (1, 2), 1: (1, 2), 2: (2.5, 3)}),
            ([2], {0: (1, 2), 1: (1, 2), 2: (1, 20)}),
            ([0, 2], {0: (5, 5), 1: (1, 2), 2: (5, 5), 3: (1, 2), 4: (1, 2)}),
            ([], {0: (0.02, 0.05), 1: (0.05, 0.5), 2: (0.02, 0.05)}),  # hardly anything
            ([1], {0: (1, 2), 1: (9, 9)}),
            ([], {0: (9, 9)}),
        ],
    )
    def test_the_rule(self, slow: list[int], times: dict[int, tuple[float, float]]) -> None:
        named = {n: {"p50": a / 1000, "p95": b / 1000} for n, (a, b) in times.items()}
        assert find_slow(named) == slow


def test_percentiles() -> None:
    series = Series([b"a"], 1, [float(n) for n in range(1000, 0, -1)])
    assert series.percentiles() == {"p50": 500, "p95": 950, "p99": 990, "max": 1000}
    assert Series([b"a"], 1, [3.0]).percentiles() == dict.fromkeys(
        ("p50", "p95", "p99", "max"), 3.0
    )


def test_every_call_has_as_many_keys() -> None:
    series = Series([b"%d" % n for n in range(7)], 3)
    samples = [series.sample(number) for number in range(20)]
    assert {len(sample) for sample in samples} == {3}
    assert {key for sample in samples for key in sample} == set(series.keys)
    assert Series([b"a"], 3).sample(5) == [b"a"]


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """Listen at another port, and pass on what comes to a node after a while."""
    server = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [server]
    threads: list[threading.Thread] = []

    def begin(work: Any, *args: Any) -> None:
        threads.append(threading.Thread(target=work, args=args, daemon=True))
        threads[-1].start()

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            node = socket.create_connection(("127.0.0.1", port))
            sockets.extend((client, node))
            begin(forward, client, node, seconds)
            begin(forward, node, client, 0)

    def forward(source: socket.socket, target: socket.socket, wait: float) -> None:
        try:
            while data := source.recv(65536):
                sleep(wait)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                hang_up(end)

    begin(accept)
    try:
        yield server.getsockname()[1]
    finally:
        clusters.reset()
        for one in sockets:
            hang_up(one)
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()


def hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
