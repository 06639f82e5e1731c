"""Over TLS a large write leaves in several records: what is under way is not sent again."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import hiredis
import pytest
import redis
import trustme

from django_rb.engine import Cluster


def test_commands_of_a_write_that_was_cut_short_run_once(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ran: Counter[int] = Counter()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket, number: int) -> None:
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(16384):
                    reader.feed(data)
                    while (command := reader.gets()) is not Ellipsis:
                        is_counting = command[0] == b"INCRBY"
                        ran[number] += is_counting
                        if number > 1 or not is_counting:
                            tls.sendall(b":1\r\n" if is_counting else b"+OK\r\n")
                    if number == 1 and ran[1]:  # the first connection dies in mid-batch
                        time.sleep(0.2)  # its window is full meanwhile
                        tls.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        return
        except OSError:
            pass

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()

        def accept() -> None:
            for number in range(1, 10):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection, number)))
                threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[0].start()
        port = server.getsockname()[1]
        cluster = Cluster(
            [{"host": "127.0.0.1", "port": port, "ssl": True,
              "ssl_ca_certs": str(tmp_path / "ca.pem")}]
        )  # fmt: skip
        cluster.get_routing_client().set("a", 1)
        (connection,) = cluster._threads.pools[0].idle
        with socket.socket(fileno=socket.dup(connection.fd)) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # as a far peer's
        with pytest.raises(redis.ConnectionError), cluster.map() as client:
            _ = [client.incr(f"counter:{number:040d}") for number in range(1500)]
        cluster.close()
        server.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    assert 0 < ran[1] < 1500
    assert ran.total() == ran[1]
