"""Caches of a layout before, and of the one after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.helpers import make_cache

KEYS = [f"page:{number}" for number in range(60)]

# Which of the four nodes each layout has.
LAYOUTS = {"grown": ([0, 1, 2], [0, 1, 2, 3]), "replaced": ([0, 1], [2, 3])}


class Caches(NamedTuple):
    """Three views of the same keys.

    Attributes:
        before: on the old layout.
        after: on the new one, warmed from the old one.
        plain: on the new one, and no more.
    """

    before: RBCache
    after: RBCache
    plain: RBCache

    @property
    def moving(self) -> list[str]:
        """The keys whose owner changes."""
        return [key for key in KEYS if self.is_moving(key)]

    def is_moving(self, key: str) -> bool:
        """Return whether the owner of a key changes."""
        made = f":1:{key}"
        clusters_ = [cache.cluster for cache in (self.before, self.plain)]
        before, after = (c.get_address(c.get_host_for_key(made)) for c in clusters_)
        return before != after


def make_caches(**options: Any) -> Caches:
    """Return caches of the layouts that the settings have; only `after` has a DEADLINE."""
    warming = {"DEADLINE": 4.0, **options, "WARM_FROM": "old"}
    options.pop("DEADLINE", None)
    return Caches(
        make_cache("old", OPTIONS=options),
        make_cache(OPTIONS=warming),
        make_cache(OPTIONS=options),
    )


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, nodes: LocalNodes) -> Iterator[str]:
    """The settings of a site whose layout has changed."""
    old, new = (
        {number: nodes.hosts[number] for number in some} for some in LAYOUTS[request.param]
    )
    with override_settings(RB_CLUSTERS={"old": {"HOSTS": old}, "default": {"HOSTS": new}}):
        yield request.param
    clusters.reset()


@pytest.fixture
def caches(layout: str) -> Caches:
    return make_caches()
