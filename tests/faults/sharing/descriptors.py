"""A process that has no descriptor left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from django_rb.cache import RBCache
from tests.faults.sharing.programs import main
from tests.helpers import make_cache

KEYS = [f"key:{number}" for number in range(40)]


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    fillers = []
    with contextlib.suppress(OSError):
        while True:
            fillers.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for filler in fillers:
            os.close(filler)


def all_taken() -> str:
    strict, lenient = make_cache(), make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
    cluster = strict.cluster
    values = dict.fromkeys(KEYS, "value")
    strict.set_many(values)

    def check_everything() -> None:
        assert strict.get(KEYS[0]) == "value"
        strict.set(KEYS[0], "value")
        assert strict.get_many(KEYS) == values
        assert strict.set_many(values) == []
        assert strict.add(KEYS[0], "other") is False
        with cluster.map() as client:
            known = [client.exists(strict.make_key(key)) for key in KEYS]
        assert [promise.value for promise in known] == [1] * len(KEYS)

    with no_free_descriptor():  # connected nodes need none
        check_everything()

    cluster._threads.pools[1].close_idle()
    with no_free_descriptor():  # one node cannot be connected to
        found = lenient.get_many(KEYS)
        assert {cluster.get_host_for_key(strict.make_key(key)) for key in found} == {0, 2, 3}
        assert len(found) > len(KEYS) / 2
        failing = next(key for key in KEYS if key not in found)
        check_refused(strict, failing)
        assert lenient.get(failing, "default") == "default"
        lenient.set(failing, "value")
        assert failing in lenient.set_many(values)
    check_everything()

    strict.close()
    cluster.close()
    with no_free_descriptor():  # none can
        for key in KEYS:
            check_refused(strict, key)
        assert lenient.get_many(KEYS) == {}
        assert {health.state for health in cluster.health().values()} == {"up"}
    check_everything()

    async def on_a_loop() -> None:
        assert await strict.aget_many(KEYS) == values
        with no_free_descriptor():
            assert await strict.aget_many(KEYS) == values
            assert await strict.aget(KEYS[0]) == "value"
        await cluster.aclose()
        with no_free_descriptor():
            assert await lenient.aget_many(KEYS) == {}
            assert await lenient.aget(KEYS[0]) is None
            assert {health.state for health in cluster.health().values()} == {"up"}
        assert await strict.aget_many(KEYS) == values
        await cluster.aclose()

    asyncio.run(on_a_loop())
    return "done"


def check_refused(cache: RBCache, key: str) -> None:
    with pytest.raises(redis.ConnectionError, match=r"Too many open files.*\[node "):
        cache.get(key)


if __name__ == "__main__":
    main(all_taken)
