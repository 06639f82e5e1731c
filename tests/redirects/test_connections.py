"""What connections say so that nodes redirect, and to whom, and who may not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
import trustme
from django.test import override_settings

from django_rb.engine import Cluster
from django_rb.engine.errors import Redirected
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import Servers, make_cache, wait_until
from tests.redirects.conftest import OPTIONS, Admin
from tests.security.tls import serve_tls

CAPA = [b"CLIENT", b"CAPA", b"redirect"]


class Guarded(Peer):
    """A peer that answers some commands only once it has heard what follows.

    Args:
        said: the answer to those.
        held: the beginnings of those commands.
    """

    def __init__(self, said: bytes, held: Sequence[list[bytes]] = (CAPA,)) -> None:
        super().__init__(lambda *_: None)
        self.said, self.held = said, held

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        held = b""
        try:
            while data := connection.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not Ellipsis:
                    self.commands.append(command)
                    if any(command[: len(each)] == each for each in self.held):
                        held += self.said
                        continue
                    reply = b"$5\r\nvalue\r\n" if command[0] == b"GET" else b"+OK\r\n"
                    connection.sendall(held + reply)
                    held = b""
        except OSError:
            pass
        finally:
            connection.close()


@pytest.mark.parametrize(
    "said", [b"+OK\r\n", b"-ERR unknown subcommand 'CAPA'. Try CLIENT HELP.\r\n"]
)
def test_it_costs_no_round_trip(said: bytes, transport: str) -> None:
    with Guarded(said) as peer:
        cluster = Cluster([{**peer.host, "password": "secret", "db": 1}], pool_options=OPTIONS)
        assert cluster.get_routing_client().get("key") == b"value"
        cluster.close()
    assert peer.commands.count(CAPA) == 1
    names = [command[0] for command in peer.commands]
    assert names.index(b"AUTH") < peer.commands.index(CAPA) < names.index(b"GET")


def test_a_thread_introduces_itself_in_one_round_trip() -> None:
    first = CAPA, [b"CLIENT", b"SETINFO", b"LIB-NAME"]
    with Guarded(b"+OK\r\n", first) as peer:
        cluster = Cluster([{**peer.host, "password": "secret", "db": 1}], pool_options=OPTIONS)
        assert cluster.get_routing_client().get("key") == b"value"
        cluster.close()
    said = [command[:3] for command in peer.commands if command[0] == b"CLIENT"]
    assert said == [*first, [b"CLIENT", b"SETINFO", b"LIB-VER"]]


@pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")
def test_it_is_said_where_no_name_is(
    make_cluster: Callable[..., Cluster], admin: Admin, transport: str
) -> None:
    cluster = make_cluster(pool_options={"lib_name": "", "lib_version": "", **OPTIONS})
    client = cluster.get_routing_client()
    client.set("key", "value")
    names = [c["lib-name"] for c in admin.ask(0, "CLIENT LIST") if c["capa"] == "r"]
    assert set(names) == {""}
    admin.swap(0, 1)
    assert client.set("key", "value")


def test_connections_to_replicas_do_not_say_it(
    make_cluster: Callable[..., Cluster], admin: Admin, shard: LocalNodes, transport: str
) -> None:
    host = {**shard.hosts[0], "replicas": [shard.address(1), shard.address(2)]}
    cluster = make_cluster(hosts=[host], read_from="prefer-replica")
    client = cluster.get_routing_client()
    assert client.set("key", "value")
    for node in (1, 2):
        wait_until(partial(admin.ask, node, "GET", "key"))
    assert [client.get("key") for _ in range(4)] == [b"value"] * 4
    assert {c["capa"] for node in (1, 2) for c in admin.clients(node)} == {""}
    assert {c["capa"] for c in admin.clients(0)} == {"r"}


def test_near_copies_follow(admin: Admin, shard: LocalNodes) -> None:
    config = {"default": {"HOSTS": shard.hosts, "POOL_OPTIONS": OPTIONS}}
    with override_settings(RB_CLUSTERS=config):
        cache: Any = make_cache(OPTIONS={"NEAR": {"MAX_AGE": 60}})
        cache.set("key", "old")
        assert [cache.get("key") for _ in range(3)] == ["old"] * 3
        assert cache.near_info().hits > 0
        assert {c["capa"] for c in admin.clients(0)} == {"r"}
        wait_until(lambda: admin.ask(1, "DBSIZE") == 1)
        admin.swap(0, 1)
        cache.set("key", "new")
        assert [cache.get("key") for _ in range(3)] == ["new"] * 3
        name = admin.ask(1, "KEYS", "*")[0]
        admin.ask(1, "DEL", name)  # the successor tells of changes, too
        wait_until(lambda: cache.get("key") is None)


@pytest.fixture
def user(admin: Admin) -> Iterator[str]:
    """A user whom all nodes know."""
    for node in range(admin.total):
        admin.ask(node, "ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all")
    yield "shop"
    for node in range(admin.total):
        admin.ask(node, "ACL", "DELUSER", "shop")


def test_a_user_is_one_of_the_successor_too(
    make_cluster: Callable[..., Cluster], admin: Admin, user: str, transport: str
) -> None:
    login = {"username": user, "password": "secret", "db": 2}
    cluster = make_cluster(hosts=[{**admin.nodes.address(0), **login}])
    client = cluster.get_routing_client()
    client.set("key", "old")
    admin.swap(0, 1)
    assert client.set("key", "new")
    (one,) = admin.clients(1)
    assert (one["user"], one["db"], one["capa"]) == (user, "2", "r")


def test_a_user_who_may_not_say_it_meets_a_replica(
    make_cluster: Callable[..., Cluster], admin: Admin, user: str, transport: str
) -> None:
    admin.ask(0, "ACL", "SETUSER", user, "-client|capa")
    login = {"username": user, "password": "secret"}
    cluster = make_cluster(hosts=[{**admin.nodes.address(0), **login}])
    client = cluster.get_routing_client()
    client.set("key", "old")
    admin.swap(0, 1)
    assert client.get("key") == b"old"
    for command in (("SET", "key", 1), ("EVAL", DELETE, 1, "key")):
        with pytest.raises(redis.exceptions.ReadOnlyError) as caught:
            client.execute_command(*command)
        assert not isinstance(caught.value, Redirected)


DELETE = "return redis.call('DEL', KEYS[1])"


def test_a_successor_with_tls(transport: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    (tmp_path / "ca").write_bytes(authority.cert_pem.bytes())
    with (
        LocalNodes(2) as nodes,
        Servers(nodes.hosts) as servers,
        serve_tls(
            nodes, authority.issue_cert("127.0.0.1"), authority, tmp_path, fronts_only=True
        ) as hosts,
    ):
        if not nodes.server.startswith("valkey"):
            pytest.skip("only Valkey says REDIRECT")
        host = {**nodes.hosts[0], **hosts[0], "ssl_ca_certs": str(tmp_path / "ca")}
        cluster = Cluster([host], pool_options=OPTIONS)
        client = cluster.get_routing_client()
        client.set("key", "old")
        servers.ask(0, "REPLICAOF", "127.0.0.1", hosts[1]["port"])
        assert client.set("key", "new")
        assert servers.ask(1, "GET", "key") == b"new"
        cluster.close()


@pytest.mark.parametrize(
    "said", [b"REDIRECT", b"REDIRECT nonsense", b"REDIRECT ?:6379", b"REDIRECT h:99999"]
)
def test_what_is_no_address(said: bytes, transport: str) -> None:
    def answer(_peer: Peer, connection: socket.socket, _command: list[bytes]) -> None:
        connection.sendall(b"-" + said + b"\r\n")

    with Peer(answer) as peer:
        cluster = Cluster([peer.host], pool_options={"socket_timeout": 0.1})
        with pytest.raises(Redirected, match=r"REDIRECT.* \[node 0, 127"):
            cluster.get_routing_client().get("key")
        cluster.close()


def test_a_successor_that_the_settings_name_has_its_own_login(
    admin: Admin, shard: LocalNodes, make_cluster: Callable[..., Cluster], transport: str
) -> None:
    nodes: list[dict[str, Any]] = []
    for node, user in enumerate(["site-a", "site-b"]):
        login = {"username": user, "password": f"secret of {user}"}
        secret = f">{login['password']}"
        admin.ask(node, "ACL", "SETUSER", user, "on", secret, "~*", "&*", "+@all")
        nodes.append({**shard.address(node), **login})
    host = {**nodes[0], "replicas": [nodes[1]]}
    cluster = make_cluster(hosts={0: host}, read_from="prefer-primary")
    client = cluster.get_routing_client()
    try:
        client.set("key", "old")
        admin.ask(1, "ACL", "LOG", "RESET")
        admin.swap(0, 1)
        client.set("key", "new")
        assert admin.ask(1, "GET", "key") == b"new"
        assert admin.ask(1, "ACL", "LOG") == []
    finally:
        for node, user in enumerate(["site-a", "site-b"]):
            admin.ask(node, "ACL", "DELUSER", user)
