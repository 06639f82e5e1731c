"""Processes whose threads all ask for one value; run as a program, it prints what happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.pool import ThreadPool
from time import monotonic, sleep
from typing import Any

import django
from django.conf import settings

from django_rb.cache import RBCache

FORKING = multiprocessing.get_context("fork")  # so that Django is imported once


def compute(seconds: float, began: Any) -> str:
    number = RBCache("default", {}).incr("runs", ignore_key_check=True)
    began.set()
    sleep(seconds)
    return f"computed {number}"


def ask(threads: int, seconds: float, lock: float, began: Any, found: Any) -> None:
    """Ask in some threads at once, and tell what they were given."""
    cache, together = RBCache("default", {}), threading.Barrier(threads)

    def get(_number: int) -> Any:
        together.wait()
        return cache.get_or_set("key", lambda: compute(seconds, began), 60, lock=lock)

    with ThreadPool(threads) as pool:
        found.put(pool.map(get, range(threads)))


def start(*args: Any) -> multiprocessing.process.BaseProcess:
    process = FORKING.Process(target=ask, args=args, daemon=True)
    process.start()
    return process


def compute_once() -> Any:
    """200 threads in 4 processes want the same."""
    began, found = FORKING.Event(), FORKING.Queue()
    for _ in range(4):
        start(50, 0.3, 10, began, found)
    return [found.get(timeout=30) for _ in range(4)]


def be_killed() -> Any:
    """Whoever computes is killed; who waits in other processes needs a successor."""
    lock, found = 1.0, FORKING.Queue()
    first, second = FORKING.Event(), FORKING.Event()
    killed = start(1, 60, lock, first, found)
    assert first.wait(30)
    began = monotonic()
    for _ in range(2):
        start(10, 0.02, lock, second, found)
    os.kill(killed.pid or 0, signal.SIGKILL)
    assert second.wait(30)
    return monotonic() - began, [found.get(timeout=30) for _ in range(2)]


if __name__ == "__main__":
    settings.configure(RB_CLUSTERS={"default": json.loads(sys.argv[2])})
    django.setup()
    print(json.dumps(globals()[sys.argv[1]]()))
