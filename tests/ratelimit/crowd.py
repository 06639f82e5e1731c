"""Processes and threads that all want something of the same limits.

``python -m tests.ratelimit.crowd '{"cluster": …, "limits": [[key, rate, algorithm], …]}'`` says
as JSON how many were allowed of each limit, and how many were not.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from collections import Counter
from typing import Any

import django
from django.conf import settings

PROCESSES = 4
THREADS = 16  # in each
HITS = 5  # of each thread and limit


def work(limits: list[list[str]]) -> Counter[str]:
    """Hit all limits in many threads at once; return how often each was (dis)allowed."""
    from django_rb.ratelimit import limiter

    ready = threading.Barrier(THREADS)
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def run() -> None:
        ready.wait()
        for _ in range(HITS):
            for key, rate, algorithm in limits:
                usage = limiter.hit(key, rate, algorithm=algorithm)
                assert usage.error is None, usage.error
                with lock:
                    counts[f"{key} {usage.allowed}"] += 1

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def work_in_child(limits: list[list[str]], ready: Any, results: Any) -> None:
    ready.wait()
    results.put(work(limits))


def main() -> None:
    asked = json.loads(sys.argv[1])
    patient = {"socket_timeout": 30.0, "socket_connect_timeout": 30.0}
    settings.configure(RB_CLUSTERS={"default": {**asked["cluster"], "POOL_OPTIONS": patient}})
    django.setup()
    forking = multiprocessing.get_context("fork")  # so that Django is imported once
    ready, results = forking.Barrier(PROCESSES), forking.SimpleQueue()
    children = [
        forking.Process(target=work_in_child, args=(asked["limits"], ready, results))
        for _ in range(PROCESSES)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    counts = sum((Counter(results.get()) for _ in children), Counter[str]())
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
