"""The pages about a Redis Cluster: shards, replicas, slots, and keys of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import get_cache
from django_rb.testing import LocalNodes

from .admin_site import IN_ADMIN, SETTINGS, key_url, log_in, text_of


@pytest.fixture(scope="module")
def shards() -> Iterator[LocalNodes]:
    """Two primaries with a replica each."""
    with LocalNodes(2, topology="redis-cluster", replicas=1) as nodes:
        yield nodes


@pytest.fixture
def managed(shards: LocalNodes, db: None) -> Iterator[LocalNodes]:
    """A site on a Redis Cluster, of whose nodes it has not heard yet."""
    shards.flush()
    config = {"default": {"TOPOLOGY": "redis-cluster", "HOSTS": shards.urls[:1]}}
    with override_settings(**SETTINGS, RB_CLUSTERS=config):
        yield shards
    clusters.reset()


def test_shards_replicas_and_slots(managed: LocalNodes) -> None:
    client = log_in("view")
    text = text_of(client.get(IN_ADMIN))
    assert "default Redis Cluster, 2 of 2 answered" in text
    for host in managed.hosts.values():
        shard = rf"127\.0\.0\.1:{host['port']}/0 master, \S+ \S+, 1 replica up .*? 8,192\b"
        assert re.search(shard, text)
    text = text_of(client.get(f"{IN_ADMIN}node/default.0/"))
    assert re.search(r"8,192 slots \((0-8191|8192-16383)\); the cluster is ok", text)
    assert re.search(r"Replicas .* 127\.0\.0\.1:\d+ online", text)


def test_keys_of_all_shards(managed: LocalNodes) -> None:
    client = log_in("view", "change", "delete", "flush")
    get_cache().set_many({f"key:{n}": n for n in range(60)})
    found = set(re.findall(r"key:\d+", text_of(client.get(f"{IN_ADMIN}keys/?pattern=key:*"))))
    assert found == {f"key:{n}" for n in range(60)}
    url = key_url("key/expiry/", "cache:default", b":1:key:7")
    assert "It expires in 5,000 seconds." in text_of(client.post(url, {"seconds": "5000"}))
    assert 4990 < (get_cache().ttl("key:7") or 0) <= 5000
    url = key_url("key/delete/", "cache:default", b":1:key:7")
    assert "Deleted." in text_of(client.post(url))
    match = {"where": "cache:default", "pattern": "key:[1-2]*"}
    assert "22 keys deleted." in text_of(client.post(f"{IN_ADMIN}keys/delete/", match))
    assert len(get_cache().keys()) == 60 - 1 - 22
    client.post(f"{IN_ADMIN}flush/", {"cluster": "default", "typed": "default"})
    assert get_cache().keys() == []


def test_no_node_answers(db: None) -> None:
    with LocalNodes(1, topology="redis-cluster") as nodes:
        nodes.kill(0)
        config = {"default": {"TOPOLOGY": "redis-cluster", "HOSTS": nodes.urls}}
        with override_settings(**SETTINGS, RB_CLUSTERS=config):
            client = log_in("view", "delete", "flush")
            assert "0 of 1 node answered." in text_of(client.get(IN_ADMIN))
            url = key_url("key/", "cluster:default", b"key", "")
            for page in ("keys/?pattern=key", url):
                text = text_of(client.get(IN_ADMIN + page))
                assert "No node of this Redis Cluster answers" in text
            for page in ("keys/", "flush/?cluster=default", "node/default.0/", "slow-log/"):
                text = text_of(client.get(IN_ADMIN + page))
                assert f"127.0.0.1:{nodes.hosts[0]['port']}" in text
        clusters.reset()
