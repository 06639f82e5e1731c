"""Near copies of what was read by TLS, where poll() does not see all that came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from django_rb.engine import Cluster
from django_rb.engine.near.copies import Copies
from django_rb.engine.rounds.batch import find
from django_rb.engine.rounds.tracked_get import get_tracked
from tests.helpers import wait_until

from .conftest import Open


@pytest.fixture
def run(transport: str) -> Any:
    if transport == "threads":
        yield lambda cluster, batch: cluster.run(batch)
        return
    with asyncio.Runner() as runner:

        async def arun(cluster: Cluster, batch: Any) -> Any:
            await asyncio.sleep(0.001)  # so that the loop reads what came
            return await cluster.arun(batch)

        yield lambda cluster, batch: runner.run(arun(cluster, batch))


@pytest.mark.parametrize("transport", ["threads", "loops"])
def test_changes_are_heard(
    run: Callable[..., Any], tls: Any, trust: str, open_cluster: Open
) -> None:
    with tls() as hosts:
        cluster = open_cluster(hosts, host_defaults={"ssl_ca_certs": trust})
        copies = Copies(10_000_000, 60)
        cluster.trackings.keepers = (copies,)
        client = cluster.get_routing_client()
        keys = [b"key:%d" % number for number in range(200)]

        def near(key: bytes) -> bytes | None:
            cluster.trackings.look(monotonic())
            return copies.get(key, monotonic())

        def is_near(key: bytes, value: bytes) -> bool:
            assert run(cluster, get_tracked(cluster, key, copies)) == (value, [])
            return near(key) == value

        for value in (b"x" * 60_000, b"y"):
            for key in keys[:20]:
                client.set(key.decode(), value)
            for key in keys[:20]:
                wait_until(lambda key=key, value=value: is_near(key, value))  # type: ignore[misc]
        client.mset(dict.fromkeys([key.decode() for key in keys], b"many"))
        found, failures = run(cluster, find(cluster, keys, copies=copies))
        assert found == dict.fromkeys(keys, b"many")
        assert not failures
        cluster.call_nodes("FLUSHDB")

        def is_gone() -> bool:
            run(cluster, get_tracked(cluster, b"other", copies))
            return {near(key) for key in keys} == {None}

        wait_until(is_gone)
