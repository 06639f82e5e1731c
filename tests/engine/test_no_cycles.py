"""What a call leaves goes at once: large replies do not wait for Python's collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache

from django_rb import clusters
from django_rb.testing import LocalNodes
from tests.helpers import collect_garbage

NAMES = [f"name{number}" for number in range(40)]
VALUES = dict.fromkeys(NAMES, "x" * 100)


def in_pieces(is_kept: bool) -> None:
    with clusters["default"].map() as client:
        promises = [client.get(name) for name in NAMES] if is_kept else []
        client.set("one", 1)
    assert len(promises) == len(NAMES) * is_kept


def everywhere() -> None:
    with clusters["default"].all() as client:
        client.dbsize()


CALLS: dict[str, Callable[[], Any]] = {
    "get": lambda: cache.get("name1"),
    "get_many": lambda: cache.get_many(NAMES),
    "set": lambda: cache.set("name1", 1),
    "set_many": lambda: cache.set_many(VALUES),
    "delete_many": lambda: cache.delete_many(NAMES),
    "touch": lambda: cache.touch("name1"),
    "incr": lambda: cache.incr("count"),
    "map": lambda: in_pieces(is_kept=True),
    "a map with nothing that is read": lambda: in_pieces(is_kept=False),
    "all": everywhere,
    "routing client": lambda: clusters["default"].get_routing_client().mget("a", "a"),
}
AWAITED: dict[str, Callable[[], Any]] = {
    "aget": lambda: cache.aget("name1"),
    "aget_many": lambda: cache.aget_many(NAMES),
    "aset": lambda: cache.aset("name1", 1),
    "aset_many": lambda: cache.aset_many(VALUES),
    "aincr": lambda: cache.aincr("count"),
}


def rest() -> list[str]:
    """Return the kinds of the package's objects that only the collector finds."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        found = [type(left) for left in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return sorted({kind.__name__ for kind in found if kind.__module__.startswith("django_rb")})


@pytest.fixture
def uncollected(nodes: LocalNodes) -> Any:
    """Nodes, and no collector."""
    cache.set_many({**VALUES, "count": 1})
    collect_garbage()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_threads(call: Callable[[], Any], uncollected: None) -> None:
    call()  # opens connections
    gc.collect()
    call()
    assert rest() == []


@pytest.mark.parametrize("call", AWAITED.values(), ids=AWAITED)
def test_event_loops(call: Callable[[], Any], uncollected: None) -> None:
    async def main() -> list[str]:
        await call()
        gc.collect()
        await call()
        return rest()

    assert asyncio.run(main()) == []
