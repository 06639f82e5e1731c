"""Limits that many want something of at the same time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from django_rb import clusters
from django_rb.ratelimit import Limit, Rate, limiter
from django_rb.testing import LocalNodes
from tests.ratelimit import crowd

ROOT = Path(__file__).parents[2]
COUNT = 200
# Long ones: no window ends, and no bucket fills by one, while the test runs.
RATE = Rate(COUNT, 1000 * 86400)
ALGORITHMS = ["fixed-window", "sliding-window", "token-bucket"]


def test_64_threads_in_4_processes_are_admitted_exactly_as_often_as_allowed(
    nodes: LocalNodes,
) -> None:
    limits = [[algorithm, str(RATE), algorithm] for algorithm in ALGORITHMS]
    cluster = {"HOSTS": nodes.urls, "TOPOLOGY": nodes.topology}
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", crowd.__name__),
            json.dumps({"cluster": cluster, "limits": limits}),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    hits = crowd.PROCESSES * crowd.THREADS * crowd.HITS
    assert hits > COUNT
    assert json.loads(done.stdout) == {
        f"{algorithm} {allowed}": count
        for algorithm in ALGORITHMS
        for allowed, count in ((True, COUNT), (False, hits - COUNT))
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_500_requests_of_an_event_loop_are_admitted_exactly_as_often_as_allowed(
    algorithm: str, nodes: LocalNodes
) -> None:
    rate = Rate(123, RATE.period)

    async def crowd_in() -> Counter[bool]:
        hits = (limiter.ahit("key", rate, algorithm=algorithm) for _ in range(500))
        usages = await asyncio.gather(*hits)
        assert {usage.error for usage in usages} == {None}
        await clusters["default"].aclose()
        return Counter(usage.allowed for usage in usages)

    assert asyncio.run(crowd_in()) == {True: 123, False: 377}


def test_requests_that_another_limit_refuses_take_nothing_from_any(nodes: LocalNodes) -> None:
    # Half of the requests come for a user who is used up; the others get all there is.
    limiter.hit("user:greedy", RATE, COUNT)
    shared = Limit("everybody", Rate(40, RATE.period))

    async def crowd_in() -> list[bool]:
        requests = (
            limiter.acheck([shared, Limit(f"user:{'greedy' if n % 2 else n}", RATE)])
            for n in range(200)
        )
        answers = [all(u.allowed for u in usages) for usages in await asyncio.gather(*requests)]
        # Some were refused wrongly, while the greedy user's were not given back yet.
        while (await limiter.ahit("everybody", shared.rate)).allowed:
            answers.append(True)
        await clusters["default"].aclose()
        return answers

    assert asyncio.run(crowd_in()).count(True) == 40
    assert limiter.peek("user:greedy", RATE).used == COUNT
