"""What docs/growing.md says of a node that is added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.test_readme import code_blocks

KEYS = [f"page:{n}" for n in range(200)]
BACKEND = "django_rb.cache.RBCache"


@pytest.fixture
def grown(nodes: LocalNodes) -> Iterator[tuple[RBCache, RBCache]]:
    """The cache of a process that knows three nodes, and that of one which knows four."""
    three = {host_id: nodes.hosts[host_id] for host_id in range(3)}
    with override_settings(
        RB_CLUSTERS={"before": {"HOSTS": three}, "default": {"HOSTS": nodes.hosts}},
        CACHES={
            "before": {"BACKEND": BACKEND, "LOCATION": "before"},
            "default": {"BACKEND": BACKEND},
        },
    ):
        before, after = caches["before"], caches["default"]
        assert isinstance(before, RBCache)
        assert isinstance(after, RBCache)
        yield before, after


def test_a_key_that_moves_has_two_values_until_the_old_copy_is_deleted(
    grown: tuple[RBCache, RBCache],
) -> None:
    before, after = grown
    before.set_many(dict.fromkeys(KEYS, "old"), timeout=None)
    moving = set(KEYS) - set(after.get_many(KEYS))
    assert 0.15 * len(KEYS) < len(moving) < 0.35 * len(KEYS)
    assert {after.cluster.get_host_for_key(after.make_key(key)) for key in moving} == {3}

    after.set_many(dict.fromkeys(KEYS, "new"), timeout=None)
    read = before.get_many(KEYS)
    assert {key for key, value in read.items() if value == "old"} == moving
    assert set(after.get_many(KEYS).values()) == {"new"}
    assert {key for key, n in Counter(after.iter_keys("*")).items() if n == 2} == moving

    *_, block = code_blocks("docs/growing.md", "python")
    exec(block, {})
    assert set(before.get_many(KEYS)) == set(KEYS) - moving
    assert after.get_many(KEYS) == dict.fromkeys(KEYS, "new")
