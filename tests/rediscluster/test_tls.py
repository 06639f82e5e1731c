"""A Redis Cluster whose nodes speak TLS, to each other and to whoever asks so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from django_rb.engine import Cluster
from django_rb.testing import find_server
from django_rb.testing.supervising.members import CLUSTER_OPTIONS, introduce
from django_rb.testing.supervising.servers import Failure, Server, reserve_port
from django_rb.testing.supervising.supervisor import config_line
from tests.helpers import wait_until
from tests.rediscluster.admin import slot_of

KEYS = [b"key:%d" % n for n in range(60)]


class TLSServer(Server):
    """A server with a port for TLS beside the plain one."""

    def __init__(self, number: int, program: str, directory: Path) -> None:
        super().__init__(
            f"Server {number}",
            program,
            b"",
            directory / str(number),
            unix_socket=False,
            port=0,
            kept=None,
            bus_port=reserve_port(),
        )
        self.held_for_tls = reserve_port()
        self.tls_port: int = self.held_for_tls.getsockname()[1]

    @property
    def cluster_address(self) -> str:
        return f"127.0.0.1:{self.tls_port}@{self.bus_number}"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def servers(authority: trustme.CA, tmp_path: Path) -> Iterator[list[TLSServer]]:
    """Three primaries."""
    program = find_server()
    certificate = authority.issue_cert("127.0.0.1")
    paths = {name: str(tmp_path / name) for name in ("ca", "chain", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.private_key_pem.write_to_path(paths["key"])
    Path(paths["chain"]).write_bytes(b"".join(b.bytes() for b in certificate.cert_chain_pems))
    made = [TLSServer(number, program, tmp_path) for number in range(3)]
    for server in made:
        options = [
            *CLUSTER_OPTIONS,
            *(["save", ""], ["tls-port", str(server.tls_port)]),
            *(["tls-cluster", "yes"], ["tls-replication", "yes"], ["tls-auth-clients", "no"]),
            *(["tls-ca-cert-file", paths["ca"]], ["tls-cert-file", paths["chain"]]),
            ["tls-key-file", paths["key"]],
        ]
        server.config = b"".join(map(config_line, options))
    introduce(made, 3, has_shard_ids=False)
    try:
        for server in made:
            server.spawn()
        try:
            wait_until(lambda: all(server.ready() for server in made))
        except Failure as error:
            if "Failed finding TLS support" in str(error):
                pytest.skip("this server was built without TLS")
            raise
        yield made
    finally:
        for server in made:
            server.kill()
            server.release_port()
            server.held_for_tls.close()


def test_nodes_that_are_told_of_speak_tls_as_well(
    authority: trustme.CA, servers: list[TLSServer], tmp_path: Path, transport: str
) -> None:
    url = f"rediss://127.0.0.1:{servers[0].tls_port}/0?ssl_ca_certs={tmp_path / 'ca'}"
    cluster = Cluster([url], topology="redis-cluster")
    client = cluster.get_routing_client()
    client.mset({key: key for key in KEYS})
    assert client.mget(KEYS) == KEYS
    ports = [info.port for info in cluster.hosts.values()]
    assert ports == [server.tls_port for server in servers]
    assert [cluster.get_host_for_key(key) for key in KEYS] == [
        slot_of(key.decode()) * 3 // 16384 for key in KEYS
    ]
    cluster.close()
