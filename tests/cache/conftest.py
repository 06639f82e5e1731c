from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache


@pytest.fixture
def cache(nodes: LocalNodes) -> RBCache:
    """A cache with Django's defaults over the four nodes."""
    return make_cache()


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    """The four nodes, asked past the cache."""
    with Servers(nodes.hosts) as servers:
        yield servers
