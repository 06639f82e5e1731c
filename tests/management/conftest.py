"""Nodes that may come to harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes


@pytest.fixture
def own_nodes() -> Iterator[LocalNodes]:
    """Four nodes of the test's own, configured as the cluster "default"."""
    with LocalNodes(4) as nodes:
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}}):
            yield nodes
        clusters.reset()


@pytest.fixture
def hurt_nodes(own_nodes: LocalNodes) -> LocalNodes:
    """Four nodes of which 1 is killed and 2 is stopped."""
    own_nodes.kill(1)
    own_nodes.pause(2)
    return own_nodes
