"""Primaries that are demoted past Sentinels, which notice that later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.sentinel.admin import Admin, at_work, key_of, make_cluster


@pytest.fixture(scope="module")
def watched() -> Iterator[LocalNodes]:
    """Shards with a replica each, one for each test; Sentinels leave them alone."""
    with LocalNodes(2, topology="sentinel", replicas=1, failover_seconds=60) as nodes:
        if not nodes.server.startswith("valkey"):
            pytest.skip("only Valkey says REDIRECT")
        yield nodes


def test_a_demoted_primary_names_its_successor(
    watched: LocalNodes, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Admin(watched)
    shard = int(transport == "loops")
    # While it hands over, a primary lets writes wait: for about a second.
    cluster: Cluster = make_cluster(watched, socket_timeout=20.0)
    key, old, new = key_of(cluster, shard), admin.primary(shard), admin.replica(shard)
    client = cluster.get_routing_client()
    client.set(key, "old")
    place = watched.address(new)
    wait_until(partial(admin.counts_as_online, old, place["port"]))
    with at_work(lambda: client.set(key, "new"), lambda: client.get(key)) as failed:
        admin.ask(old, "FAILOVER", "TO", place["host"], place["port"])
        wait_until(lambda: cluster.get_address(shard) == admin.address(new))
        assert admin.primary(shard) == old  # Sentinels do not know it yet
        # They are asked, and not believed: the old one says that it is a replica.
        wait_until(lambda: "Its role is 'slave'" in caplog.text)
        assert cluster.get_address(shard) == admin.address(new)
    assert failed == []
    assert f"according to {admin.address(old)[:-2]}" in caplog.text
    assert admin.ask(new, "GET", key) == b"new"
    cluster.close()
