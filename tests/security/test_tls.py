"""TLS to real servers: who is let in, who is not, and that everything goes through it."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from django.test import override_settings

from django_rb.engine import BadHostSetup, Cluster, failures_of
from django_rb.engine.threads.round import TLS_RECORD
from django_rb.testing import LocalNodes
from tests.faults.sharing.programs import run_program
from tests.helpers import Servers, make_cache

from .conftest import Open
from .tls import has_tls

MIB = 1024 * 1024

pytestmark = pytest.mark.usefixtures("transport")


def refusal(cluster: Cluster) -> str:
    """Return what both nodes' failures say, with the node's number and address cut off."""
    replies, failures = cluster.call_nodes("PING")
    assert replies == {}
    texts = set()
    for failure in failures:
        assert isinstance(failure.error, redis.ConnectionError)
        text, _, node = str(failure.error).rpartition(" [")
        assert node == f"node {failure.host_id}, {failure.address}]"
        texts.add(re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text))
    assert len(failures) == 2
    assert len(texts) == 1, texts
    return texts.pop()


def test_a_node_with_the_right_certificate_is_talked_to(
    tls: Any, trust: str, open_cluster: Open, two_servers: Servers
) -> None:
    with tls() as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        with cluster.map() as client:
            writes = [client.set(f"key:{n}", n) for n in range(50)]
            reads = [client.get(f"key:{n}") for n in range(50)]

        assert all(write.value for write in writes)
        assert [int(read.value or -1) for read in reads] == list(range(50))
        assert sum(map(len, two_servers.keys().values())) == 50
        with cluster.all() as client:
            sizes = client.dbsize()
        assert sum(sizes.value.values()) == 50
        assert cluster.get_local_client_for_key("key:7").get("key:7") == b"7"


@pytest.mark.parametrize("with_", ["host_defaults", "pool_options", "url", "ssl_options"])
def test_all_ways_to_say_it(with_: str, tls: Any, trust: str, open_cluster: Open) -> None:
    with tls() as hosts:
        options = {"ssl_ca_certs": trust}
        if with_ == "url":
            urls = [f"rediss://127.0.0.1:{h['port']}/0" for h in hosts.values()]
            cluster = open_cluster([f"{url}?ssl_ca_certs={trust}" for url in urls])
        elif with_ == "ssl_options":
            named = {"ca_certs": trust}
            cluster = open_cluster({i: {**h, "ssl_options": named} for i, h in hosts.items()})
        else:
            cluster = open_cluster(hosts, **{with_: options})
        replies, failures = cluster.call_nodes("PING")
        assert (replies, failures) == ({0: b"PONG", 1: b"PONG"}, [])


def test_a_certificate_of_an_unknown_authority_is_refused(tls: Any, open_cluster: Open) -> None:
    with tls() as hosts:
        assert "certificate verify failed" in refusal(open_cluster(hosts))


def test_a_certificate_of_another_authority_is_refused(
    tls: Any, trust: str, open_cluster: Open
) -> None:
    with tls(trustme.CA().issue_cert("127.0.0.1")) as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        assert "certificate verify failed" in refusal(cluster)


def test_a_certificate_for_another_host_is_refused_by_default(
    tls: Any, trust: str, open_cluster: Open, authority: trustme.CA
) -> None:
    with tls(authority.issue_cert("cache.example.org", "127.0.0.2")) as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in refusal(
            cluster
        )

        named = {i: {**host, "host": "localhost"} for i, host in hosts.items()}
        cluster = open_cluster(named, host_defaults={"ssl_ca_certs": trust})
        replies, failures = cluster.call_nodes("PING")
        assert replies == {}
        assert all("Hostname mismatch" in str(failure.error) for failure in failures)


@pytest.mark.parametrize("where", ["host_defaults", "pool_options"])
def test_the_check_of_host_names_can_be_switched_off(
    where: str, tls: Any, trust: str, open_cluster: Open, authority: trustme.CA
) -> None:
    with tls(authority.issue_cert("cache.example.org")) as hosts:
        options = {"ssl_ca_certs": trust, "ssl_check_hostname": False}
        cluster = open_cluster(hosts, **{where: options})
        assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}

    with tls(trustme.CA().issue_cert("cache.example.org")) as hosts:  # nothing else is off
        cluster = open_cluster(hosts, **{where: options})
        assert "certificate verify failed" in refusal(cluster)


@pytest.mark.parametrize("none", ["none", None, ssl.CERT_NONE])
def test_all_checks_can_be_switched_off(none: Any, tls: Any, open_cluster: Open) -> None:
    with tls(trustme.CA().issue_cert("cache.example.org")) as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_cert_reqs": none})
        assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}


@pytest.mark.only_sync
@pytest.mark.parametrize("where", ["host_defaults", "pool_options"])
@pytest.mark.parametrize("value", ["sometimes", "NONE", 7])
def test_a_mistyped_check_is_a_mistake_and_not_no_check(where: str, value: Any) -> None:
    options: dict[str, Any] = {where: {"ssl_cert_reqs": value}}
    with pytest.raises(BadHostSetup, match="is not 'required', 'optional' or 'none'") as caught:
        Cluster([{"ssl": True}], **options)
    assert caught.value.path == (where.upper(), "ssl_cert_reqs")


def test_an_expired_certificate_is_refused(
    tls: Any, trust: str, open_cluster: Open, authority: trustme.CA
) -> None:
    expired = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    with tls(expired) as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        assert "certificate has expired" in refusal(cluster)


@pytest.mark.parametrize("key_password", [None, "key-pass"])
def test_a_client_certificate_that_is_asked_for_is_shown(
    key_password: str | None,
    tls: Any,
    trust: str,
    open_cluster: Open,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    mine = {"ssl_ca_certs": trust, **client_files(authority, tmp_path, key_password)}
    with tls(asks_clients=True) as hosts:
        cluster = open_cluster(hosts, host_defaults=mine)
        assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}
        assert cluster.get_local_client(0).ping() is True


def test_without_the_client_certificate_that_is_asked_for_no_node_answers(
    tls: Any, trust: str, open_cluster: Open, tmp_path: Path
) -> None:
    stranger = client_files(trustme.CA(), tmp_path)
    with tls(asks_clients=True) as hosts:
        for shown in ({}, stranger):
            cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust, **shown})
            replies, failures = cluster.call_nodes("PING")
            assert replies == {}
            assert [failure.host_id for failure in failures] == [0, 1]
            for failure in failures:
                assert isinstance(failure.error, redis.ConnectionError)
                # What is heard of the alert depends on who is faster.
                assert re.search("alert|reset|closed|lost|Broken pipe|EOF", str(failure.error))
                assert str(failure.error).endswith(
                    f"[node {failure.host_id}, {failure.address}]"
                )


# Where the options of TLS are wrong, redis-py 5 leaves the socket to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_wrong_password_of_the_key_is_an_error_of_the_node(
    tls: Any, trust: str, open_cluster: Open, authority: trustme.CA, tmp_path: Path
) -> None:
    mine = {"ssl_ca_certs": trust, **client_files(authority, tmp_path, "key-pass")}
    with tls(asks_clients=True) as hosts:
        cluster = open_cluster(hosts, host_defaults={**mine, "ssl_password": "wrong"})
        assert refusal(cluster)


def client_files(
    authority: trustme.CA, folder: Path, password: str | None = None
) -> dict[str, Any]:
    """Write a client's certificate and its key; return the options that name them."""
    from cryptography.hazmat.primitives import serialization

    issued = authority.issue_cert("client@example.org")
    cert, key = folder / "client-cert.pem", folder / "client-key.pem"
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    pem = issued.private_key_pem.bytes()
    if password is not None:
        pem = serialization.load_pem_private_key(pem, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    key.write_bytes(pem)
    files: dict[str, Any] = {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    return files if password is None else {**files, "ssl_password": password}


@pytest.mark.only_sync
def test_no_read_leaves_a_part_of_a_record_where_poll_does_not_see_it(
    tls: Any, trust: str, open_cluster: Open
) -> None:
    with tls() as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        cluster.call_nodes("PING")
        idle = [
            connection for node in cluster._threads.pools.values() for connection in node.idle
        ]
        assert len(idle) == len(hosts)
        assert all(len(connection.buffer) >= TLS_RECORD for connection in idle)


@pytest.mark.only_sync
def test_greenlets_talk_to_nodes_with_tls(tls: Any, trust: str) -> None:
    with tls() as hosts:
        trusting = {host_id: {**host, "ssl_ca_certs": trust} for host_id, host in hosts.items()}
        assert run_program("greenlets", "over_tls", trusting) == 100


def test_large_batches_go_through_tls(tls: Any, trust: str, open_cluster: Open) -> None:
    with tls() as hosts:
        cluster = open_cluster(
            hosts,
            host_defaults={"ssl_ca_certs": trust},
            pool_options={"socket_timeout": 30.0, "socket_connect_timeout": 30.0},
        )
        large = {f"large:{n}": bytes([n]) * (8 * MIB) for n in range(4)}
        small = {f"small:{n}": b"%d" % n for n in range(5000)}
        with cluster.map() as client:
            for key, value in {**large, **small}.items():
                client.set(key, value)
        with cluster.map() as client:
            found = {key: client.get(key) for key in {**large, **small}}

        assert {key: promise.value for key, promise in found.items()} == {**large, **small}


def test_the_cache_works_on_nodes_with_tls(tls: Any, trust: str) -> None:
    with (
        tls() as hosts,
        override_settings(
            RB_CLUSTERS={
                "default": {"HOSTS": hosts, "HOST_DEFAULTS": {"ssl_ca_certs": trust}},
            }
        ),
    ):
        cache = make_cache()
        data = {f"key:{n}": {"n": n, "text": "x" * n} for n in range(500)}
        assert cache.set_many(data) == []
        assert cache.get_many(data) == data
        cache.set("one", [1], 60)
        assert cache.get("one") == [1]
        assert cache.add("count", 1)
        assert cache.incr("count") == 2
        assert len(cache.keys()) == 502
        with cache.lock("lock", timeout=60):
            pass
        cache.delete_many(data)
        assert cache.get_many(data) == {}
        cache.cluster.close()


def test_a_cache_with_tls_misses_or_raises_where_a_certificate_is_wrong(tls: Any) -> None:
    with tls() as hosts, override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}):
        with pytest.raises(redis.ConnectionError, match=r"certificate verify failed.*\[node"):
            make_cache().get_many(["a", "b", "c", "d"])
        assert make_cache(OPTIONS={"ON_NODE_ERROR": "miss"}).get_many(["a", "b"]) == {}


def test_nodes_with_tls_and_without_live_in_one_cluster(
    tls: Any, trust: str, open_cluster: Open, two_nodes: LocalNodes, two_servers: Servers
) -> None:
    with tls() as hosts:
        mixed = {0: hosts[0], 1: two_nodes.hosts[1]}
        cluster = open_cluster(mixed, host_defaults={"ssl_ca_certs": trust})
        with cluster.map() as client:
            for n in range(100):
                client.set(f"key:{n}", n)
        with cluster.map() as client:
            found = [client.get(f"key:{n}") for n in range(100)]

        assert [int(promise.value or -1) for promise in found] == list(range(100))
        assert all(two_servers.keys().values())


def test_one_nodes_wrong_certificate_is_one_nodes(
    tls: Any, open_cluster: Open, two_nodes: LocalNodes
) -> None:
    with tls() as hosts:
        cluster = open_cluster({0: hosts[0], 1: two_nodes.hosts[1]})
        replies, [failure] = cluster.call_nodes("PING")
        assert replies == {1: b"PONG"}
        assert failure.host_id == 0

        with pytest.raises(redis.ConnectionError) as caught, cluster.map() as client:
            promises = {n: client.set(f"key:{n}", n) for n in range(50)}
        rejected = {n for n, promise in promises.items() if promise.is_rejected}
        assert rejected
        assert rejected == {n for n in promises if cluster.get_host_for_key(f"key:{n}") == 0}
        assert {failure.host_id for failure in failures_of(caught.value)} == {0}


@pytest.mark.parametrize("speaks", ["plain to TLS", "TLS to plain"])
def test_mixed_up_ports_are_errors_that_name_the_node(
    speaks: str, tls: Any, trust: str, open_cluster: Open, two_nodes: LocalNodes
) -> None:
    with tls() as hosts:
        if speaks == "plain to TLS":
            cluster = open_cluster({i: {**h, "ssl": False} for i, h in hosts.items()})
        else:
            cluster = open_cluster(
                {
                    i: {**h, "ssl": True, "ssl_ca_certs": trust}
                    for i, h in two_nodes.hosts.items()
                }
            )
        replies, failures = cluster.call_nodes("PING", timeout=10)
        assert replies == {}
        for failure in failures:
            assert isinstance(failure.error, redis.RedisError)
            assert f"[node {failure.host_id}, {failure.address}]" in str(failure.error)


def test_a_front_serves_tls_as_servers_do(
    tls: Any, trust: str, open_cluster: Open, two_nodes: LocalNodes
) -> None:
    """What stands in for servers built without TLS is tested with those that have it, too."""
    assert isinstance(has_tls(two_nodes.program), bool)
    with tls(fronts_only=True) as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}
        assert "certificate verify failed" in refusal(open_cluster(hosts))
