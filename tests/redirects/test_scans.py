"""Scans and migrations that meet a demoted primary: no key is passed over, and none is lost."""

from __future__ import annotations

from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.management.output import Progress
from django_rb.management.scanning import Nodes
from django_rb.testing import LocalNodes
from tests.helpers import wait_until
from tests.redirects.conftest import OPTIONS, SECONDS, Admin

KEYS = [b"key:%d" % number for number in range(3000)]


@pytest.fixture
def filled(admin: Admin) -> Admin:
    for key in KEYS:
        admin.ask(0, "SET", key, "value")
    wait_until(lambda: admin.ask(1, "DBSIZE") == len(KEYS), SECONDS)
    return admin


def demote(admin: Admin) -> None:
    """Have node 1 be the primary of node 0, and have everything."""
    admin.swap(0, 1)
    wait_until(partial(admin.has_link, 0), SECONDS)


def test_a_scan_goes_on_at_the_successor(filled: Admin, cluster: Cluster) -> None:
    found = cluster.get_routing_client().scan_iter(count=100)
    seen = {next(found) for _ in range(1000)}
    demote(filled)
    assert seen.union(found) >= set(KEYS)
    assert cluster.get_address(0) == filled.address(1)


def test_a_scan_of_a_command_goes_on_at_the_successor(filled: Admin, cluster: Cluster) -> None:
    nodes = Nodes({"default": cluster})
    pages = nodes.scan(b"*", nodes.sizes(), Progress(None, "", None, ""), page_size=100)
    seen = set(next(pages)["default", 0])
    demote(filled)
    for page in pages:
        seen.update(*page.values())
    assert seen == set(KEYS)
    assert not nodes.failures


def test_a_migration_does_not_follow(filled: Admin, shard: LocalNodes) -> None:
    """The successor may be a node of the new layout by another name: keys would be deleted."""
    demote(filled)
    new: dict[str, Any] = {**shard.address(1), "host": "localhost"}
    sides: dict[str, Any] = {"old": shard.hosts, "new": [new]}
    config = {name: {"HOSTS": side, "POOL_OPTIONS": OPTIONS} for name, side in sides.items()}
    with override_settings(RB_CLUSTERS=config):
        with pytest.raises((CommandError, SystemExit)):
            call_command(
                "rb_migrate",
                "old",
                "new",
                delete=True,
                interactive=False,
                stdout=StringIO(),
                stderr=StringIO(),
            )
        clusters.reset()
    assert filled.ask(1, "DBSIZE") == len(KEYS)
