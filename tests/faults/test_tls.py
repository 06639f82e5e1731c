"""A node whose certificate is not the one that was expected."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import trustme

from django_rb.engine import Cluster, NodeDown
from tests.faults.rig import FAULTY, PATIENT, Rig
from tests.helpers import wait_until

CALLS = 3  # make a node count as down


class TLSFront:
    """Speaks TLS on a port of its own, and plain TCP with the node behind it.

    Close the connections to it before its end.

    Args:
        upstream: host and port of the node.
        context: with the certificate to show; it may get another one at any time.
    """

    def __init__(self, upstream: tuple[str, int], context: ssl.SSLContext) -> None:
        self._upstream = upstream
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),  # handshakes that fail are what this is about
            self._context.wrap_socket(client, server_side=True) as outer,
            socket.create_connection(self._upstream) as inner,
        ):
            while True:
                ready: list[Any] = [outer]
                if not outer.pending():
                    ready, _, _ = select.select([outer, inner], [], [])
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (inner if source is outer else outer).sendall(data)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.fixture
def cluster(
    rig: Rig, context: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> Iterator[Cluster]:
    """A cluster whose faulty node speaks TLS, with the certificate of `context`."""
    health = {"FAILURES": CALLS, "PAUSE": 0.5, "MAX_PAUSE": 0.5}
    options = {"ssl": True, "ssl_ca_certs": str(tmp_path / "ca.pem")}
    node = rig.nodes.hosts[FAULTY]
    with TLSFront((node["host"], node["port"]), context) as front:
        hosts = rig.hosts()
        hosts[FAULTY] |= {"port": front.port, **options}
        cluster = Cluster(hosts, pool_options=PATIENT, health=health)
        yield cluster
        cluster.close()


def show(context: ssl.SSLContext, authority: trustme.CA, name: str) -> None:
    """Let new connections be shown a certificate for `name`."""
    authority.issue_cert(name).configure_cert(context)


def test_a_wrong_certificate_is_refused_and_counts_as_a_failure(
    cluster: Cluster, context: ssl.SSLContext, authority: trustme.CA, rig: Rig
) -> None:
    show(context, trustme.CA(), "127.0.0.1")  # of somebody else's authority
    for _ in range(CALLS):
        replies, (failure,) = cluster.call_nodes("ECHO", "x")
        assert sorted(replies) == [host for host in rig.data.hosts if host != FAULTY]
        assert failure.host_id == FAULTY
        assert isinstance(failure.error, redis.ConnectionError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(failure.error).upper()
        assert f"[node {FAULTY}, {failure.address}]" in str(failure.error)
    assert cluster.health()[FAULTY].state == "down"
    _, (failure,) = cluster.call_nodes("PING")
    assert isinstance(failure.error, NodeDown)

    show(context, authority, "127.0.0.1")
    wait_until(lambda: cluster.call_nodes("PING")[1] == [])
    assert cluster.health()[FAULTY].state == "up"
    replies, failures = cluster.call_nodes("ECHO", "mine")
    assert (replies, failures) == (dict.fromkeys(rig.data.hosts, b"mine"), [])
