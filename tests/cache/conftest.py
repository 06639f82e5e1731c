from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests import helpers
from tests.cache.awaited import Awaited, Loops
from tests.helpers import Servers, make_cache


@pytest.fixture(autouse=True, params=["sync", "async"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test of the cache runs twice: with its methods, and with their awaited twins.

    Except what is marked `only_sync`.
    """
    face: str = request.param
    if face == "sync":
        yield face
        return
    loops = Loops()
    monkeypatch.setattr(Awaited, "loops", loops, raising=False)
    monkeypatch.setattr(helpers, "cache_class", Awaited)
    yield face
    loops.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [
        item
        for item in items
        if not (
            item.get_closest_marker("only_sync")
            and getattr(item, "callspec", None)
            and item.callspec.params.get("face") == "async"  # type: ignore[attr-defined]
        )
    ]


@pytest.fixture
def cache(nodes: LocalNodes) -> RBCache:
    """A cache with Django's defaults over the four nodes."""
    return make_cache()


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    """The four nodes, asked past the cache."""
    with Servers(nodes.hosts) as servers:
        yield servers
