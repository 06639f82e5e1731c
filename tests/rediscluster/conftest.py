"""A Redis Cluster for the whole run, as it was made for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_rb.engine import Cluster
from django_rb.engine.topology import look_times
from django_rb.testing import LocalNodes
from tests.rediscluster.admin import Admin
from tests.rediscluster.peers import Liars
from tests.transports import awaited


@pytest.fixture(scope="session")
def shared_redis_cluster() -> Iterator[LocalNodes]:
    """Three primaries; use `redis_cluster`, which cleans up."""
    with LocalNodes(3, topology="redis-cluster") as nodes:
        yield nodes


@pytest.fixture(params=["threads", "loops"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests run in threads, and once more on event loops."""
    if request.param == "threads":
        yield request.param
    else:
        with awaited():
            yield request.param


@pytest.fixture
def redis_cluster(shared_redis_cluster: LocalNodes) -> LocalNodes:
    """Three empty primaries. Give slots back that you move."""
    shared_redis_cluster.flush()
    return shared_redis_cluster


@pytest.fixture
def admin(redis_cluster: LocalNodes) -> Iterator[Admin]:
    with Admin(redis_cluster) as admin:
        yield admin


@pytest.fixture
def new_cluster(redis_cluster: LocalNodes) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters that know nothing yet."""
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster(redis_cluster.hosts, topology="redis-cluster"))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def liars(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liars]:
    """Four peers, that may be asked anew at once."""
    monkeypatch.setattr(look_times, "LEAST_SECONDS", 0.01)
    with Liars(4) as liars:
        yield liars


@pytest.fixture
def make(liars: Liars) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make_cluster(*seeds: int, **options: Any) -> Cluster:
        hosts = [liars.host(seed) for seed in seeds or (0, 1)]
        made.append(Cluster(hosts, topology="redis-cluster", **options))
        return made[-1]

    yield make_cluster
    for cluster in made:
        cluster.close()
