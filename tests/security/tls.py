"""Nodes that are reached by TLS: by the server's own where it has it, else through a front."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import redis
import trustme

from django_rb.testing import LocalNodes

PIECE = 65536


class Front:
    """A port of 127.0.0.1 that takes TLS connections and relays them to a plain server."""

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        self._context = context
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._start())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(
            self._relay, "127.0.0.1", 0, ssl=self._context, limit=PIECE
        )

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, outer}
        self._writers |= both
        await asyncio.gather(self._pump(reader, outer), self._pump(inner, writer))
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(PIECE):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@contextmanager
def serve_tls(
    nodes: LocalNodes,
    certificate: trustme.LeafCert,
    authority: trustme.CA,
    folder: Path,
    *,
    asks_clients: bool = False,
    fronts_only: bool = False,
) -> Iterator[dict[int, dict[str, Any]]]:
    """Let plain nodes be reached by TLS as well; give their hosts, without a way to trust them.

    Args:
        certificate: what they show.
        authority: whose certificates they take from clients, if `asks_clients`.
    """
    places: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        for host_id, host in nodes.hosts.items():
            if fronts_only or not has_tls(nodes.program):
                front = Front(_context(certificate, authority, asks_clients), host["port"])
                stack.callback(front.close)
                port = front.port
            else:
                port = _by_server(host, certificate, authority, folder, asks_clients)
                stack.callback(_ask, host, "CONFIG", "SET", "tls-port", "0")
            places[host_id] = {"host": "127.0.0.1", "port": port, "ssl": True}
        yield places


@cache
def has_tls(program: str) -> bool:
    """Return whether a server program was built with TLS.

    It is told to serve TLS without a certificate, and says what it lacks before it ends.
    (Valkey dies if it is told so by CONFIG SET and was built without.)
    """
    said = subprocess.run(
        [program, "--port", "0", "--tls-port", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return "tls-cert-file" in said.stdout


def _ask(host: dict[str, Any], *command: str) -> Any:
    with redis.Redis(**host) as client:
        return client.execute_command(*command)


def _by_server(
    host: dict[str, Any],
    certificate: trustme.LeafCert,
    authority: trustme.CA,
    folder: Path,
    asks_clients: bool,
) -> int:
    """Switch the server's own TLS on and return its port."""
    cert, key, ca = (folder / f"server-{name}.pem" for name in ("cert", "key", "ca"))
    cert.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    ca.write_bytes(authority.cert_pem.bytes())
    options = {
        "tls-cert-file": str(cert),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(ca),
        "tls-auth-clients": "yes" if asks_clients else "no",
    }
    settings = [word for item in options.items() for word in item]
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
    _ask(host, "CONFIG", "SET", *settings, "tls-port", str(port))
    return port


def _context(
    certificate: trustme.LeafCert, authority: trustme.CA, asks_clients: bool
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if asks_clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
