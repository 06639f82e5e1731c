"""Time what near copies cost: python -m benchmarks.near

Calls with and without near copies take turns on eight nodes. The result is the CPU time of the
calling thread: the mean of the faster half of the turns, which other programs on the machine
have disturbed least.

The floor is the least that any such code has to do. For keys that are near: make the stored
keys, look them up in a dictionary, and unpickle the values. For keys that are not near: look
them up, ask for their expiry, read it, and store them in a dictionary.
"""

from __future__ import annotations

import gc
import pickle
import time
from collections.abc import Callable
from itertools import repeat

import hiredis
from django.conf import settings

from benchmarks.hits import CALLS, quicker_half, time_sync
from django_rb.cache import RBCache
from django_rb.engine.protocol.encoding import encode_each
from django_rb.testing import LocalNodes

NODES = 8
VALUE = "x" * 45  # 60 bytes, pickled
KEYS = [f"key:{number}" for number in range(100)]


def show(name: str, seconds: float, than: float) -> None:
    """Print microseconds, and how many of what it is compared with that is."""
    print(f"{name:38}{seconds * 1e6:9.2f} µs{seconds / than:9.3f}")


def time_misses(
    far: Callable[[], object], near: Callable[[], object], clear: Callable[[], object]
) -> dict[str, float]:
    """Return seconds for a call that finds nothing near, with near copies and without."""
    times: dict[str, list[float]] = {"far": [], "near": []}
    for _ in range(60):
        for name, call in (("far", far), ("near", near)):
            spent = 0.0
            for _ in range(CALLS):
                clear()
                began = time.thread_time()
                call()
                spent += time.thread_time() - began
            times[name].append(spent)
    return {name: quicker_half(samples) for name, samples in times.items()}


def time_floor() -> float:
    """Return the least seconds that copies of KEYS cost where none is near."""
    reader = hiredis.Reader()
    keys = [f":1:{key}".encode() for key in KEYS]
    shares = [keys[number::NODES] for number in range(NODES)]
    values = [[VALUE] * len(share) for share in shares]
    replies = [b":300000\r\n" * len(share) for share in shares]

    def copy_all() -> None:
        copies: dict[bytes, tuple[str, float, None]] = {}
        if any(map(copies.get, keys)):
            return
        for share, data, reply in zip(shares, values, replies, strict=True):
            encode_each(b"PTTL", share)
            reader.feed(reply)
            if min([reader.gets() for _ in share]) > 10_000:
                copies.update(zip(share, zip(data, repeat(1.0), repeat(None)), strict=False))

    return time_sync({"copies": copy_all})["copies"]


def read_copies(copies: dict[bytes, bytes]) -> dict[str, object]:
    """Do the least that a get_many of KEYS has to do where all are near."""
    made = (":1:" + "\n:1:".join(KEYS)).encode().split(b"\n")
    return {key: pickle.loads(copies[name]) for key, name in zip(KEYS, made, strict=True)}


def main() -> None:
    """Time on nodes of its own."""
    with LocalNodes(NODES) as nodes:
        settings.configure(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}})
        far, near = RBCache("default", {}), RBCache("default", {"OPTIONS": {"NEAR": {}}})
        data = pickle.dumps(VALUE)
        near.set_many(dict.fromkeys(KEYS, VALUE))
        near.get_many(KEYS)
        gc.disable()
        told = time_sync(
            {
                "unpickling": lambda: pickle.loads(data),
                "near get": lambda: near.get("key:1"),
            }
        )
        for name, seconds in told.items():
            show(name, seconds, told["near get"])
        beyond = (told["near get"] - told["unpickling"]) * 1e6
        print(f"A near get takes {beyond:.2f} µs beyond unpickling.")
        copies = {f":1:{key}".encode(): data for key in KEYS}
        told = time_sync(
            {
                "get_many of 100, without near copies": lambda: far.get_many(KEYS),
                "get_many of 100, all near": lambda: near.get_many(KEYS),
                "the floor of that": lambda: read_copies(copies),
            }
        )
        for name, seconds in told.items():
            show(name, seconds, told["get_many of 100, without near copies"])
        misses = time_misses(
            lambda: far.get("key:1"), lambda: near.get("key:1"), near.near_clear
        )
        show("get that is not near", misses["near"], misses["far"])
        misses = time_misses(
            lambda: far.get_many(KEYS), lambda: near.get_many(KEYS), near.near_clear
        )
        show("get_many of 100, none near", misses["near"], misses["far"])
        show("the floor of that", misses["far"] + time_floor(), misses["far"])
        far.cluster.close()


if __name__ == "__main__":
    main()
