"""`manage.py check --tag rb_connect`: what real nodes say, and only when they are asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from time import monotonic, time
from typing import Any

import pytest
import redis
from django.core import checks
from django.core.checks import CheckMessage, run_checks
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_rb import clusters
from django_rb.checks import check_live_nodes, connecting
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import wait_until
from tests.management.processes import ROOT, django, environment
from tests.tables import for_each

SECRET = "hunter2"
# With no password of LocalNodes' own: tests say who may log in.
SOUND = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "requirepass": ""}
CACHES = {"default": {"BACKEND": "django_rb.cache.RBCache"}}


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[LocalNodes]:
    """Two nodes as an operator would set them up."""
    with LocalNodes(2, options=SOUND) as nodes:
        yield nodes


@pytest.fixture
def servers(shared_servers: LocalNodes) -> Iterator[LocalNodes]:
    """The two nodes, configured as the cluster "default". Leave them as they are."""
    with configured(shared_servers.hosts):
        yield shared_servers


def configured(hosts: Any, **more: Any) -> override_settings:
    return override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}, **more}, CACHES=CACHES)


def level_of(message_id: str) -> int:
    return {"E": checks.ERROR, "W": checks.WARNING, "I": checks.INFO}[message_id[0]]


def found() -> dict[str, str]:
    """Return what the nodes say by id, as `manage.py check` shows it."""
    by_id: dict[str, str] = {}
    for message in check_live_nodes():
        message_id = str(message.id).removeprefix("django_rb.")
        assert message.level == level_of(message_id)
        assert message.hint
        assert message_id not in by_id
        by_id[message_id] = message.msg
    assert SECRET not in str(by_id)
    return by_id


def client(nodes: LocalNodes, host_id: int = 0, **options: Any) -> redis.Redis:
    return redis.Redis(**{**nodes.hosts[host_id], **options})


def run(node: Any, *command: Any) -> Any:
    return node.execute_command(*command)


# Only when they are asked.


class Listener(Peer):
    """A node that answers everything with an error."""

    def __init__(self) -> None:
        super().__init__(lambda peer, connection, command: connection.sendall(b"-ERR no\r\n"))

    @property
    def env(self) -> dict[str, str]:
        url = f"redis://127.0.0.1:{self.port}/0"
        return environment(DJANGO_RB_NODES=json.dumps({"default": [url]}))


@for_each("args", [[], ["--deploy"], ["--tag", "caches"], ["--list-tags"], ["django_rb"]])
def test_no_other_check_connects(args: list[str]) -> None:
    with Listener() as node:
        done = django("check", *args, env=node.env)
        assert done.returncode == 0, done.stderr
        assert node.connections == []


@pytest.mark.parametrize(
    "args",
    [
        ["--tag", "rb_connect"],
        ["-t", "caches", "-t", "rb_connect"],
        ["--deploy", "--tag", "rb_connect", "--fail-level", "WARNING"],
    ],
)
def test_the_tag_connects(args: list[str]) -> None:
    with Listener() as node:
        done = django("check", *args, env=node.env)
        assert node.connections != []
    assert done.returncode == 1
    assert "(django_rb.E201) settings.RB_CLUSTERS['default']['HOSTS'][0]: " in done.stderr


def test_a_check_in_the_process_that_connected_before_does_not_connect() -> None:
    with Listener() as node, configured([node.host]):
        with pytest.raises(SystemCheckError, match=r"django_rb\.E201"):
            call_command("check", tags=["rb_connect"])
        asked = len(node.connections)
        assert asked > 0

        call_command("check", stderr=StringIO())
        call_command("check", deploy=True, stderr=StringIO())
        run_checks(include_deployment_checks=True)
        assert len(node.connections) == asked


def test_list_tags_names_it() -> None:
    assert "rb_connect" in django("check", "--list-tags").stdout.split()


def test_another_apps_check_command_does_not_know_the_tag() -> None:
    code = (
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "from django.core.management.commands.check import Command\n"
        "call_command(Command(), tags=['rb_connect'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(),
        timeout=30,
    )

    assert done.returncode == 1
    assert 'There is no system check with the "rb_connect" tag.' in done.stderr


def test_an_unknown_tag_is_djangos_to_report() -> None:
    with pytest.raises(CommandError, match='no system check with the "rb_conect" tag'):
        call_command("check", tags=["rb_conect"])


# What sound nodes say.


def test_sound_nodes_say_nothing(servers: LocalNodes) -> None:
    assert check_live_nodes() == []
    said = StringIO()
    call_command("check", tags=["rb_connect"], stdout=said)
    assert "no issues" in said.getvalue()


def test_a_process_that_checks_sound_nodes(servers: LocalNodes) -> None:
    env = environment(DJANGO_RB_NODES=json.dumps({"default": servers.urls}))

    done = django("check", "--tag", "rb_connect", "--fail-level", "DEBUG", env=env)

    assert (done.returncode, done.stderr) == (0, "")
    assert "System check identified no issues" in done.stdout


@pytest.mark.parametrize("protocol", [2, 3])
def test_nodes_are_understood_in_both_protocols(servers: LocalNodes, protocol: int) -> None:
    options = {"protocol": protocol}
    hosts = {i: {**host, **options} for i, host in servers.hosts.items()}
    with configured(hosts):
        assert found() == {}
    with configured([hosts[0], {**hosts[0], "host": "localhost"}]):
        assert set(found()) == {"E204"}


def test_no_connection_is_left(servers: LocalNodes) -> None:
    asking = client(servers)

    assert check_live_nodes() == []

    wait_until(lambda: len(asking.client_list()) == 1)
    asking.close()


def test_the_health_that_this_process_knows_of_is_left_alone(servers: LocalNodes) -> None:
    with configured([servers.hosts[0], {"port": 1}]):
        for _ in range(3):
            assert "E201" in found()
        assert {h.state for h in clusters["default"].health().values()} == {"up"}


def test_a_node_that_this_process_leaves_alone_is_asked_all_the_same() -> None:
    with LocalNodes(1, options=SOUND) as nodes, configured(nodes.hosts):
        nodes.kill(0)
        for _ in range(3):
            clusters["default"].call_nodes("PING")
        assert clusters["default"].health()[0].state == "down"
        nodes.restart(0)

        assert found() == {}


# E201, I201: nodes that cannot be used, or not be looked at.


def test_nodes_that_cannot_be_reached_are_named(servers: LocalNodes) -> None:
    with configured([servers.hosts[0], {"port": 1}, {"port": 2}]):
        messages = check_live_nodes()

    assert [m.id for m in messages] == ["django_rb.E201"] * 2
    assert messages[0].msg.startswith("settings.RB_CLUSTERS['default']['HOSTS'][1]: ")
    assert "[node 1, localhost:1/0, cluster default]" in messages[0].msg


def test_a_wrong_password_is_not_shown(servers: LocalNodes) -> None:
    with LocalNodes(1, options={**SOUND, "requirepass": SECRET}) as nodes:
        with configured([{**nodes.hosts[0], "password": f"{SECRET}?"}]):
            assert "WRONGPASS" in found()["E201"] or "invalid" in found()["E201"]
        with configured(nodes.hosts):
            assert "uthentication required" in found()["E201"]
        with configured([{**nodes.hosts[0], "password": SECRET}]):
            assert found() == {}


def test_silent_nodes_of_all_clusters_are_waited_for_together() -> None:
    with LocalNodes(3, options=SOUND) as nodes:
        patient = {"HOSTS": nodes.hosts, "POOL_OPTIONS": {"socket_timeout": None}}
        for host_id in range(3):
            nodes.pause(host_id)
        with configured(nodes.hosts, **dict.fromkeys("bcdefgh", patient)):
            began = monotonic()
            messages = check_live_nodes(timeout=1.0)
            took = monotonic() - began

    assert [m.id for m in messages] == ["django_rb.E201"] * 24
    assert took < 6  # one cluster after the other would take 8 seconds


def test_a_cluster_whose_settings_have_a_mistake(servers: LocalNodes) -> None:
    with configured(servers.hosts, other={"HOSTS": f"redis://:{SECRET}@h"}):
        assert found()["E201"].startswith("settings.RB_CLUSTERS['other']['HOSTS']: ")
    with override_settings(RB_CLUSTERS=[], CACHES=CACHES):
        assert found()["E201"].startswith("settings.RB_CLUSTERS is a list")


def test_there_are_no_nodes_to_ask() -> None:
    with override_settings(RB_CLUSTERS={}, CACHES=CACHES):
        assert found()["W201"].startswith("settings.RB_CLUSTERS is missing or empty")


def test_a_user_who_may_not_ask_info() -> None:
    rights = ("user", ["app", "on", f">{SECRET}", "~*", "+@all", "-info"])
    with LocalNodes(1, options=[*SOUND.items(), rights]) as nodes:
        app = {**nodes.hosts[0], "username": "app", "password": SECRET}
        with configured([app]):
            said = found()

    assert list(said) == ["I201"]
    assert "it can be reached" in said["I201"]


def test_a_user_who_may_not_ask_the_time() -> None:
    rights = ("user", ["app", "on", f">{SECRET}", "~*", "+@all", "-time"])
    with LocalNodes(1, options=[*SOUND.items(), rights]) as nodes:
        app = {**nodes.hosts[0], "username": "app", "password": SECRET}
        with configured([app]):
            assert found() == {}


# E202, E203, W202: the wrong kind of server.


def test_a_replica_is_not_a_node() -> None:
    with LocalNodes(2, options={**SOUND, "repl-diskless-sync-delay": "0"}) as nodes:
        master = nodes.hosts[0]
        client(nodes, 1).replicaof(master["host"], master["port"])
        with configured(nodes.hosts):
            wait_until(lambda: client(nodes, 1).info()["master_link_status"] == "up", 20)
            said = found()

    assert list(said) == ["E202"]
    assert f"is a replica of {master['host']}:{master['port']}." in said["E202"]
    assert said["E202"].startswith("settings.RB_CLUSTERS['default']['HOSTS'][1] (127.0.0.1:")


def test_replicas_that_are_none_of_their_host() -> None:
    options = {**SOUND, "repl-diskless-sync-delay": "0"}
    with LocalNodes(2, replicas=1, options=options) as nodes:
        hosts: Any = {
            host_id: {**host, "replicas": [nodes.address(host_id + 2)]}
            for host_id, host in nodes.hosts.items()
        }
        clusters_of = {"default": {"HOSTS": hosts, "READ_FROM": "prefer-replica"}}
        with override_settings(RB_CLUSTERS=clusters_of, CACHES=CACHES):
            assert found() == {}
            one, other = hosts[0]["replicas"], hosts[1]["replicas"]
            hosts[0]["replicas"], hosts[1]["replicas"] = other, one[:0]
            of_another = found()
            redis.Redis(**nodes.address(3)).replicaof("NO", "ONE")
            a_primary = found()
            hosts[0]["replicas"] = [{"host": "127.0.0.1", "port": 1}]
            nowhere = found()

    assert list(of_another) == ["W212"]
    assert f"is a replica of 127.0.0.1:{hosts[1]['port']}, not of" in of_another["W212"]
    assert of_another["W212"].startswith("settings.RB_CLUSTERS['default']['HOSTS'][0]['repl")
    assert list(a_primary) == ["W212"]
    assert "is a primary, not a replica" in a_primary["W212"]
    assert "127.0.0.1:1/0 cannot be read from: Error 111" in nowhere["W212"]


def test_a_redis_cluster_needs_its_topology() -> None:
    with (
        LocalNodes(1, topology="redis-cluster", options=SOUND) as nodes,
        configured(nodes.hosts),
    ):
        said = found()

    assert list(said) == ["E203"]
    assert "runs in cluster mode" in said["E203"]


def says(info: str) -> Peer:
    """Return a node that answers INFO with a text, for servers that cannot be had here."""

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"INFO":
            text = f"# Server\r\n{info}\r\n".encode()
            connection.sendall(b"$%d\r\n%b\r\n" % (len(text), text))
        else:
            seconds, part = divmod(time(), 1)
            connection.sendall(b"*2\r\n$10\r\n%d\r\n$6\r\n%06d\r\n" % (seconds, part * 1e6))

    return Peer(answer)


@for_each(
    ("info", "expected"),
    [
        ("redis_version:6.2.14", "runs Redis 6.2.14."),
        ("redis_version:7.0.0", ""),
        ("redis_version:10.0.0", ""),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.5", "runs Valkey 7.2.5."),
        ("redis_version:7.2.4\r\nvalkey_version:8.0.0", ""),
        ("redis_version:next", ""),
        ("", ""),
    ],
)
def test_servers_that_are_too_old(info: str, expected: str) -> None:
    with says(info) as node, configured([node.host]):
        said = found()

    assert expected in said.get("W202", "")
    assert list(said) == (["W202"] if expected else [])


def test_a_sentinel_is_not_a_node() -> None:
    with says("redis_version:7.2.4\r\nredis_mode:sentinel") as node, configured([node.host]):
        assert "runs in sentinel mode" in found()["E203"]


# W203, W204: not now.


def test_a_node_that_is_loading() -> None:
    slowly = {
        "enable-debug-command": "yes",
        "key-load-delay": "2000",
        "loading-process-events-interval-bytes": "1024",
    }
    with LocalNodes(1, options={**SOUND, **slowly}) as nodes, configured(nodes.hosts):
        node = client(nodes)
        node.mset({f"key:{n}": "x" * 200 for n in range(2000)})
        reload = threading.Thread(target=lambda: run(client(nodes), "DEBUG RELOAD"))
        reload.start()
        try:
            wait_until(lambda: node.info()["loading"] == 1, 20)
            said = found()
        finally:
            # It stops waiting for each key, and is done in no time.
            node.config_set("key-load-delay", 0)
            reload.join()

    assert list(said) == ["W203"]
    assert "is loading its data" in said["W203"]


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(-5.0, "5.0 seconds ahead of"), (5.0, "5.0 seconds behind"), (0.2, ""), (-0.2, "")],
)
def test_clocks_that_differ(
    servers: LocalNodes, monkeypatch: pytest.MonkeyPatch, shift: float, expected: str
) -> None:
    monkeypatch.setattr(connecting, "time", lambda: time() + shift)

    messages = check_live_nodes()

    assert [m.id for m in messages] == (["django_rb.W204"] * 2 if expected else [])
    assert all(expected in m.msg for m in messages)


def test_a_slow_answer_is_not_a_wrong_clock(
    servers: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([time() - 1, time() + 60])  # as if it had taken a minute
    monkeypatch.setattr(connecting, "time", lambda: next(clock))

    assert check_live_nodes() == []


# W205, W206: memory.


def test_nodes_without_maxmemory(nodes: LocalNodes) -> None:
    said = found()

    assert list(said) == ["W205"]
    assert "maxmemory is not set on nodes 0, 1, 2 and 3." in said["W205"]


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ({}, ["W206"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}, ["W206"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, []),
    ],
)
def test_a_cache_that_evicts_nothing(sessions: dict[str, Any], expected: list[str]) -> None:
    with LocalNodes(1, options={**SOUND, "maxmemory-policy": "noeviction"}) as nodes:
        with configured(nodes.hosts), override_settings(**sessions):
            said = found()
        locmem = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        with configured(nodes.hosts), override_settings(CACHES=locmem):
            assert found() == {}

    assert list(said) == expected
    if expected:
        assert "noeviction on node 0, for the cache 'default'." in said["W206"]


# E204, W207: one database by two names.


def test_two_host_ids_that_lead_to_one_database(servers: LocalNodes) -> None:
    port = servers.hosts[0]["port"]
    with configured([servers.hosts[0], servers.hosts[1], {"host": "localhost", "port": port}]):
        said = found()

    assert list(said) == ["E204"]
    assert "nodes 0 and 2 are the same database" in said["E204"]
    assert f"(127.0.0.1:{port}/0 and localhost:{port}/0)" in said["E204"]


def test_two_clusters_that_lead_to_one_database(servers: LocalNodes) -> None:
    port = servers.hosts[1]["port"]
    other = {"HOSTS": [{"host": "localhost", "port": port}]}
    with configured(servers.hosts, other=other):
        said = found()
    assert list(said) == ["W207"]
    assert said["W207"].startswith("default 1 and other 0 are the same database of one server")

    with configured(servers.hosts, other={**other, "HOST_DEFAULTS": {"db": 1}}):
        assert found() == {}


def test_the_messages_are_djangos_own(servers: LocalNodes) -> None:
    with configured([servers.hosts[0], {"port": 1}]):
        (message,) = check_live_nodes()
        assert isinstance(message, CheckMessage)
        with override_settings(SILENCED_SYSTEM_CHECKS=["django_rb.E201"]):
            call_command("check", tags=["rb_connect"], stdout=StringIO())
