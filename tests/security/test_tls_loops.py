"""TLS on event loops: what only they do."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
import uvloop

from django_rb.engine import BadHostSetup, Cluster
from django_rb.engine.loops import handshake as aio_handshake
from django_rb.engine.rounds.batch import call_each
from tests.faults.names import Names
from tests.helpers import collect_garbage, wait_until
from tests.transports import awaited

from .conftest import Open
from .test_tls import client_files

LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@LOOPS
def test_a_loop_that_ends_leaves_nothing(
    new_loop: Callable[[], Any], tls: Any, trust: str, open_cluster: Open
) -> None:
    async def get(key: str) -> Any:
        return await cluster.aio.get(key)

    collect_garbage()

    async def use() -> None:
        large = b"x" * 3_000_000
        await asyncio.gather(*(cluster.aio.set(f"large:{n}", large) for n in range(6)))
        assert await cluster.aio.mget(*(f"large:{n}" for n in range(6))) == [large] * 6
        task = asyncio.create_task(get("large:1"))
        await asyncio.sleep(0)  # it is sent
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await cluster.aio.get("large:2") == large

    with tls() as hosts:
        cluster = open_cluster(
            hosts,
            host_defaults={"ssl_ca_certs": trust},
            pool_options={"socket_timeout": 30.0, "socket_connect_timeout": 30.0},
        )
        for is_shut_down in (False, True):
            loop = new_loop()
            before = descriptors()
            loop.run_until_complete(use())
            assert descriptors() > before
            if is_shut_down:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            gc.collect()
            wait_until(lambda: descriptors() <= before)  # noqa: B023 (the server's ends, too)
            assert len(cluster._loops._loops) == 0


@LOOPS
def test_a_node_that_never_shakes_hands(
    new_loop: Callable[[], Any], open_cluster: Open
) -> None:
    async def ask() -> None:
        await cluster.aio.get("key")

    async def main() -> None:
        with pytest.raises(redis.TimeoutError, match="Timeout connecting"):
            await ask()
        task = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        cluster = open_cluster(
            [{"host": "127.0.0.1", "port": port, "ssl": True}],
            pool_options={"socket_timeout": 0.1, "socket_connect_timeout": 0.1},
        )
        with asyncio.Runner(loop_factory=new_loop) as runner:
            before = descriptors()
            runner.run(main())
        gc.collect()
        assert descriptors() <= before


def test_the_files_are_read_once_until_they_change(
    tls: Any, trust: str, authority: trustme.CA, open_cluster: Open, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[ssl.SSLContext] = []
    make = aio_handshake._make_context

    async def count(connection: Any) -> ssl.SSLContext:
        made.append(await make(connection))
        return made[-1]

    monkeypatch.setattr(aio_handshake, "_make_context", count)
    mine = client_files(authority, tmp_path)
    with tls(asks_clients=True) as hosts, awaited():
        cluster = open_cluster({0: hosts[0]}, host_defaults={"ssl_ca_certs": trust, **mine})
        for _ in range(3):
            assert cluster.call_nodes("PING")[0] == {0: b"PONG"}
            cluster.close()
        assert len(made) == 1

        client_files(trustme.CA(), tmp_path)  # in the place of those that are trusted
        _, [failure] = cluster.call_nodes("PING")
        assert failure
        client_files(authority, tmp_path)
        assert cluster.call_nodes("PING")[0] == {0: b"PONG"}
        assert len(made) == 3


def test_an_option_that_asyncio_does_not_know_is_named() -> None:
    cluster = Cluster([{"ssl": True}], host_defaults={"ssl_validate_ocsp": True})
    said = r"'ssl_validate_ocsp' for asyncio .*Leave it out"
    for _ in range(2):
        with awaited(), pytest.raises(BadHostSetup, match=said):
            cluster.call_nodes("PING")


@LOOPS
def test_a_certificate_is_for_the_name_and_not_for_the_address(
    new_loop: Callable[[], Any],
    tls: Any,
    trust: str,
    open_cluster: Open,
    authority: trustme.CA,
) -> None:
    """redis-py is given the address that the engine looked up."""
    with Names() as names, awaited(new_loop):
        names["node.test"] = ["127.0.0.1"]
        shown = {"node.test": "", "127.0.0.1": "Hostname mismatch", "other.test": "Hostname"}
        for name, refusal in shown.items():
            with tls(authority.issue_cert(name)) as hosts:
                named = {i: {**host, "host": "node.test"} for i, host in hosts.items()}
                cluster = open_cluster(named, host_defaults={"ssl_ca_certs": trust})
                replies, failures = cluster.run(call_each(cluster, {0: ("PING",)}))
                if refusal:
                    assert refusal in str(failures[0].error)
                    assert "node.test" in str(failures[0].error)
                else:
                    assert (replies, failures) == ({0: b"PONG"}, [])
                    cluster.nodes[0].epoch += 1
                    names["node.test"] = None  # the last address counts
                    assert cluster.run(call_each(cluster, {0: ("PING",)}))[0] == replies
                    names.end_hanging()
                    names["node.test"] = ["127.0.0.1"]
                cluster.close()
