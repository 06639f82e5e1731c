"""Nodes that may come to harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes


@pytest.fixture(scope="session")
def replaced_nodes() -> Iterator[LocalNodes]:
    """Use `own_nodes`."""
    with LocalNodes(4) as nodes:
        yield nodes


@pytest.fixture
def own_nodes(replaced_nodes: LocalNodes) -> Iterator[LocalNodes]:
    """Four nodes of the test's own, configured as the cluster "default".

    They are new servers in place of those of the test before. What starts and watches them
    is the same: it takes as long to start as they do.
    """
    for host_id in replaced_nodes.hosts:
        replaced_nodes.restart(host_id)
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": replaced_nodes.hosts}}):
        yield replaced_nodes
    clusters.reset()


@pytest.fixture
def hurt_nodes(own_nodes: LocalNodes) -> LocalNodes:
    """Four nodes of which 1 is killed and 2 is stopped."""
    own_nodes.kill(1)
    own_nodes.pause(2)
    return own_nodes
