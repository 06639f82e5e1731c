"""What only pytest has: fixtures and the marker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes

from ..book import greet, sign

NAMES = [f"guest{n}" for n in range(60)]


def test_cluster(rb_cluster: Cluster) -> None:
    assert rb_cluster is clusters["default"]
    assert sign("ann") == 1


def test_cluster_again(rb_cluster: Cluster) -> None:
    assert sign("ann") == 1


@pytest.mark.rb_no_flush
def test_it_goes_on_where_the_one_before_ended() -> None:
    assert sign("ann") == 2


def test_that_is_over() -> None:
    assert sign("ann") == 1


@pytest.fixture(scope="class")
def _filled() -> None:
    """Before the first test of a class, nodes may have been flushed or not."""
    sign("ann")


@pytest.mark.rb_no_flush
@pytest.mark.usefixtures("_filled")
class TestFilledOnce:
    def test_first(self) -> None:
        assert sign("ann") == 2

    def test_second(self) -> None:
        assert sign("ann") == 3


@pytest.mark.usefixtures("_filled")
class TestWhatWiderFixturesStoreIsFlushed:
    def test_first(self) -> None:
        assert sign("ann") == 1


class TestAnotherCluster:
    @pytest.fixture
    def rb_alias(self) -> str:
        return "archive"

    def test_it(self, rb_cluster: Cluster, rb_nodes: LocalNodes) -> None:
        assert rb_cluster is clusters["archive"]
        assert list(rb_nodes.hosts) == [0]


def test_faults(rb_cluster: Cluster, rb_nodes: LocalNodes) -> None:
    greet(NAMES)
    rb_nodes.kill(1)
    _, failures = rb_cluster.call_nodes("PING")
    assert [failure.host_id for failure in failures] == [1]


def test_nodes_are_well_again(rb_cluster: Cluster) -> None:
    assert rb_cluster.call_nodes("DBSIZE") == ({0: 0, 1: 0, 2: 0}, [])


def test_what_was_sent(
    rb_cluster: Cluster,
    rb_capture: Callable[..., Any],
    rb_assert_num_batches: Callable[..., Any],
    rb_assert_nodes_touched: Callable[..., Any],
) -> None:
    owner = rb_cluster.get_host_for_key(b":1:key")
    with rb_assert_num_batches(1), rb_assert_nodes_touched({owner}), rb_capture() as captured:
        cache.get("key")
    assert captured.commands == {owner: [("GET", b":1:key")]}
