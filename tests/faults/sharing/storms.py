"""A process whose signal handler raises again and again, at any time."""

from __future__ import annotations

import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import cast

from django.core.cache import cache as default_cache

from django_rb.cache import RBCache
from tests.faults.sharing.programs import main

SECONDS = 2.5


class Alarm(Exception):
    """What the handler raises, as Celery's soft time limit does."""


def over_every_operation() -> dict[str, int]:
    """Return how often each operation was broken off."""
    cache = cast(RBCache, default_cache)
    client = cache.cluster.get_routing_client()
    keys = [f"key:{number}" for number in range(40)]
    numbers = range(2000)
    operations: dict[str, Callable[[], object]] = {
        "touch": lambda: cache.touch("key:1", 300),
        "expire": lambda: cache.expire("key:1", timeout=300),
        "set": lambda: cache.set("key:1", 1, 300),
        "get": lambda: cache.get("key:1"),
        "incr": lambda: cache.get_or_set("count", 0) or cache.incr("count"),
        "set_many": lambda: cache.set_many(dict.fromkeys(keys, 1), 300),
        "get_many": lambda: cache.get_many(keys),
        "delete_many": lambda: cache.delete_many(keys),
        "rpush": lambda: (client.rpush("list", *numbers), client.delete("list")),
        "lock": lambda: cache.lock("door", timeout=1),
    }
    # Python loses what is raised in a destructor, and logging what is raised in a handler.
    sys.unraisablehook = lambda lost: None
    logging.raiseExceptions = False
    rng = random.Random(7)
    broken_off = dict.fromkeys(operations, 0)

    def raise_alarm(signum: int, frame: object) -> None:
        raise Alarm

    signal.signal(signal.SIGALRM, raise_alarm)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for name, operation in operations.items():
            try:  # one signal at most, and none behind this block
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.5e-3))
                operation()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                broken_off[name] += 1
    assert cache.get_or_set("whole", "value") == "value"
    assert cache.get_many(["whole"]) == {"whole": "value"}
    return broken_off


if __name__ == "__main__":
    main(over_every_operation)
