"""What must hold, whoever shares a cluster: values of the right keys, pools without doubt."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from django_rb.cache import RBCache
from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.rounds.batch import find, store
from django_rb.engine.threads import openings

_words = itertools.count()


def make_cluster(hosts: object, **pool_options: float) -> Cluster:
    """Return a cluster as the settings would make it."""
    assert isinstance(hosts, dict)
    return Cluster(hosts, router_cls=SlotRouter, pool_options=pool_options)


def make_value(key: str, size: int = 0) -> str:
    """Return a value that says whose it is."""
    return f"value of {key};" + "x" * size


def fill(cluster: Cluster, number: int = 40) -> list[bytes]:
    """Store keys that hold themselves; every node has some."""
    keys = [b"own:%d" % n for n in range(number)]
    assert {cluster.get_host_for_key(key) for key in keys} == set(cluster.nodes)
    _, failures = cluster.run(store(cluster, keys, keys, bytes))
    assert failures == []
    return keys


def look_up(cluster: Cluster, keys: list[bytes], timeout: float | None = None) -> None:
    """Fail unless every key holds itself."""
    values, failures = cluster.run(find(cluster, keys), timeout)
    assert failures == []
    assert values == dict(zip(keys, keys, strict=True))


def wrong_values(cache: RBCache, keys: Iterable[str], size: int = 0) -> dict[str, object]:
    """Return what the cache has for keys that were set with `make_value`, if it is wrong."""
    found = cache.get_many(keys)
    return {key: v for key, v in found.items() if v != make_value(key, size)}


def count_connections(cluster: Cluster) -> int:
    """Return how many connections are in the pools."""
    return sum(len(node.idle) for node in cluster._threads.pools.values())


def check_connections(cluster: Cluster) -> None:
    """Fail unless each connection in the pools answers what it is asked, and nothing else.

    A reply that is still to come would answer the wrong question.
    """
    for host_id, pool in cluster._threads.pools.items():
        idle, pool.idle[:] = pool.idle[:], []
        assert len(set(map(id, idle))) == len(idle), "a connection is in the pool twice"
        for connection in idle:
            assert not connection.reader.has_data()
            assert not connection.has_input(), "there is something to read"
            word = b"word %d of %d" % (next(_words), os.getpid())
            pool.give_back(connection)
            replies, failures = cluster.call_nodes("ECHO", word, hosts=[host_id])
            assert failures == []
            assert replies == {host_id: word}
            assert pool.take() is connection, "it was not good for use"
        pool.idle[:] = idle


def check_all_works(cluster: Cluster, keys: list[bytes]) -> None:
    """Fail unless pools, locks and nodes are as if nothing had happened."""
    check_connections(cluster)
    look_up(cluster, keys)
    cluster.close()  # so that connections have to be opened: no lock is held
    look_up(cluster, keys)
    check_connections(cluster)


def open_descriptors() -> dict[str, str]:
    """Return the open descriptors of this process, and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:  # the one that the directory is read with
            continue
    return found


def openings_under_way() -> int:
    """Return how many connections are being opened in threads."""
    return sum(known.count() for known in list(openings._all))
